"""Which new component is which old cluster, and what became of the others (fedhft.clustering.identity)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhft.adapter import Float64
from fedhft.clustering.identity import lineage, match

PLACES = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])


def one_hot(labels: list[int], clusters: int) -> Float64:
    return np.eye(clusters)[labels]


def test_clusters_that_go_on_keep_their_numbers() -> None:
    order = match(PLACES[:3], PLACES[[2, 0, 1]] + 0.5)
    assert order.tolist() == [1, 2, 0]


def test_a_component_more_comes_last() -> None:
    assert match(PLACES[:2], PLACES[[3, 1, 0]]).tolist() == [2, 1, 0]
    assert match(PLACES[:1], PLACES[[1, 0, 2]]).tolist() == [1, 0, 2]


@pytest.mark.parametrize(
    ("left", "order"), [([1, 0], [1, 0]), ([0, 2], [0, 1]), ([2, 1], [0, 1])], ids=["last", "middle", "first"]
)
def test_the_last_cluster_takes_the_number_of_one_that_ended(left: list[int], order: list[int]) -> None:
    assert match(PLACES[:3], PLACES[left]).tolist() == order


def test_a_split_copies_the_cluster_that_its_clients_come_from() -> None:
    before = one_hot([0, 0, 1, 1, 1, 1], 2)
    after = one_hot([0, 0, 1, 1, 2, 2], 3)
    found = lineage(PLACES[:2], PLACES[:3], before, after, np.ones(6))
    assert found.origins.tolist() == [[1, 0], [0, 1], [0, 1]]
    assert found.shares.tolist() == [[1, 0, 0], [0, 0.5, 0.5]]


def test_a_merger_is_the_mean_by_the_mass_of_those_who_merge() -> None:
    before = one_hot([0, 0, 1, 2, 2, 2], 3)
    after = one_hot([0, 0, 1, 1, 1, 1], 2)
    found = lineage(PLACES[:3], PLACES[:2], before, after, np.array([1.0, 1.0, 10.0, 1.0, 1.0, 3.0]))
    np.testing.assert_allclose(found.origins, [[1, 0, 0], [0, 10 / 15, 5 / 15]])
    assert found.shares.tolist() == [[1, 0], [0, 1], [0, 1]]


def test_a_cluster_that_everybody_left_leaves_nothing_behind() -> None:
    before = one_hot([0, 0, 1, 1], 3)
    found = lineage(PLACES[:3], PLACES[:2], before, one_hot([0, 0, 1, 1], 2), np.ones(4))
    assert found.origins.tolist() == [[1, 0, 0], [0, 1, 0]]


def test_without_clients_clusters_follow_their_means() -> None:
    nobody = np.zeros((0, 3)), np.zeros((0, 2)), np.zeros(0)
    found = lineage(PLACES[:3], PLACES[:2], *nobody)
    assert found.origins.tolist() == [[1, 0, 0], [0, 1, 0]]


@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 12), st.integers(0, 99))
def test_origins_and_shares_are_weightings(then: int, now: int, clients: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    before, after = rng.dirichlet(np.ones(then), clients), rng.dirichlet(np.ones(now), clients)
    previous, current = rng.standard_normal((then, 4)), rng.standard_normal((now, 4))
    current = current[match(previous, current)]
    found = lineage(previous, current, before, after, rng.random(clients) + 0.1)
    for weighting in (found.origins, found.shares):
        assert (weighting >= 0).all()
        np.testing.assert_allclose(weighting.sum(axis=1), 1.0)
    if then <= now:
        assert (found.origins.max(axis=1) == 1.0).all()  # splits are copies
        assert found.origins[:then].tolist() == np.eye(then).tolist()


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
