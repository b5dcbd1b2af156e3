"""Rounds that were opened before plans were pinned whole."""

from __future__ import annotations

import json
from typing import Any

from fedhft.job import parse_job
from fedhft.rounds.upgrade import with_plans

OLD: dict[str, Any] = {
    "number": 2, "phase": "collecting", "evaluation": False, "base_version": 1, "membership_version": 0, "clusters": 1,
    "opened_ms": 5, "deadline_ms": 90, "extensions": 0, "target": 1, "quorum": 1, "pinned": [],
    "participants": {"a": {"tier": "small", "samples": 7, "depth": 2, "density": 0.5, "memberships": [1.0]}},
}  # fmt: skip


def test_a_participant_of_an_earlier_release_gets_the_plan_it_was_trained_by() -> None:
    spec = parse_job(
        {
            "name": "j",
            "model": {"name": "m"},
            "task": {"labels": ["a", "b"]},
            "method": {"trained": "alternate"},
            "training": {"epochs": 3, "max_steps": 9},
        }
    )
    record = with_plans(json.dumps(OLD), spec)
    part = record.participants["a"]
    assert (part.samples, part.memberships, record.deadline_ms) == (7, (1.0,), 90)
    plan = part.plan
    assert (plan.tier, plan.depth, plan.density, plan.epochs, plan.max_steps) == ("small", 2, 0.5, 3.0, 9)
    assert (plan.train_a, plan.train_b) == (True, False)  # round 2 of an alternating method
    final = with_plans(json.dumps({**OLD, "evaluation": True}), spec).participants["a"].plan
    assert (final.train_a, final.train_b) == (True, True)
