"""How many clusters: right when there are groups, one when there are none (fedhft.clustering.selection)."""

from __future__ import annotations

import numpy as np
import pytest
from signing import around, centroids, structureless

from fedhft.clustering.selection import choose_clusters, confidence

SEEDS = 30


@pytest.mark.parametrize("clients", [4, 6, 8, 12, 30])
@pytest.mark.parametrize("rank", [0, 3])
def test_structureless_clients_are_one_cluster(clients: int, rank: int) -> None:
    chosen = [choose_clusters(structureless(clients, seed, rank=rank), 4) for seed in range(SEEDS)]
    assert sum(count > 1 for count in chosen) <= 1


@pytest.mark.parametrize(("clients", "groups"), [(6, 2), (8, 2), (12, 2), (12, 3), (30, 2), (30, 3), (30, 4)])
def test_the_right_number_of_groups_is_found(clients: int, groups: int) -> None:
    labels = np.arange(clients) % groups
    found = [choose_clusters(around(centroids(groups, seed), labels, seed), 4) for seed in range(SEEDS)]
    assert found.count(groups) >= 0.9 * SEEDS


@pytest.mark.parametrize("clients", [100, 200])
def test_many_clients_are_not_split_because_their_cloud_is_bent(clients: int) -> None:
    for seed in range(4):
        for rank in (1, 3):
            assert choose_clusters(structureless(clients, seed, rank=rank), 6) == 1
        labels = np.arange(clients) % 4
        assert choose_clusters(around(centroids(4, seed, between=0.3, within=0.5), labels, seed, within=0.5), 6) == 4


def test_no_more_clusters_than_half_the_clients_or_the_job_s_maximum() -> None:
    labels = np.arange(24) % 6
    signatures = around(centroids(6, 1), labels, 1)
    assert choose_clusters(signatures, 8) == 6
    assert choose_clusters(signatures, 4) <= 4
    tight = around(centroids(3, 2, within=0.999), [0, 0, 1, 1, 2], 2, within=0.999)
    assert choose_clusters(tight, 8) <= 2
    assert choose_clusters(signatures[:3], 8) == 1
    assert choose_clusters(signatures[:0], 8) == 1


def test_equal_signatures_are_one_cluster() -> None:
    assert choose_clusters(np.repeat(structureless(1, 1), 10, axis=0), 4) == 1


def test_confidence_tells_groups_from_noise() -> None:
    labels = np.arange(12) % 3
    for seed in range(10):
        assert confidence(around(centroids(3, seed), labels, seed), 3) > 0.99
    doubts = [confidence(structureless(12, seed), clusters) for seed in range(SEEDS) for clusters in (2, 3)]
    assert np.mean(doubts) < 0.35
    assert confidence(np.repeat(structureless(1, 1), 10, axis=0), 3) < 1e-9
