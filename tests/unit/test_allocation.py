"""Allocation by capacity: whose plan is made from what, when plans are made anew, and what they become on the wire."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedhft.errors import FedhftError
from fedhft.job import JobSpec, parse_job
from fedhft.plan import AdapterPlan
from fedhft.planning.allocation import Allocated, Candidate, allocate, bytes_per_value, for_evaluation, within, work_of
from fedhft.planning.estimates import Capacity
from fedhft.planning.planned import Bound, Planned
from tests.unit.test_rounds_opening import SCHEMA

FAST = Capacity(
    forward=0.02, backward=0.02, fixed=0.5, scoring=4.0, up=1e6, down=1e6, keeps=True, reports=2,
    kept=(1.0, 1.0, 1.0, 1.0), scored_at=(1, 2, 3, 4),
)  # fmt: skip
TIER = AdapterPlan("standard", 4, 1.0, 1.0, 0, True, True)
NAMES = tuple("abcdefgh")
CANDIDATES = {name: Candidate(100.0, 12, 12, TIER) for name in NAMES}


def spec(**changes: Any) -> JobSpec:
    raw: dict[str, Any] = {
        "name": "j",
        "model": {"name": "m"},
        "task": {"labels": ["a", "b"]},
        "adapter": {"rank": 2},
        "method": "legend",
        "planning": {"every": 3, "sits_out": 2},
        "rounds": {"total": 10},
    }
    return parse_job({**raw, **changes})


def made(number: int = 1, previous: Allocated | None = None, **changed: Capacity) -> Allocated:
    found = allocate(spec(), SCHEMA, number, CANDIDATES, {**dict.fromkeys(NAMES, FAST), **changed}, previous)
    assert found is not None
    return found


def test_nobody_measured_is_not_planned() -> None:
    assert allocate(spec(), SCHEMA, 1, CANDIDATES, {}, None) is None
    assert allocate(spec(), SCHEMA, 1, CANDIDATES, {"a": Capacity(keeps=True)}, None) is None


def test_one_that_was_not_measured_trains_what_its_tier_says() -> None:
    found = allocate(spec(), SCHEMA, 1, CANDIDATES, {"a": FAST}, None)
    assert found is not None
    assert set(found.plans) == {"a"}
    assert within(spec(), CANDIDATES["b"], None) == TIER


def test_plans_stay_until_there_is_a_reason() -> None:
    first = made(1)
    assert first.reason == "the first"
    assert made(2, first) == replace(first, number=2)
    later = made(4, first)
    assert (later.made, later.plans) == (4, first.plans)


def test_waiting_is_that_of_the_round_and_not_of_the_plans() -> None:
    slow = replace(FAST, forward=0.03, backward=0.03, deepest=1)
    allocated = made(1, None, h=slow)
    seconds = [allocated.plan_of(name).seconds for name in NAMES]  # type: ignore[union-attr]
    assert allocated.turns
    assert allocated.waiting == pytest.approx(1 - sum(seconds) / len(seconds) / max(seconds))
    assert allocated.waiting < replace(allocated, turns={}).waiting


def test_asked_again_for_a_round_the_answer_is_the_same() -> None:
    hopeless = replace(FAST, forward=50.0, backward=50.0)
    previous = None
    for number in range(1, 6):
        now = made(number, previous, h=hopeless)
        assert made(number, now, h=hopeless) == now
        previous = now


@pytest.mark.parametrize(
    ("previous", "reason"),
    [
        (replace(made(1), stale="a became much faster or slower"), "a became much faster or slower"),
        (replace(made(1), plans={name: made(1).plans[name] for name in NAMES[1:]}), "a has no plan yet"),
        (
            replace(made(1), plans={**made(1).plans, **dict.fromkeys("abc", Planned(0, 0, False, 0.0, Bound.ABSENT))}),
            "too few of those asked would take part",
        ),
    ],
)
def test_the_reason_for_new_plans_is_named(previous: Allocated, reason: str) -> None:
    assert made(2, previous).reason == reason


def test_less_memory_than_a_plan_needs_is_a_reason() -> None:
    first = made(1)
    assert first.plans["a"].depth > 1
    second = made(2, first, a=replace(FAST, deepest=1))
    assert second.reason == "a has less memory than its plan needs"
    assert second.plans["a"].depth == 1


def test_who_sits_out_is_counted_and_then_has_its_turn_while_others_do_what_they_did() -> None:
    hopeless = replace(FAST, forward=50.0, backward=50.0)
    first = made(1, None, h=hopeless)
    assert first.absent == {"h": 1}
    second = made(2, first, h=hopeless)
    assert second.absent == {"h": 2}
    third = made(3, second, h=hopeless)
    assert (third.absent, set(third.turns)) == ({}, {"h"})
    turn = third.plan_of("h")
    assert turn is not None
    assert (turn.depth, turn.steps, turn.bound) == (1, 3, Bound.TURN)
    assert third.plans == first.plans
    assert third.horizon == first.horizon
    fourth = made(4, third, h=hopeless)
    assert (fourth.turns, fourth.absent) == ({}, {"h": 1})


def test_while_rows_pass_the_frozen_layers_rounds_are_no_longer_than_planned() -> None:
    slow = replace(FAST, forward=0.03, backward=0.03, deepest=1, kept=(), scored_at=())
    first = made(1, None, h=slow)
    turn, plan = first.turns["h"], first.plans["h"]
    assert set(first.turns) == {"h"}
    assert (turn.bound, turn.depth) == (Bound.FILLING, plan.depth)
    assert turn.steps < plan.steps
    assert turn.seconds <= first.horizon
    kept = (1.0,) * plan.depth
    later = made(2, first, h=replace(slow, kept=kept, scored_at=(plan.depth,)))
    assert later.turns["h"].steps > plan.steps
    assert later.turns["h"].seconds <= first.horizon
    not_more = replace(slow, kept=kept, scored_at=(plan.depth,), most_steps=plan.steps)
    assert made(2, first, h=not_more).turns == {}


def test_who_is_not_asked_neither_sits_out_nor_takes_part() -> None:
    hopeless = {name: replace(FAST, forward=50.0, backward=50.0) if name == "h" else FAST for name in NAMES}
    first = allocate(spec(), SCHEMA, 1, CANDIDATES, hopeless, None)
    others = {name: one for name, one in CANDIDATES.items() if name != "h"}
    second = allocate(spec(), SCHEMA, 2, others, hopeless, first)
    assert second is not None
    assert second.absent == {"h": 1}
    third = allocate(spec(), SCHEMA, 3, CANDIDATES, hopeless, second)
    assert third is not None
    assert third.absent == {"h": 2}


def test_nobody_sits_out_the_first_round_for_what_a_trial_said() -> None:
    hopeless = replace(FAST, forward=50.0, backward=50.0, reports=1)
    first = made(1, None, h=hopeless)
    assert (first.absent, set(first.turns)) == ({}, {"h"})
    assert made(2, first, h=hopeless).absent == {"h": 1}  # nor is it waited for again because it told nothing


def test_with_few_layers_in_reach_there_is_a_plan_all_the_same() -> None:
    shallow = {name: Candidate(100.0, 12, 12, replace(TIER, depth=1)) for name in NAMES}
    slow = {name: replace(FAST, forward=0.01 * (1 + place)) for place, name in enumerate(NAMES)}
    found = allocate(spec(), SCHEMA, 1, shallow, slow, None)
    assert found is not None
    assert found.rounds < 1000
    assert len({plan.steps for plan in found.plans.values()}) > 1


def test_a_sampled_fleet_keeps_its_plans() -> None:
    known = dict.fromkeys(NAMES, FAST)
    previous = None
    for number, asked in enumerate(("abcd", "efgh", "abef", "cdgh"), 1):
        previous = allocate(spec(), SCHEMA, number, {name: CANDIDATES[name] for name in asked}, known, previous)
        assert previous is not None
    assert previous.made == 2


def test_a_plan_keeps_to_its_tier() -> None:
    shallow = {**CANDIDATES, "a": Candidate(100.0, 12, 12, replace(TIER, depth=2, density=0.25))}
    found = allocate(spec(), SCHEMA, 1, shallow, dict.fromkeys(NAMES, replace(FAST, forward=1e-5, backward=1e-5)), None)
    assert found is not None
    plan = within(spec(), shallow["a"], found.plans["a"])
    assert plan == replace(TIER, depth=2, density=0.25)


def test_steps_become_a_cap_only_where_they_are_fewer() -> None:
    candidate = CANDIDATES["a"]
    fewer = within(spec(), candidate, Planned(3, 5, True, 1.0, Bound.HORIZON))
    whole = within(spec(), candidate, Planned(3, 12, True, 1.0, Bound.HORIZON))
    more = within(spec(), candidate, Planned(3, 18, True, 1.0, Bound.NOTHING))
    assert more == replace(TIER, depth=3, epochs=1.5)
    assert fewer == replace(TIER, depth=3, max_steps=5)
    assert whole == replace(TIER, depth=3)


def test_nobody_sits_out_the_final_evaluation() -> None:
    absent = Planned(0, 0, False, 0.0, Bound.ABSENT)
    assert within(spec(), CANDIDATES["a"], absent) is None
    capacities = {"a": replace(FAST, deepest=2), "b": FAST}
    planned = replace(made(1), plans={"a": absent, "b": Planned(1, 5, True, 1.0, Bound.HORIZON)})
    found = for_evaluation({name: CANDIDATES[name] for name in "abc"}, capacities, planned)
    plans = {name: within(spec(), CANDIDATES[name], one, evaluation=True) for name, one in found.items()}
    assert plans == {"a": replace(TIER, depth=2, max_steps=3), "b": replace(TIER, max_steps=5), "c": TIER}


def test_updates_and_what_is_fetched_grow_with_depth() -> None:
    work = work_of(spec(wire={"up": "fp32", "down": "bf16"}), SCHEMA, 5)
    layer, head = 4 * 2 * (8 + 12), 4 * (2 * 8 + 2)
    assert work.up_bytes.tolist() == [head + layer * depth for depth in (1, 2, 3, 4)]
    assert work.down_bytes.tolist() == [(head + layer * depth) / 2 for depth in (1, 2, 3, 4)]
    assert work.gains.tolist() == pytest.approx([0.027, 0.09, 0.3, 1.0])
    halved = work_of(spec(planning={"gain_decay": 0.8}), SCHEMA, 5, deepest=2)
    assert halved.gains.tolist() == [0.0, 0.0, 0.8, 1.0]


def test_what_is_not_planned_is_the_same_for_all() -> None:
    slow = replace(FAST, forward=0.2, backward=0.2)
    both = made(1, None, h=slow).plans["h"]
    assert both.depth < 4
    depth = allocate(
        spec(planning={"least_steps": 1}), SCHEMA, 1, CANDIDATES, {**dict.fromkeys(NAMES, FAST), "h": slow}, None
    )
    assert depth is not None
    assert {plan.steps for plan in depth.plans.values() if plan.steps} == {12}
    memory = {**dict.fromkeys(NAMES, FAST), "h": slow, "g": replace(FAST, deepest=2)}
    steps = allocate(spec(planning={"depth": False}), SCHEMA, 1, CANDIDATES, memory, None)
    assert steps is not None
    assert {name: plan.depth for name, plan in steps.plans.items() if plan.steps} == {
        name: 2 if name == "g" else 4 for name, plan in steps.plans.items() if plan.steps
    }
    assert steps.plans["h"].steps < 12


def test_of_many_layers_what_is_fetched_grows_band_by_band() -> None:
    slots = tuple(replace(SCHEMA.slots[0], name=f"layer.{layer}", layer=layer) for layer in range(12))
    work = work_of(spec(), replace(SCHEMA, layers=12, slots=slots), 5)
    assert len(set(work.up_bytes.tolist())) == 12
    assert np.diff(work.down_bytes).nonzero()[0].tolist() == [1, 3, 5, 7, 9]  # after depths 2, 4, .. 10


def test_products_are_fetched_whole_whatever_the_depth() -> None:
    work = work_of(spec(method={"preset": "flora", "allocation": "capacity"}), SCHEMA, 5)
    assert len(set(work.down_bytes.tolist())) == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"method": {"preset": "full", "allocation": "capacity"}}, "it plans how many layers carry adapters"),
        ({"task": {"kind": "causal-lm", "packing": True}}, "how many sequences packed rows make"),
    ],
)
def test_what_cannot_be_planned_by_capacity_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(FedhftError, match=said):
        spec(**changes)


def test_coarser_values_take_fewer_bytes() -> None:
    sizes = [bytes_per_value(spec(wire={"levels": levels}), "int8") for levels in (7, 127)]
    assert 0.4 < sizes[0] < sizes[1] < 1.1
