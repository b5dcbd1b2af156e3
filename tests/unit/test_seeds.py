"""Keys of the specified generator."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fedhft import seeds

PARTS = st.lists(st.text(max_size=8) | st.integers(), max_size=4)
NAMES = st.lists(st.text(max_size=8), min_size=1, max_size=8)


@given(PARTS, NAMES, NAMES)
def test_a_name_draws_the_same_whoever_else_draws(parts: list[str | int], names: list[str], others: list[str]) -> None:
    together = seeds.keyed([*others, *names], *parts)[len(others) :]
    assert np.array_equal(together, seeds.keyed(names, *parts))


def test_names_draw_evenly_and_anew_for_every_key() -> None:
    names = [f"client-{number:05d}" for number in range(10_000)]
    first, second = (seeds.keyed(names, "sample", 0, number) / 2.0**64 for number in (1, 2))
    assert len(np.unique(first)) == len(names)
    for drawn in (first, second):
        assert abs(np.histogram(drawn, 10, (0.0, 1.0))[0] - 1000).max() < 150
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.05
