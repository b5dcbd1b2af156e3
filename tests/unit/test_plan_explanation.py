"""Why a device was planned what it was: the parts add up, and each bound is said in words with its figures."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fedhft.planning import explanation
from fedhft.planning.allocation import Allocated
from fedhft.planning.estimates import Capacity
from fedhft.planning.explanation import Explained, explain
from fedhft.planning.planned import Bound
from tests.unit.test_allocation import CANDIDATES, FAST, NAMES, made, spec
from tests.unit.test_rounds_opening import SCHEMA

SLOW = replace(FAST, forward=5.0, backward=5.0)


def explained(allocated: Allocated, number: int = 1, **changed: Capacity | None) -> dict[str, Explained]:
    known = {**dict.fromkeys(NAMES, FAST), **changed}
    measured = {name: one for name, one in known.items() if one is not None}
    return {one.client: one for one in explain(spec(), SCHEMA, number, CANDIDATES, measured, allocated)}


def test_the_parts_of_every_plan_add_up_to_its_seconds() -> None:
    whole, far = replace(FAST, forward=0.08, keeps=False), replace(FAST, up=1e3)
    found = explained(made(c=whole, d=far), c=whole, d=far)
    assert list(found) == sorted(NAMES)
    for one in found.values():
        assert one.planned is not None
        assert one.planned.steps
        assert one.seconds == pytest.approx(one.planned.seconds)
    assert found["c"].fill == 0.0
    assert found["d"].link > 10 * found["a"].link


def test_one_that_sits_out_is_told_for_how_long() -> None:
    first = made(h=SLOW)
    assert first.plans["h"].bound is Bound.ABSENT
    second = made(2, first, h=SLOW)
    for number, allocated in ((1, first), (2, second)):
        one = explained(allocated, number, h=SLOW)["h"]
        assert one.seconds == 0.0
        assert one.why.startswith(
            f"too slow for rounds of {allocated.horizon:.3g} s: the least there is, one layer and 3 of 12 steps, would"
        )
        assert one.why.endswith(f"sits out, round {number} of at most 2 in a row")
    turn = explained(made(3, second, h=SLOW), 3, h=SLOW)["h"]
    assert turn.planned is not None
    assert turn.planned.bound is Bound.TURN
    assert "everybody waits for its least plan once" in turn.why


def test_what_a_plan_would_take_for_rows_that_have_not_passed_is_told_apart() -> None:
    first = made(h=SLOW)
    passed, fresh = (replace(SLOW, kept=kept, scored_at=()) for kept in ((1.0,) * 12, ()))
    assert "for rows to pass" not in explained(first, h=passed)["h"].why
    assert "s of them for rows to pass the layers below, once); sits out" in explained(first, h=fresh)["h"].why


def test_one_that_does_not_score_is_told_what_ends_its_steps_besides() -> None:
    slow = replace(FAST, forward=0.06, backward=0.06, deepest=1)
    allocated = replace(made(h=slow), turns={})
    plan = replace(allocated.plans["h"], scores=False, bound=Bound.SCORING)
    why = explained(replace(allocated, plans={**allocated.plans, "h": plan}), h=slow)["h"].why
    assert why.startswith("does not score versions: with that")
    assert "; with one more step it would" in why or "; fills rounds of" in why


@pytest.mark.parametrize(("longer", "shorter", "said"), [
    (10.14, 10.11, ("10.14", "10.11")), (12.0, 10.0, ("12", "10")), (1e3 + 1e-9, 1e3, ("1000", "1000")),
])  # fmt: skip
def test_seconds_that_differ_are_told_with_as_many_digits_as_that_takes(
    longer: float, shorter: float, said: tuple[str, str]
) -> None:
    assert explanation._apart(longer, shorter) == said


def test_rows_that_still_have_to_pass_are_told_with_what_comes_after() -> None:
    fresh = replace(FAST, forward=0.03, backward=0.03, deepest=1, kept=(), scored_at=())
    allocated = made(h=fresh)
    now, plan = allocated.turns["h"], allocated.plans["h"]
    one = explained(allocated, h=fresh)["h"]
    assert one.why == (
        "100% of its rows still have to pass the layers that it does not train, once, within rounds of "
        f"{allocated.horizon:.3g} s: {now.steps} steps in this one, then {plan.steps} of 12 steps and scores"
    )
    assert one.seconds == pytest.approx(now.seconds)


def test_one_without_a_plan_is_told_why() -> None:
    planned = made()
    without = replace(planned, plans={name: one for name, one in planned.plans.items() if name != "b"})
    found = explained(without, a=None)
    assert found["a"].why.startswith("has not been measured yet: until it is planned for, it trains what its tier says")
    assert found["b"].why.startswith("has been measured since the plans were made: until it is planned for")
    assert {found["a"].planned, found["b"].planned} == {None}


def test_one_that_became_slower_is_told_by_what_it_takes_now() -> None:
    allocated = replace(made(), turns={})
    name = next(name for name, plan in allocated.plans.items() if plan.bound in (Bound.HORIZON, Bound.NOTHING))
    bound = replace(allocated.plans[name], bound=Bound.HORIZON)
    allocated = replace(allocated, plans={**allocated.plans, name: bound})
    slower = replace(FAST, forward=0.05, backward=0.05)
    one = explained(allocated, **{name: slower})[name]
    assert one.why.startswith(f"fills rounds of {allocated.horizon:.3g} s, by what was known when it was planned")
    assert one.why.endswith(f"by what is known now it takes {one.seconds:.3g} s")


def test_what_would_fit_by_what_is_known_now_is_not_said_to_be_too_long() -> None:
    slow = replace(FAST, forward=0.06, backward=0.06, deepest=1)
    allocated = replace(made(h=slow), turns={})
    plan = replace(allocated.plans["h"], scores=False, bound=Bound.SCORING)
    allocated = replace(allocated, plans={**allocated.plans, "h": plan})
    faster = replace(slow, forward=0.01, backward=0.01)
    said = f"does not score versions: with that it would have taken longer than rounds of {allocated.horizon:.3g} s, by"
    assert explained(allocated, h=faster)["h"].why.startswith(said)


def test_what_a_round_itself_has_time_for_is_told_by_the_length_of_that_round() -> None:
    slow = replace(FAST, forward=0.05, backward=0.05, deepest=1, kept=(), scored_at=())
    first = made(h=slow)
    passed = replace(slow, kept=(1.0,), scored_at=(1,))
    second = made(2, first, h=passed)
    own, plan = second.turns["h"], second.plans["h"]
    assert plan.steps < own.steps < CANDIDATES["h"].steps
    one = explained(second, 2, h=passed)["h"]
    assert one.why.startswith(f"with one more step it would take {own.seconds + 0.1:.3g} s, and this round takes")
    assert one.why.endswith(f"{max(first.horizon, own.seconds):.3g} s")


def test_memory_that_ends_a_plan_is_named_with_its_layers() -> None:
    small = replace(FAST, deepest=1)
    allocated = made(a=small)
    more = allocated.turns["a"].steps - CANDIDATES["a"].steps
    memory = "has memory for 1 layer, or its owner allows no more"
    besides = f"makes {more} steps more than an epoch has, rather than wait"
    assert explained(allocated, a=small)["a"].why == f"{memory}; {besides}"
    without = replace(allocated, turns={})
    assert explained(without, a=small)["a"].why == memory


def test_an_owner_that_allows_fewer_steps_than_an_epoch_has_is_told_of() -> None:
    careful = replace(FAST, forward=1e-3, backward=1e-3, most_steps=7)
    one = explained(made(a=careful), a=careful)["a"]
    assert one.why == "trains all layers and makes all steps; its owner allows 7 of the 12 steps that an epoch has"
