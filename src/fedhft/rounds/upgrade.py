"""Records that earlier releases wrote, in today's form.

Before whole plans were pinned, a participant held only its tier, depth and density; the rest of its plan was read from
the job each time. Here the job completes such a record, once, when the round is read.
"""

from __future__ import annotations

import json
from typing import Any

from fedhft.job import JobSpec
from fedhft.plan import AdapterPlan
from fedhft.records import RoundRecord
from fedhft.rounds.opening import for_round

_PARTS = ("tier", "depth", "density")


def with_plans(record: str | bytes, spec: JobSpec) -> RoundRecord:
    """A stored RoundRecord (JSON) without plans, completed from its job.

    Raises KeyError or ValueError when no release wrote such a record.
    """
    raw: dict[str, Any] = json.loads(record)
    participants = {}
    for client, part in raw["participants"].items():
        plan = AdapterPlan(
            tier=part["tier"],
            depth=part["depth"],
            density=part["density"],
            epochs=spec.training.epochs,
            max_steps=spec.training.max_steps,
            train_a=True,
            train_b=True,
        )
        kept = {name: value for name, value in part.items() if name not in _PARTS}
        participants[client] = {**kept, "plan": for_round(plan, spec, raw["number"], raw["evaluation"])}
    return RoundRecord.model_validate({**raw, "participants": participants})
