"""A holder's watch, and what it may remember of an open round."""

from __future__ import annotations

import pytest

from fedhft.rounds.watching import LONGEST_WAIT_MS, Collecting, Watch, pause_s, watch_of


def test_a_watch_goes_on_under_its_fence_and_begins_anew_under_another() -> None:
    first = watch_of(None, 3, 1000)
    assert first == Watch(fence=3, since_ms=1000, short_since_ms=None)
    assert watch_of(first, 3, 9000) is first
    assert watch_of(Watch(3, 1000, 500), 4, 9000) == Watch(4, 9000, None)


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


OPEN = Collecting(number=2, target=3, deadline_ms=100_000, fence=7, read_ms=50_000)


@pytest.mark.parametrize(
    ("fence", "now_ms", "valid"),
    [
        (7, 50_000, True),
        (7, 54_999, True),
        (7, 55_000, False),
        (8, 50_001, False),
    ],
)
def test_a_look_is_believed_for_five_seconds_by_its_own_holder(fence: int, now_ms: int, valid: bool) -> None:
    assert LONGEST_WAIT_MS == 5000
    assert OPEN.still_valid(fence, now_ms) is valid


@pytest.mark.parametrize(("now_ms", "valid"), [(51_999, True), (52_000, False), (60_000, False)])
def test_a_look_is_not_believed_past_the_deadline(now_ms: int, valid: bool) -> None:
    assert Collecting(2, 3, 52_000, 7, 50_000).still_valid(7, now_ms) is valid


def test_waiting_goes_on_until_the_target_the_deadline_or_the_next_full_look() -> None:
    assert OPEN.wait_s(2, 51_000) == pytest.approx(4.0)
    assert OPEN.wait_s(3, 51_000) is None
    assert OPEN.wait_s(4, 51_000) is None
    assert Collecting(2, 3, 52_000, 7, 50_000).wait_s(0, 51_000) == pytest.approx(1.0)


def test_a_pause_is_never_so_short_that_waiting_spins() -> None:
    assert pause_s(1_010, 1_000) == pytest.approx(0.05)
    assert pause_s(900, 1_000) == pytest.approx(0.05)
    assert pause_s(3_000, 1_000) == pytest.approx(2.0)
