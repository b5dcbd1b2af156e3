"""A holder's watch over its job."""

from __future__ import annotations

import pytest

from fedhft.rounds.watching import LONGEST_WAIT_MS, Watch, pause_s, watch_of


def test_a_watch_goes_on_under_its_fence_and_begins_anew_under_another() -> None:
    first = watch_of(None, 3, 1000, 0)
    assert first == Watch(fence=3, since_ms=1000, short_since_ms=None, ahead_ms=1000)
    assert watch_of(first, 3, 9000, 8000) is first
    assert watch_of(Watch(3, 1000, 500), 4, 9000, 0) == Watch(4, 9000, None, 9000)


@pytest.mark.parametrize("jump_ms", [-7_200_000, 7_200_000])
def test_a_store_whose_clock_is_set_takes_the_times_of_the_watch_along(jump_ms: int) -> None:
    watch = Watch(3, since_ms=10_000, short_since_ms=12_000, ahead_ms=9_000)
    moved = watch_of(watch, 3, 20_000 + jump_ms, 11_000)
    assert moved == Watch(3, 10_000 + jump_ms, 12_000 + jump_ms, 9_000 + jump_ms)
    assert watch_of(moved, 3, 21_000 + jump_ms, 12_000) is moved
    assert watch_of(watch, 3, 20_000 + LONGEST_WAIT_MS, 11_000) is watch  # clocks drift


@pytest.mark.parametrize(
    ("before", "live", "wanted", "after"),
    [
        (None, 3, 3, None),
        (None, 4, 3, None),
        (None, 2, 3, 700),
        (600, 2, 3, 600),
        (600, 0, 3, 600),
        (600, 3, 3, None),
    ],
)
def test_shortness_is_timed_from_when_it_was_first_seen(
    before: int | None, live: int, wanted: int, after: int | None
) -> None:
    assert Watch(1, 0, before).counting(live, wanted, 700).short_since_ms == after


def test_a_pause_is_never_so_short_that_waiting_spins() -> None:
    assert pause_s(1_010, 1_000) == pytest.approx(0.05)
    assert pause_s(900, 1_000) == pytest.approx(0.05)
    assert pause_s(3_000, 1_000) == pytest.approx(2.0)
