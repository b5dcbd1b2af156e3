"""Clients that begin to wait together ask again apart."""

from __future__ import annotations

from fedhft_aggregator.turns import Turns
from hypothesis import given
from hypothesis import strategies as st


@given(st.text(min_size=1), st.floats(0.0, 3600.0), st.floats(0.0, 1e6), st.floats(0.0, 300.0))
def test_a_wait_ends_at_most_as_late_as_asked_and_is_whole_once_all_came_back(
    client: str, wait_s: float, first_s: float, later_s: float
) -> None:
    turns = Turns(55.0)
    assert first_s <= turns.end("first", wait_s, first_s) <= first_s + wait_s
    begun_s = first_s + later_s
    end = turns.end(client, wait_s, begun_s)
    assert begun_s <= end <= begun_s + wait_s
    if begun_s - first_s >= 55.0:
        assert end == begun_s + wait_s


def test_clients_that_come_back_together_are_spread_over_the_whole_time() -> None:
    turns = Turns(55.0)
    seconds = [0] * 55
    for number in range(5500):
        seconds[int(turns.end(f"client-{number:05d}", 55.0, 1000.0) - 1000.0) % 55] += 1
    assert min(seconds) > 60
    assert max(seconds) < 140
