"""What a plan takes of an agent's memory before anything is measured, and how a plan that does not fit is put.

What passes take is measured on the device: see `planning.peak`.
"""

from __future__ import annotations

from fedhft.adapter import AdapterSchema
from fedhft.plan import AdapterPlan

VALUE_BYTES = 4
"""A base model's values are float32 in memory, whatever they are in its files."""
PROCESS_BYTES = 256 << 20
"""An agent with its libraries, and no model."""


def trained_values(plan: AdapterPlan, schema: AdapterSchema) -> int:
    """Float values that have gradients and optimiser state under a plan."""
    return sum(
        plan.rows_allowed(key, schema) * plan.shape(key, schema)[1] for key in schema.keys if plan.trains(key, schema)
    )


def streams(weights_bytes: int, memory_bytes: int) -> bool:
    """Whether an agent reads frozen layers when they are run, and has only layers in training in memory.

    So it does when the whole model (`weights_bytes`) takes more than half of what a stated memory (0: not stated)
    leaves beside the process.
    """
    return 0 < memory_bytes < PROCESS_BYTES + 2 * weights_bytes
