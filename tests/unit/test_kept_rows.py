"""Rows that have passed the frozen layers, as the server works them out from reports."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhft.planning.devices import SCORED_ONCE
from fedhft.planning.estimates import Capacity, Durations
from fedhft.planning.kept_rows import with_kept_rows

LAYERS = 6
STEP_S = 0.5


def told(passed: float, depth: int, scoring: float = 0.0, *, keeps: bool = True) -> Durations:
    """A report of 10 steps at a depth, with so many batches passed to be kept."""
    filled = passed * (LAYERS - depth)
    run = depth * (10 + scoring) + filled
    return Durations(
        forward=STEP_S * run, forward_layers=run, fill=STEP_S * filled, scoring=scoring, keeps=keeps, backward=1.0
    )


def test_a_whole_epoch_passes_all_rows() -> None:
    found = with_kept_rows(Capacity(), told(10.0 + SCORED_ONCE * 4.0, 2, 4.0), 2, LAYERS, 10, 10)
    assert found.kept == (0.0, pytest.approx(1.0))
    assert found.scored_at == (2,)


def test_part_of_an_epoch_passes_the_rows_that_were_drawn() -> None:
    first = with_kept_rows(Capacity(), told(4.0, 1), 1, LAYERS, 4, 10)
    assert first.kept == (pytest.approx(0.4),)
    assert first.scored_at == ()
    second = with_kept_rows(first, told(2.4, 1), 1, LAYERS, 4, 10)
    assert second.kept == (pytest.approx(0.64),)


@pytest.mark.parametrize("long", [0.3, 1.0, 4.0])
def test_rows_longer_or_shorter_than_the_mean_are_as_many_rows(long: float) -> None:
    """Layer-steps go by tokens: two batches of long rows pass as what eight mean ones do."""
    known = Capacity(kept=(0.9, 0.0), scored_at=(1,))
    report = Durations(
        forward=STEP_S * long * 2 * (2 + LAYERS - 2), forward_layers=long * 2 * (2 + LAYERS - 2),
        fill=STEP_S * long * 2 * (LAYERS - 2), backward=1.0, backward_layers=long * 2 * 2, keeps=True,
    )  # fmt: skip
    found = with_kept_rows(known, report, 2, LAYERS, 2, 25)
    assert found.kept == (0.9, pytest.approx(2 / 25))
    assert found.scored_at == (1,)


def test_rows_that_others_have_passed_before_are_kept_when_they_are_drawn() -> None:
    """An earlier job on the same model, or a deeper plan: nothing passes, or fewer layers do."""
    found = Capacity()
    for share in (0.5, 0.75, 0.875):
        found = with_kept_rows(found, told(0.0, 1, 4.0), 1, LAYERS, 5, 10)
        assert found.kept == (pytest.approx(share),)
    assert found.scored_at == (1,)


def test_a_client_that_passes_all_rows_at_once_has_them_all() -> None:
    found = with_kept_rows(Capacity(), told(20.0 + SCORED_ONCE * 4.0, 1, 4.0), 1, LAYERS, 5, 20)
    assert found.kept == (pytest.approx(1.0),)


def test_what_was_kept_at_other_depths_stays() -> None:
    first = with_kept_rows(Capacity(), told(10.0, 3), 3, LAYERS, 10, 10)
    second = with_kept_rows(first, told(10.0, 1), 1, LAYERS, 10, 10)
    assert second.kept == (pytest.approx(1.0), 0.0, pytest.approx(1.0))


def test_rows_that_pass_again_were_lost() -> None:
    known = Capacity(kept=(1.0, 1.0, 1.0), scored_at=(1, 3))
    found = with_kept_rows(known, told(5.0 + SCORED_ONCE * 4.0, 1, 4.0), 1, LAYERS, 5, 10)
    assert found.kept == (pytest.approx(0.5),)
    assert found.scored_at == (1,)


def test_a_few_that_seem_to_have_passed_again_do_not_mean_that_what_was_kept_is_gone() -> None:
    known = Capacity(kept=(1.0,), scored_at=(1,))
    noisy = with_kept_rows(known, told(2.5, 1, 4.0), 1, LAYERS, 5, 10)  # seconds of waiting, counted as passes
    assert noisy.kept == (1.0,)


def test_a_client_that_keeps_nothing_has_nothing_kept() -> None:
    known = Capacity(kept=(1.0,), scored_at=(1,))
    found = with_kept_rows(known, told(0.0, 1, keeps=False), 1, LAYERS, 5, 10)
    assert (found.kept, found.scored_at) == ((), ())


def test_where_nothing_is_frozen_nothing_passes() -> None:
    known = Capacity(kept=(1.0,), scored_at=(1,))
    assert with_kept_rows(known, told(0.0, LAYERS), LAYERS, LAYERS, 5, 10) == known


@given(
    st.floats(0.0, 1e15), st.floats(0.0, 1e15), st.floats(0.0, 1e15), st.floats(0.0, 1e15),
    st.integers(1, LAYERS), st.integers(1, 100), st.integers(1, 100), st.lists(st.floats(0.0, 1.0), max_size=LAYERS),
)  # fmt: skip
def test_whatever_a_client_says_shares_are_shares(
    forward: float, layers: float, fill: float, scoring: float, depth: int, steps: int, epoch: int, kept: list[float]
) -> None:
    report = Durations(forward=forward, forward_layers=layers, fill=fill, scoring=scoring, keeps=True)
    found = with_kept_rows(Capacity(kept=tuple(kept)), report, depth, LAYERS, steps, epoch)
    assert all(0.0 <= share <= 1.0 for share in found.kept)
    assert len(found.kept) <= LAYERS
