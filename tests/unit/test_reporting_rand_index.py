"""The adjusted Rand index, against scikit-learn's and by example."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fedhft.reporting.rand_index import adjusted_rand_index

PARTITIONS = st.lists(st.tuples(st.integers(0, 5), st.integers(-1, 4)), max_size=60)


@given(PARTITIONS)
@example([])
@example([(0, 0)])
@example([(0, 0), (0, 1), (0, 2)])
@example([(0, 0), (1, 0), (1, 0)])
@example([(0, 1), (1, 2), (2, 0)])
def test_it_is_what_scikit_learn_says_of_the_same_partitions(items: list[tuple[int, int]]) -> None:
    from sklearn.metrics import adjusted_rand_score

    groups, clusters = [group for group, _ in items], [cluster for _, cluster in items]
    assert adjusted_rand_index(groups, clusters) == pytest.approx(adjusted_rand_score(groups, clusters), abs=1e-12)


@given(PARTITIONS, st.permutations(range(-1, 5)))
def test_names_of_clusters_do_not_matter(items: list[tuple[int, int]], names: list[int]) -> None:
    groups, clusters = [group for group, _ in items], [cluster for _, cluster in items]
    renamed = [names[cluster + 1] for cluster in clusters]
    assert adjusted_rand_index(groups, renamed) == adjusted_rand_index(groups, clusters)


def test_hubert_and_arabies_bounds_are_met() -> None:
    assert adjusted_rand_index([0, 0, 1, 1], [5, 5, 2, 2]) == 1.0
    assert adjusted_rand_index([0, 0, 1, 1], [0, 1, 0, 1]) == -0.5
    assert adjusted_rand_index([0, 0, 1, 1], [0, 0, 0, 0]) == 0.0


def test_partitions_of_different_items_are_refused() -> None:
    with pytest.raises(ValueError, match="one of each per item"):
        adjusted_rand_index([0, 1], [0])
