"""Allocation by capacity: whose plan is made from what, when plans are made anew, and what they become on the wire."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fedhft.job import JobSpec, parse_job
from fedhft.plan import AdapterPlan
from fedhft.planning.allocation import Allocated, Candidate, allocate, bytes_per_value, within, work_of
from fedhft.planning.estimates import Capacity
from fedhft.planning.horizon import Bound, Planned
from tests.unit.test_rounds_opening import SCHEMA

FAST = Capacity(forward=0.02, backward=0.02, fixed=0.5, scoring=4.0, up=1e6, down=1e6, keeps=True, reports=2)
TIER = AdapterPlan("standard", 4, 1.0, 1.0, 0, True, True)
NAMES = tuple("abcdefgh")
CANDIDATES = {name: Candidate(100.0, 12, TIER) for name in NAMES}


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
    assert made(2, first) == first
    later = made(4, first)
    assert (later.made, later.plans) == (4, first.plans)


@pytest.mark.parametrize(
    ("previous", "reason"),
    [
        (replace(made(1), stale="a became much faster or slower"), "a became much faster or slower"),
        (replace(made(1), plans={name: made(1).plans[name] for name in NAMES[1:]}), "a has no plan yet"),
        (replace(made(1), absent={"b": 2}), "b has sat out 2 rounds"),
        (replace(made(1), waited_for=("c",)), "c had to take part in the last round"),
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


def test_who_sits_out_is_counted_and_then_waited_for() -> None:
    hopeless = replace(FAST, forward=50.0, backward=50.0)
    first = made(1, None, h=hopeless)
    assert first.absent == {"h": 1}
    second = made(2, first, h=hopeless)
    assert second.absent == {"h": 2}
    third = made(3, second, h=hopeless)
    assert (third.absent, third.waited_for) == ({}, ("h",))
    assert third.plans["h"].steps > 0
    fourth = made(4, third, h=hopeless)
    assert (fourth.reason, fourth.absent) == ("h had to take part in the last round", {"h": 1})


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


def test_nobody_sits_out_for_what_a_trial_said() -> None:
    hopeless = replace(FAST, forward=50.0, backward=50.0, reports=1)
    first = made(1, None, h=hopeless)
    assert first.plans["h"].steps > 0
    assert (first.absent, first.waited_for) == ({}, ("h",))
    second = made(2, first, h=replace(hopeless, reports=2))
    assert second.absent == {"h": 1}


def test_a_plan_keeps_to_its_tier() -> None:
    shallow = {**CANDIDATES, "a": Candidate(100.0, 12, replace(TIER, depth=2, density=0.25))}
    found = allocate(spec(), SCHEMA, 1, shallow, dict.fromkeys(NAMES, replace(FAST, forward=1e-5, backward=1e-5)), None)
    assert found is not None
    plan = within(spec(), shallow["a"], found.plans["a"])
    assert plan == replace(TIER, depth=2, density=0.25)


def test_steps_become_a_cap_only_where_they_are_fewer() -> None:
    candidate = CANDIDATES["a"]
    fewer = within(spec(), candidate, Planned(3, 5, True, 1.0, Bound.HORIZON))
    whole = within(spec(), candidate, Planned(3, 12, True, 1.0, Bound.HORIZON))
    assert fewer == replace(TIER, depth=3, max_steps=5)
    assert whole == replace(TIER, depth=3)


def test_nobody_sits_out_the_final_evaluation() -> None:
    absent = Planned(0, 0, False, 0.0, Bound.ABSENT)
    assert within(spec(), CANDIDATES["a"], absent) is None
    assert within(spec(), CANDIDATES["a"], absent, evaluation=True) == replace(TIER, max_steps=3)


def test_an_update_grows_with_depth_and_a_version_does_not() -> None:
    work = work_of(spec(wire={"up": "fp32", "down": "bf16"}), SCHEMA, (), 5)
    layer, head = 4 * 2 * (8 + 12), 4 * (2 * 8 + 2)
    assert work.up_bytes.tolist() == [head + layer * depth for depth in (1, 2, 3, 4)]
    assert set(work.down_bytes.tolist()) == {(head + 4 * layer) / 2}
    assert work.gains.tolist() == pytest.approx([0.512, 0.64, 0.8, 1.0])
    assert work_of(spec(), SCHEMA, (1.0, 2.0, 3.0, 4.0), 5).gains.tolist() == [1.0, 2.0, 3.0, 4.0]


def test_coarser_values_take_fewer_bytes() -> None:
    sizes = [bytes_per_value(spec(wire={"levels": levels}), "int8") for levels in (7, 127)]
    assert 0.4 < sizes[0] < sizes[1] < 1.1
