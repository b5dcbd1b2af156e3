"""How many clusters, asked of unseen halves (fedhft.clustering.prediction)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from signing import DIMS, halves

from fedhft.clustering.prediction import gains_of, t_value, verdict, voting

SEEDS = 3


@pytest.mark.parametrize(("clients", "groups"), [(4, 2), (6, 2), (12, 3), (30, 4)])
@pytest.mark.parametrize("reliability", [0.3, 0.6])
def test_the_right_number_of_groups_is_found_for_every_seed(clients: int, groups: int, reliability: float) -> None:
    labels = np.arange(clients) % groups
    found = [verdict(*halves(labels, seed, reliability=reliability), 4) for seed in range(SEEDS)]
    assert [one.clusters for one in found] == [groups] * SEEDS
    assert all(one.certainty > 0.95 for one in found)


@pytest.mark.parametrize("clients", [4, 12, 30])
@pytest.mark.parametrize("reliability", [0.0, 0.4, 0.8])
def test_clients_that_all_mean_the_same_are_one_cluster(clients: int, reliability: float) -> None:
    labels = np.zeros(clients, np.int64)
    found = [verdict(*halves(labels, seed, reliability=reliability), 4).clusters for seed in range(SEEDS)]
    assert sum(count > 1 for count in found) <= 1


def test_halves_that_do_not_agree_say_nothing() -> None:
    for seed in range(SEEDS):
        found = verdict(*halves([0, 1] * 6, seed, reliability=0.0), 4)
        assert found.clusters == 1
        if not found.says_something:
            assert found.tried == ()


def test_clients_without_two_halves_do_not_vote_and_change_nothing() -> None:
    first, second = halves([0, 1] * 4, 1)
    silent = np.zeros((3, DIMS))
    rest = verdict(first, second, 4)
    assert rest.voters == 8
    with_silent = verdict(np.vstack([first, silent]), np.vstack([second, first[:3]]), 4)
    assert with_silent == rest
    assert voting(np.vstack([first, silent]), np.vstack([second, first[:3]])).tolist() == [True] * 8 + [False] * 3


def test_three_voters_decide_nothing() -> None:
    first, second = halves([0, 1, 0], 1)
    found = verdict(first, second, 4)
    assert (found.clusters, found.says_something, found.tried) == (1, False, ())
    assert not verdict(first[:0], second[:0], 4).says_something


def test_no_more_clusters_than_the_maximum_or_half_the_voters() -> None:
    labels = np.arange(24) % 4
    assert verdict(*halves(labels, 1), 4).clusters == 4
    assert verdict(*halves(labels, 1), 3).clusters <= 3
    assert max(one.clusters for one in verdict(*halves([0, 1, 2, 0, 1, 2], 2), 8).tried) <= 3


def test_what_held_the_present_number_is_measured_against_one_fewer() -> None:
    three = verdict(*halves(np.arange(12) % 3, 3), 4, present=3)
    assert three.held is not None
    assert three.held == pytest.approx(three.tried[1].step)
    gone = verdict(*halves(np.zeros(12, np.int64), 3), 4, present=2)
    assert gone.held is not None
    assert gone.held < 0.10
    assert verdict(*halves([0, 1] * 2, 3), 4, present=3).held is None  # four voters cannot try three clusters


def test_the_gain_is_the_equation_of_the_docstring() -> None:
    first, second = halves([0, 1] * 3, 5)
    labels = np.array([0, 1] * 3)
    unit = lambda row: row / np.linalg.norm(row)  # noqa: E731
    signatures = [unit(u + v) for u, v in zip(first, second, strict=True)]
    scale = np.sqrt(max(np.mean(np.sum(first * second, axis=1)), 0.02))
    expected = []
    for i in range(6):
        own = unit(sum(signatures[j] for j in range(6) if j != i and labels[j] == labels[i]))
        everybody = unit(sum(signatures[j] for j in range(6) if j != i))
        expected.append(np.mean([(own - everybody) @ unseen[i] for unseen in (second, first)]) / scale)
    found = gains_of(2, [labels, labels], first, second)
    assert found is not None
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_a_number_without_a_partition_is_out() -> None:
    first, second = halves([0, 1] * 3, 5)
    assert gains_of(2, [np.array([0, 1] * 3), None], first, second) is None


@given(st.permutations(range(8)), st.integers(0, 5))
@settings(deadline=None, max_examples=5)
def test_the_order_of_clients_does_not_matter(order: list[int], seed: int) -> None:
    first, second = halves([0, 1] * 4, seed)
    one, turned = verdict(first, second, 4), verdict(first[order], second[order], 4)
    assert turned.clusters == one.clusters == 2
    assert turned.certainty == pytest.approx(one.certainty)


@pytest.mark.parametrize(("values", "t"), [([1.0, 1.0], 1000.0), ([-1.0, -1.0], -1000.0), ([0.0, 0.0], 0.0)])
def test_t_of_values_that_are_all_equal_is_bounded(values: list[float], t: float) -> None:
    assert t_value(np.array(values)) == t
    assert t_value(np.array([1.0, 2.0, 3.0])) == pytest.approx(2.0 / (1.0 / np.sqrt(3.0)))


def test_equal_halves_and_clients_are_one_cluster() -> None:
    first, _ = halves([0], 1)
    same = np.repeat(first, 8, axis=0)
    assert verdict(same, same, 4).clusters == 1
