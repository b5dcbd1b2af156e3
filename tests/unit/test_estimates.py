"""Estimates of what a device can do: smooth, quick to follow a change, and bounded by what the server saw."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhft.planning.estimates import Capacity, Durations, bounded, estimated, was_reset

A_ROUND = Durations(2.0, 100, 1.8, 100, 0.5, 500_000, 0.25, 500_000, 1.0)


def rounds_of(step: float, count: int, known: Capacity | None = None) -> Capacity:
    """The estimate after rounds in which a forward layer-step took `step` seconds."""
    estimate = known or Capacity()
    for _ in range(count):
        estimate = estimated(estimate, Durations(forward=100 * step, forward_layers=100))
    return estimate


def test_a_first_report_is_taken_as_it_is() -> None:
    found = estimated(Capacity(), A_ROUND)
    assert (found.forward, found.backward, found.fixed) == pytest.approx((0.02, 0.018, 1.0))
    assert (found.up, found.down, found.reports) == (1_000_000, 2_000_000, 1)
    assert found.is_measured
    assert not Capacity().is_measured


@pytest.mark.parametrize("factor", [10.0, 0.1])
def test_a_tenfold_change_is_followed_in_one_report(factor: float) -> None:
    before = rounds_of(0.02, 5)
    after = rounds_of(0.02 * factor, 1, before)
    assert after.forward == pytest.approx(0.02 * factor)
    assert was_reset(before, after, A_ROUND)


@given(st.floats(0.6, 1.8))
def test_a_small_change_is_followed_smoothly(factor: float) -> None:
    before = rounds_of(0.02, 5)
    after = rounds_of(0.02 * factor, 1, before)
    assert after.forward == pytest.approx(0.02 * (0.8 + 0.2 * factor))
    assert not was_reset(before, after, A_ROUND)
    assert rounds_of(0.02 * factor, 40, after).forward == pytest.approx(0.02 * factor, rel=1e-3)


@pytest.mark.parametrize(("size", "again"), [(2_000_000, True), (6_000, False)])
@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_link_that_changes_counts_where_its_bytes_take_time(direction: str, size: int, again: bool) -> None:
    """Sixteen times as long, or a sixteenth: of a second or two, or of a few milliseconds of latency."""
    before = estimated(Capacity(), A_ROUND)
    rate = getattr(before, direction)
    for times in (16, 1 / 16):
        told = replace(A_ROUND, **{direction: times * size / rate, f"{direction}_bytes": size})
        after = estimated(before, told)
        assert getattr(after, direction) == pytest.approx(rate / times)
        assert was_reset(before, after, told) is again


def test_what_was_not_done_is_not_estimated_anew() -> None:
    before = estimated(Capacity(), A_ROUND)
    after = estimated(before, Durations(other=1.0))
    assert (after.forward, after.backward, after.up, after.down) == (
        before.forward, before.backward, before.up, before.down,
    )  # fmt: skip


def test_energy_is_smoothed_where_it_is_measured_and_nothing_else_goes_by_it() -> None:
    first = estimated(Capacity(), replace(A_ROUND, energy=100.0))
    second = estimated(first, bounded(replace(A_ROUND, energy=150.0), 1000.0))
    unmeasured = estimated(second, A_ROUND)
    assert (first.energy, second.energy, unmeasured.energy) == pytest.approx((100.0, 110.0, 110.0))
    leap = estimated(unmeasured, replace(A_ROUND, energy=1e4))
    assert leap.energy == 1e4
    assert not was_reset(unmeasured, leap, A_ROUND)
    assert estimated(Capacity(), A_ROUND).energy is None


durations = st.builds(
    Durations,
    *(st.floats(0.0, 1e6), st.integers(0, 10_000)) * 4,
    other=st.floats(0.0, 1e6),
)


@given(durations, st.floats(0.01, 1e5))
def test_durations_are_worth_what_the_server_saw(claimed: Durations, seen: float) -> None:
    believed = bounded(claimed, seen)
    assert believed.total - believed.up == pytest.approx(seen, rel=1e-6)
    assert believed.forward <= claimed.forward * (1 + 1e-9)
    assert believed.other <= max(claimed.other, seen)


def test_a_slow_upload_before_does_not_make_a_device_look_fast() -> None:
    told = Durations(forward=2.0, forward_layers=100, up=500.0, up_bytes=100, other=1.0)
    assert bounded(told, 4.0, sending=1.0).forward == 2.0
    assert bounded(told, 4.0, sending=1.0).other == pytest.approx(1.0)
    assert bounded(told, 0.0) == told


def test_one_long_wait_is_no_new_habit() -> None:
    usual = estimated(estimated(Capacity(), A_ROUND), A_ROUND)
    once = estimated(usual, Durations(other=500.0))
    assert usual.fixed == pytest.approx(1.0)
    assert once.fixed is not None
    assert once.fixed < 3.0


def test_passes_fewer_than_the_plan_needs_are_not_believed() -> None:
    tiny = Durations(forward=1.0, forward_layers=1e-9, backward=1.0, backward_layers=1e-9)
    assert "the plan alone is 2 layers and 10 steps" in tiny.problem(2, 10)
    short = Durations(forward=1.0, forward_layers=1.5, backward=1.0, backward_layers=1.5)
    assert short.problem(2, 10, epoch=20) == ""  # ten batches of short rows
    assert "the plan alone is 2 layers and 10 steps" in short.problem(2, 10, epoch=10)


def test_who_claims_to_take_no_time_is_planned_for_by_when_updates_come() -> None:
    found = estimated(Capacity(), bounded(Durations(forward_layers=100, backward_layers=100), 60.0))
    assert found.fixed == 60.0
    assert found.forward is not None
    assert 0 < found.forward < 1e-6


def test_who_claims_to_be_slow_is_believed_no_more_than_was_seen() -> None:
    found = estimated(Capacity(), bounded(Durations(1e6, 100, 1e6, 100), 2.0))
    assert (found.forward, found.backward) == pytest.approx((0.01, 0.01))


@given(durations)
def test_every_estimate_is_finite_and_positive(claimed: Durations) -> None:
    found = estimated(estimated(Capacity(), claimed), A_ROUND)
    for value in (found.forward, found.backward, found.up, found.down):
        assert value is not None
        assert math.isfinite(value)
        assert value > 0


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (Durations(forward=math.nan), "forward"),
        (Durations(backward=-1.0), "backward"),
        (Durations(up=math.inf), "up"),
        (Durations(other=1e16), "other"),
        (Durations(down_bytes=-1), "down_bytes"),
        (Durations(energy=math.inf), "energy"),
        (Durations(energy=-1.0), "energy"),
    ],
)
def test_what_cannot_be_a_duration_is_named(wrong: Durations, field: str) -> None:
    assert wrong.problem().startswith(f"{field} = ")
    assert A_ROUND.problem() == ""
