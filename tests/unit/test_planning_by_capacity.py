"""Planning by capacity: what must hold of any fleet."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fedhft.planning.coming_round import PASSED, in_coming_round
from fedhft.planning.devices import LEAST_STEPS, Device, Work, costs
from fedhft.planning.horizon import LEARNING, LEAST_MASS, TARGET, Schedule, least_plan, rounds_to_target, schedule
from fedhft.planning.planned import Bound, Planned

LAYERS = 6

speeds = st.floats(1e-3, 1.0)
devices = st.builds(
    Device,
    mass=st.floats(1.0, 1000.0),
    steps=st.integers(1, 60),
    batches=st.integers(1, 60),
    forward=speeds,
    backward=speeds,
    fixed=st.floats(0.0, 5.0),
    scoring=st.integers(0, 30).map(float),
    scored=st.integers(0, 30).map(float),
    up=st.floats(1e4, 1e7),
    down=st.floats(1e4, 1e7),
    deepest=st.integers(1, LAYERS + 2),
    keeps=st.booleans(),
    kept=st.lists(st.floats(0.0, 1.0), max_size=LAYERS).map(tuple),
    scored_at=st.sets(st.integers(1, LAYERS)).map(lambda found: tuple(sorted(found))),
    extra=st.integers(0, 60),
)
fleets = st.lists(devices, min_size=1, max_size=12).map(lambda found: {f"c{i:02}": one for i, one in enumerate(found)})
works = st.builds(
    lambda decay, layer, rest, rounds: Work(
        gains=decay ** np.arange(LAYERS - 1, -1, -1.0),
        up_bytes=rest + layer * np.arange(1.0, LAYERS + 1),
        down_bytes=rest + layer * np.arange(1.0, LAYERS + 1),
        rounds=rounds,
    ),
    st.floats(0.3, 1.0),
    st.floats(100.0, 1e6),
    st.floats(0.0, 1e5),
    st.integers(1, 50),
)
FAST = Device(100.0, 20, 20, 0.01, 0.01, 0.5, 8.0, 4.0, 1e6, 1e6, LAYERS)
WORK = Work(0.8 ** np.arange(LAYERS - 1, -1, -1.0), np.arange(1.0, 7.0) * 2e4, np.arange(1.0, 7.0) * 2e4, 10)


def filling(device: Device, work: Work, depth: int, steps: float, scores: bool) -> float:
    """Seconds for rows that have not passed the frozen layers, of so many steps and of scoring."""
    batches = min(steps, device.batches) * (1 - device.kept_at(depth))
    batches += device.scored if scores and depth not in device.scored_at else 0.0
    return batches * (work.layers - depth) * device.forward if device.keeps else 0.0


def seconds(device: Device, work: Work, depth: int, steps: int, scores: bool, *, now: bool = False) -> float:
    """Equations of `planning.devices`, written out for one plan; now: of a round itself."""
    run = depth if device.keeps else work.layers
    if now:
        fill = filling(device, work, depth, steps, scores)
    else:
        fill = filling(device, work, depth, device.batches, scores) / work.rounds
    link = work.up_bytes[depth - 1] / device.up + work.down_bytes[depth - 1] / device.down
    scored = device.scoring * run * device.forward if scores else 0.0
    return float(device.fixed + fill + link + scored + steps * (run * device.forward + depth * device.backward))


def worse_than(device: Device, data: st.DataObject) -> Device:
    """A device that is as able or less in every way."""
    slower = st.floats(1.0, 20.0)
    return replace(
        device,
        forward=device.forward * data.draw(slower),
        backward=device.backward * data.draw(slower),
        fixed=device.fixed * data.draw(slower),
        up=device.up / data.draw(slower),
        down=device.down / data.draw(slower),
        deepest=data.draw(st.integers(1, device.deepest)),
    )


@given(devices, works)
def test_costs_are_those_of_the_equation(device: Device, work: Work) -> None:
    found = costs([device], work)
    for depth in range(1, LAYERS + 1):
        column = (0, depth - 1)
        always = found.once[column] + found.scoring[column] + 7 * found.step[column]
        spread = found.filling[column] + found.filling_scored[column]
        assert always + spread == pytest.approx(seconds(device, work, depth, 7, True))
        first = found.first_scores[column] + min(7, device.batches) * found.first_step[column]
        assert always + first == pytest.approx(seconds(device, work, depth, 7, True, now=True))


@given(fleets, works)
@settings(deadline=None, max_examples=40)
def test_every_plan_fits_its_device_and_the_horizon(fleet: dict[str, Device], work: Work) -> None:
    made = schedule(fleet, work)
    for name, plan in made.plans.items():
        device = fleet[name]
        if plan.steps == 0:
            assert (plan.depth, plan.bound) == (0, Bound.ABSENT)
            continue
        assert 1 <= plan.depth <= min(device.deepest, LAYERS)
        assert plan.steps <= device.steps
        assert plan.seconds == pytest.approx(
            seconds(device, replace(work, rounds=made.over), plan.depth, plan.steps, plan.scores)
        )
        assert plan.seconds <= made.horizon * (1 + 1e-6)


@pytest.mark.parametrize(("kept", "scores"), [(0.9, False), (0.995, True), (1.0, True)])
def test_who_has_passed_nearly_all_rows_scores_for_the_first_time_however_long_that_takes(
    kept: float, scores: bool
) -> None:
    """Parts of an epoch never draw the very last rows for sure, so it would wait for them without end."""
    device = Device(
        mass=1.0, steps=10, batches=10, forward=1.0, backward=1.0, fixed=0.0, scoring=4.0, scored=4.0, up=1e9, down=1e9,
        deepest=1, keeps=True, kept=(kept,),
    )  # fmt: skip
    [now] = in_coming_round([device], [Planned(1, 10, True, 0.0, Bound.MEMORY)], 1.0, WORK)
    assert now.scores is scores
    assert (now.steps > 1) is not scores


@given(devices, works, st.floats(0.1, 2.0))
@example(
    Device(
        mass=1.0, steps=45, batches=8, forward=1.0, backward=0.125, fixed=0.0, scoring=0.0, scored=0.0, up=1e4,
        down=1e4, deepest=1, keeps=True,
    ),
    replace(WORK, rounds=1), 0.5,
)  # fmt: skip # after the last rows have passed, another step takes less
def test_in_the_coming_round_a_device_does_what_fits(device: Device, work: Work, part: float) -> None:
    made = schedule({"c": device}, work)
    plan, horizon = made.plans["c"], made.horizon * part
    [now] = in_coming_round([device], [plan], horizon, work)
    passed = replace(device, kept=(1.0,) * LAYERS, scored_at=tuple(range(1, LAYERS + 1)))
    length = max(horizon, seconds(passed, work, plan.depth, plan.steps, plan.scores, now=True))
    took = seconds(device, work, now.depth, now.steps, now.scores, now=True)
    assert now.depth == plan.depth
    assert 1 <= now.steps <= device.steps + device.extra
    once = now.scores and device.kept_at(plan.depth) >= PASSED  # it scores for the first time
    assert took <= length * (1 + 1e-6) or (now.steps == 1 and (once or not now.scores))
    more = seconds(device, work, now.depth, now.steps + 1, now.scores, now=True)
    assert more > length * (1 - 1e-6) or now.steps == device.steps + device.extra
    if (now.steps, now.scores) == (plan.steps, plan.scores):
        assert now is plan
        return
    assert now.seconds == pytest.approx(took)
    assert (now.bound is Bound.FILLING) == (now.steps < plan.steps or now.scores < plan.scores)


@given(devices, works)
def test_where_nothing_is_left_to_pass_and_nobody_is_slower_a_device_does_what_was_planned(
    device: Device, work: Work
) -> None:
    done = replace(device, kept=(1.0,) * LAYERS, scored_at=tuple(range(1, LAYERS + 1)))
    made = schedule({"c": done}, work)
    assert in_coming_round([done], [made.plans["c"]], made.horizon, work) == [made.plans["c"]]
    assert in_coming_round([done] * 3, [made.plans["c"]] * 3, 0.0, work) == [made.plans["c"]] * 3


def test_whoever_is_done_early_makes_more_steps_than_an_epoch_has_but_no_more_than_it_may() -> None:
    quick = replace(FAST, forward=1e-3, backward=1e-3, deepest=2, kept=(1.0,) * LAYERS, scored_at=(1, 2))
    fleet = {"quick": replace(quick, extra=15), **{f"c{i}": replace(FAST, forward=0.05) for i in range(6)}}
    made = schedule(fleet, WORK)
    assert made.plans["quick"].steps == quick.steps
    coming = dict(
        zip(fleet, in_coming_round(list(fleet.values()), list(made.plans.values()), made.horizon, WORK), strict=True)
    )
    assert (coming["quick"].steps, coming["quick"].bound) == (quick.steps + 15, Bound.MEMORY)
    fleet["quick"] = quick
    [own, *_] = in_coming_round(list(fleet.values()), list(made.plans.values()), made.horizon, WORK)
    assert own is made.plans["quick"]


def test_all_wait_for_no_more_than_the_slowest_plan_by_what_is_known_now() -> None:
    done = replace(FAST, kept=(1.0,) * LAYERS, scored_at=tuple(range(1, LAYERS + 1)), extra=FAST.steps)
    slower = replace(done, forward=0.015, backward=0.015)
    plan = schedule({"c": done}, WORK).plans["c"]
    late, early = in_coming_round([slower, done], [plan, plan], plan.seconds, WORK)
    assert late is plan
    took = seconds(slower, WORK, plan.depth, plan.steps, True, now=True)
    assert early.steps > plan.steps
    assert early.seconds <= took < early.seconds + plan.depth * (done.forward + done.backward)


def test_one_that_was_planned_not_to_score_does_where_it_fits() -> None:
    done = replace(FAST, kept=(1.0,) * LAYERS, scored_at=tuple(range(1, LAYERS + 1)))
    plan = replace(schedule({"c": done}, WORK).plans["c"], scores=False, bound=Bound.SCORING)
    [scores] = in_coming_round([done], [plan], 2 * plan.seconds, WORK)
    [does_not] = in_coming_round([done], [plan], 0.0, WORK)
    assert scores.scores
    assert does_not is plan


@given(fleets, works, devices, st.data())
@settings(deadline=None, max_examples=60)
def test_a_worse_device_never_gets_more_work_in_a_round_either(
    fleet: dict[str, Device], work: Work, device: Device, data: st.DataObject
) -> None:
    fleet = {**fleet, "a": worse_than(device, data), "z": device}
    plans = schedule(fleet, work).plans
    busy = [name for name, plan in plans.items() if plan.steps]
    found = in_coming_round([fleet[name] for name in busy], [plans[name] for name in busy], 0.0, work)
    coming = dict(zip(busy, found, strict=True))
    if "a" in coming:
        less, more = coming["a"], coming["z"]
        assert less.depth * less.steps <= more.depth * more.steps


def test_a_device_that_has_kept_rows_of_a_depth_is_faster_there_alone() -> None:
    kept = replace(FAST, kept=(0.0, 1.0), scored_at=(2,))
    fresh, known = costs([FAST], WORK), costs([kept], WORK)
    assert known.filling[0, 1] == 0.0
    assert known.first_step[0, 1] == known.first_scores[0, 1] == 0.0
    assert list(known.filling[0, [0, 2, 3]]) == list(fresh.filling[0, [0, 2, 3]])


@given(fleets, works)
@settings(deadline=None, max_examples=40)
def test_most_of_the_mass_takes_part_and_scores(fleet: dict[str, Device], work: Work) -> None:
    made = schedule(fleet, work)
    total = sum(device.mass for device in fleet.values())
    scored = sum(fleet[name].mass for name, plan in made.plans.items() if plan.scores)
    assert scored >= LEAST_MASS * total * (1 - 1e-9)


@given(fleets, works, st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=40)
def test_the_order_of_clients_changes_nothing(fleet: dict[str, Device], work: Work, random: object) -> None:
    shuffled = list(fleet)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    made, again = schedule(fleet, work), schedule({name: fleet[name] for name in shuffled}, work)
    assert made.plans == again.plans
    assert (made.horizon, made.rounds) == (again.horizon, again.rounds)


@given(devices, st.integers(2, 9), works)
@settings(deadline=None, max_examples=40)
def test_equal_devices_get_equal_plans(device: Device, count: int, work: Work) -> None:
    made = schedule({f"c{i}": device for i in range(count)}, work)
    assert len(set(made.plans.values())) == 1


@given(fleets, works, devices, st.data())
@settings(deadline=None, max_examples=60)
def test_a_worse_device_never_gets_more_work(
    fleet: dict[str, Device], work: Work, device: Device, data: st.DataObject
) -> None:
    made = schedule({**fleet, "a": worse_than(device, data), "z": device}, work)
    less, more = made.plans["a"], made.plans["z"]
    assert less.depth <= more.depth
    assert less.depth * less.steps <= more.depth * more.steps


def depths(made: Schedule) -> set[int]:
    return {plan.depth for plan in made.plans.values()}


@pytest.mark.parametrize("decay", [0.4, 0.6, 0.8, 1.0])
def test_equal_devices_train_more_than_the_last_layer(decay: float) -> None:
    work = replace(WORK, gains=decay ** np.arange(LAYERS - 1, -1, -1.0))
    made = schedule({f"c{i}": FAST for i in range(8)}, work)
    assert min(depths(made)) > 1


def test_the_flatter_the_gains_the_deeper_the_plans() -> None:
    found = [
        min(depths(schedule({"c": FAST}, replace(WORK, gains=decay ** np.arange(LAYERS - 1, -1, -1.0)))))
        for decay in (0.2, 0.5, 0.9)
    ]
    assert found == sorted(found)
    assert found[0] < found[-1]


def test_a_mixed_fleet_hardly_waits() -> None:
    speed = np.random.default_rng(3).uniform(size=60)
    fleet = {
        f"c{i:02}": replace(FAST, forward=0.02 * 10**x, backward=0.02 * 10**x) for i, x in enumerate(speed.tolist())
    }
    made = schedule(fleet, WORK)
    assert made.waiting < 0.1
    whole = {name: seconds(device, WORK, LAYERS, device.steps, True) for name, device in fleet.items()}
    assert made.horizon < 0.5 * max(whole.values())
    assert len(depths(made)) > 2


def test_the_one_hopeless_device_first_stops_scoring_then_sits_out() -> None:
    fleet = {f"c{i}": FAST for i in range(9)}
    slow = replace(FAST, forward=0.03, backward=0.03, scoring=400.0)
    unscored = schedule({**fleet, "slow": slow}, WORK).plans["slow"]
    assert (unscored.scores, unscored.bound, unscored.steps > 0) == (False, Bound.SCORING, True)
    absent = schedule({**fleet, "slow": replace(FAST, forward=3.0, backward=3.0)}, WORK)
    assert absent.plans["slow"] == (absent.plans["slow"].__class__(0, 0, False, 0.0, Bound.ABSENT))
    assert absent.horizon < 10
    turn = least_plan(replace(FAST, forward=3.0, backward=3.0), WORK)
    assert (turn.depth, turn.steps, turn.scores, turn.bound) == (1, LEAST_STEPS * FAST.steps, False, Bound.TURN)
    assert turn.seconds > absent.horizon


def test_layers_out_of_reach_do_not_keep_the_target_from_being_reached() -> None:
    reachable = replace(WORK, gains=np.where(np.arange(LAYERS) >= LAYERS - 1, WORK.gains, 0.0))
    slow = {f"c{i}": replace(FAST, deepest=1, forward=0.01 * (1 + i), backward=0.01) for i in range(8)}
    assert schedule(slow, reachable).rounds < 1e6
    assert schedule(slow, WORK).rounds >= 1e6


def test_what_keeps_a_device_from_more_is_named() -> None:
    fleet = {f"c{i}": replace(FAST, forward=0.05, backward=0.05) for i in range(6)}
    made = schedule(
        {**fleet, "small": replace(FAST, deepest=2), "quick": replace(FAST, forward=1e-4, backward=1e-4)}, WORK
    )
    assert made.plans["small"].bound is Bound.MEMORY
    assert made.plans["quick"].bound is Bound.NOTHING
    assert {made.plans[f"c{i}"].bound for i in range(6)} <= {Bound.HORIZON, Bound.NOTHING}


@given(
    st.lists(st.floats(0.01, 3.0), min_size=3, max_size=3),
    st.lists(st.just(0.0) | st.floats(1e-3, 2.0), min_size=3, max_size=3),
)
def test_rounds_to_the_target_solve_their_equation(gains: list[float], rates: list[float]) -> None:
    g, rate = np.array(gains), np.array([rates])
    rounds = float(rounds_to_target(g, rate)[0])
    if not np.isfinite(rounds):
        assert g[rate[0] > 0].sum() <= TARGET * g.sum() * (1 + 1e-9)
        return
    gained = float((g * (1 - np.exp(-LEARNING * rate[0] * rounds))).sum())
    assert gained == pytest.approx(TARGET * g.sum(), rel=1e-6)


def test_nobody_is_no_fleet() -> None:
    with pytest.raises(ValueError, match="none to plan for"):
        schedule({}, WORK)
