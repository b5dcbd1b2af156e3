"""Components are matched by where they are, not by their number (fedhft.clustering.identity)."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fedhft.clustering.identity import match


@given(order=st.permutations(range(5)), seed=st.integers(0, 2**32))
def test_a_permutation_is_undone(order: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    previous = rng.standard_normal((5, 16))
    current = (previous + 0.01 * rng.standard_normal((5, 16)))[order]
    assert [order[i] for i in match(previous, current)] == [0, 1, 2, 3, 4]


def test_matching_minimises_the_whole_distance_and_not_greedily() -> None:
    previous, current = np.array([[0.0], [1.0]]), np.array([[0.9], [2.5]])
    # Greedily previous 1 takes current 0 (0.1 away), which leaves 2.5 to previous 0: 0.01 + 6.25 against 0.81 + 2.25.
    assert match(previous, current).tolist() == [0, 1]
