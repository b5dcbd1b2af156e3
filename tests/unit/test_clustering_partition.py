"""Who belongs together: partitions of clients by what others say of them."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from fedhft.adapter import Float64
from fedhft.clustering.fitting import best_fit
from fedhft.clustering.partition import MOST_COMPARED, Labels, continued, evenly, partitions
from fedhft.clustering.subspace import principal, spanned
from fedhft.reporting.rand_index import adjusted_rand_index


def unit(rows: Float64) -> Float64:
    found: Float64 = rows / np.linalg.norm(rows, axis=-1, keepdims=True)
    return found


def grouped(groups: list[int], seed: int, noise: float = 1.0) -> Float64:
    draw = np.random.default_rng(seed)
    means = unit(draw.standard_normal((max(groups) + 1, 32)))
    return unit(means[groups] + noise * unit(draw.standard_normal((len(groups), 32))))


def partition(signatures: Float64, clusters: int) -> Labels | None:
    [found] = partitions(signatures, [clusters])
    return found


def value(signatures: Float64, labels: Labels) -> float:
    """The objective, written out."""
    total = 0.0
    for place, own in enumerate(signatures):
        others = [j for j in range(len(labels)) if j != place and labels[j] == labels[place]]
        total += float(unit(signatures[others].sum(axis=0)) @ own)
    return total


@pytest.mark.parametrize("seed", range(6))
def test_no_partition_of_clear_groups_is_better_than_the_one_found(seed: int) -> None:
    signatures = grouped([0, 1, 0, 1, 0, 1, 1], seed)
    found = partition(signatures, 2)
    assert found is not None
    every = [np.array((0, *rest)) for rest in product((0, 1), repeat=6)]
    best = max(value(signatures, one) for one in every if 2 <= one.sum() <= 5)
    assert value(signatures, found) == pytest.approx(best)


def test_clusters_have_two_members_or_there_is_no_partition() -> None:
    alone = unit(np.eye(6) + 0.01)
    for clusters in (2, 3):
        found = partition(alone, clusters)
        assert found is None or np.bincount(found, minlength=clusters).min() >= 2
    assert partition(alone[:3], 2) is None


def few_classes(clients: int, seed: int) -> tuple[Float64, list[int]]:
    """What clients of three groups that name four classes differently say, with two classes each; with noise."""
    draw = np.random.default_rng(seed)
    names = [draw.permutation(4) for _ in range(3)]
    texts = unit(draw.standard_normal((4, 8)))
    found = []
    for client in range(clients):
        held, called = draw.choice(4, 2, replace=False), names[client % 3]
        said = np.zeros((8, 4))
        for one in held:
            said += np.outer(texts[one], np.eye(4)[called[one]] - np.eye(4)[called[held]].mean(axis=0))
        found.append(unit(said.ravel()) + 0.5 * draw.standard_normal(said.size) / np.sqrt(said.size))
    return unit(np.array(found)), [client % 3 for client in range(clients)]


def test_groups_of_clients_with_few_classes_are_told_apart_better_than_by_what_varies_most() -> None:
    by_others, by_variance = [], []
    for seed in range(10):
        signatures, groups = few_classes(24, seed)
        found = partition(signatures, 3)
        assert found is not None
        by_others.append(adjusted_rand_index(groups, found.tolist()))
        points = principal(signatures, 2).project(signatures)
        likeliest = best_fit(points, 3, "diag", 1e-2).gaussians.log_joint(points).argmax(axis=1)
        by_variance.append(adjusted_rand_index(groups, likeliest.tolist()))
    assert np.mean(by_others) > 1.5 * np.mean(by_variance)


def test_the_means_of_a_partition_keep_their_distances_in_the_space_they_span() -> None:
    labels = np.array([0, 1, 2] * 4)
    signatures = grouped(labels.tolist(), 0)
    space = spanned(signatures, labels)
    means = np.stack([signatures[labels == label].mean(axis=0) for label in range(3)])
    assert space.basis.shape == (2, 32)
    np.testing.assert_allclose(space.lift(space.project(means)), means, atol=1e-12)


def test_a_partition_goes_on_until_another_is_clearly_better() -> None:
    signatures = grouped([0, 1] * 6, 3)
    crossed = np.array([0, 0, 1, 1] * 3)
    means = np.stack([signatures[crossed == label].mean(axis=0) for label in range(2)])
    found = continued(signatures, means)
    assert found is not None
    assert adjusted_rand_index([0, 1] * 6, found.tolist()) == 1.0
    kept, afresh = [], []
    for seed in range(10):  # without structure many partitions are about as good
        draw = np.random.default_rng(seed)
        noise = unit(draw.standard_normal((12, 32)))
        first = partition(noise, 3)
        assert first is not None
        means = np.stack([noise[first == label].mean(axis=0) for label in range(3)])
        jitter = unit(noise + 0.05 * draw.standard_normal(noise.shape))
        again, new = continued(jitter, means), partition(jitter, 3)
        assert again is not None
        assert new is not None
        kept.append(adjusted_rand_index(first.tolist(), again.tolist()))
        afresh.append(adjusted_rand_index(first.tolist(), new.tolist()))
    assert np.mean(kept) > np.mean(afresh) + 0.05


def test_of_very_many_clients_an_even_part_is_compared() -> None:
    assert evenly(5).tolist() == [0, 1, 2, 3, 4]
    chosen = evenly(10 * MOST_COMPARED)
    assert (len(chosen), chosen[0], chosen[-1]) == (MOST_COMPARED, 0, 10 * MOST_COMPARED - 1)
    assert len(set(np.diff(chosen).tolist())) <= 2
