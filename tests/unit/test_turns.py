"""Clients that begin to wait together ask again apart."""

from __future__ import annotations

import pytest
from fedhft_aggregator.turns import turn_of
from hypothesis import given
from hypothesis import strategies as st

_SECONDS = st.floats(min_value=0.001, max_value=3600.0)
_NOW = st.floats(min_value=0.0, max_value=1e8)


@given(st.text(min_size=1), _SECONDS, _NOW)
def test_a_wait_ends_at_most_as_late_as_asked(client: str, every_s: float, begun_s: float) -> None:
    turn = turn_of(client, every_s, begun_s)
    assert begun_s <= turn <= begun_s + every_s


@given(st.text(min_size=1), st.floats(min_value=1.0, max_value=3600.0), st.floats(min_value=0.0, max_value=1e6))
def test_after_its_first_turn_a_client_waits_whole_turns(client: str, every_s: float, begun_s: float) -> None:
    first = turn_of(client, every_s, begun_s)
    late = 0.01 * every_s  # the answer's way to the client, and the next call's way back
    assert turn_of(client, every_s, first + late) == pytest.approx(first + every_s, abs=1e-5)


def test_clients_that_begin_together_are_spread_over_the_whole_time() -> None:
    seconds = [0] * 55
    for number in range(5500):
        seconds[int(turn_of(f"client-{number:05d}", 55.0, 1000.0) - 1000.0) % 55] += 1
    assert min(seconds) > 60
    assert max(seconds) < 140


def test_who_does_not_want_to_wait_does_not() -> None:
    assert turn_of("client", 0.0, 12.5) == 12.5
