"""Whether a plan can fit at all: the least memory it needs, against what the agent may use.

    least(plan) = weights in memory + 12 bytes per trained value     (a float32 gradient and AdamW's two moments)

Activations, the tokenizer and the interpreter come on top, so a plan that passes may still be tight; one that fails
cannot run.
"""

from __future__ import annotations

from fedhft.adapter import AdapterSchema
from fedhft.errors import ErrorCode, FedhftError
from fedhft.plan import AdapterPlan

VALUE_BYTES = 4
"""A base model's values are float32 in memory, whatever they are in its files."""
OPTIMISER_BYTES = 12
"""Bytes per trained value: gradient and two moments, float32 each."""


def trained_values(plan: AdapterPlan, schema: AdapterSchema) -> int:
    """Float values that have gradients and optimiser state under a plan."""
    return sum(plan.rows_allowed(key, schema) * schema.shape(key)[1] for key in schema.keys if plan.trains(key, schema))


def streams(weights_bytes: int, memory_bytes: int, depth: int) -> bool:
    """Whether an agent reads frozen layers when they are run, and has only layers in training in memory.

    So it does when the whole model (`weights_bytes`) takes more than half of a stated memory (0: not stated) and the
    depth, of adapters counted from the output, is not all layers (0).
    """
    return 0 < memory_bytes < 2 * weights_bytes and depth > 0


def check_plan_fits(plan: AdapterPlan, schema: AdapterSchema, weights_bytes: int, memory_bytes: int) -> None:
    """Raises FedhftError(PLAN_TOO_LARGE), naming the figures. memory_bytes = 0 is not stated: every plan fits."""
    optimiser = OPTIMISER_BYTES * trained_values(plan, schema)
    if memory_bytes and weights_bytes + optimiser > memory_bytes:
        raise FedhftError.field(
            ErrorCode.PLAN_TOO_LARGE, "--memory", memory_bytes,
            f"the plan of tier {plan.tier} (depth {plan.depth}, density {plan.density:g}) needs at least "
            f"{weights_bytes} bytes for the model's weights and {optimiser} for gradients and optimiser",
            "give the agent more memory or ask for a smaller tier with --tier",
        )  # fmt: skip
