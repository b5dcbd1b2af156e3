"""Who belongs together: k-means by direction in which nobody speaks for itself.

    z*     = argmax over partitions of  sum_i <o_i(z_i), x_i>
    o_i(k) = unit( sum of x_j over j != i with z_j = k )

for unit signatures x_i (spherical k-means, Dhillon and Modha 2001, with each client left out of the mean it is compared
with). In as many dimensions as there are, because the few directions in which clients vary most need not be those in
which groups do: where clients have few classes each, it is which classes those are. Leaving out matters, as a mean of
three clients points towards each of them whoever they are. Measured on AG News with groups and labels shared out by a
Dirichlet distribution of .3 (six federations of 20 projections): adjusted Rand index of the right number of clusters
.78 to 1.0 among clients with more than one class.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedhft.adapter import Float64
from fedhft.clustering.fitting import starts, tree_of

MOST_COMPARED = 2000
"""Of more an even part is asked: the answer is as sure, and ten thousand take no longer."""
CLEARLY = 0.1
"""Share of its value by which a new partition has to be better to take the place of the last one."""
_ROUNDS = 50
_LEAST_MEMBERS = 2

Labels = NDArray[np.int64]


def partitions(signatures: Float64, numbers: Iterable[int]) -> Iterator[Labels | None]:
    """For each number of clusters J the labels 0..J-1 (n,) of unit signatures (n x D), deterministic; None where no
    start comes to clusters of two or more members each.
    """
    tree = tree_of(signatures)
    for clusters in numbers:
        yield _best(signatures, clusters, tree).labels


def continued(signatures: Float64, means: Float64) -> Labels | None:
    """The partition that the means (J x D) of the last one come to, or a new one where that is clearly better."""
    last, new = _settled(signatures, means), _best(signatures, len(means), tree_of(signatures))
    if last.labels is None or new.value > last.value + CLEARLY * abs(last.value):
        return new.labels
    return last.labels


class _Settled(NamedTuple):
    value: float
    labels: Labels | None


def _best(signatures: Float64, clusters: int, tree: Float64 | None) -> _Settled:
    return max((_settled(signatures, means) for means in starts(signatures, clusters, tree)), key=lambda one: one.value)


def _settled(signatures: Float64, means: Float64) -> _Settled:
    """The best partition on the way from these means; value minus infinity where a cluster has fewer than two."""
    labels = (signatures @ means.T - 0.5 * np.square(means).sum(axis=1)).argmax(axis=1)
    best = _Settled(-np.inf, None)
    for _ in range(_ROUNDS):
        scores = _scores(signatures, labels, len(means))
        value = float(scores[np.arange(len(labels)), labels].sum())
        if value > best.value and np.bincount(labels, minlength=len(means)).min() >= _LEAST_MEMBERS:
            best = _Settled(value, labels)
        moved = scores.argmax(axis=1)
        if np.array_equal(moved, labels):
            break
        labels = moved
    return best


def evenly(count: int) -> NDArray[np.int64]:
    """Which of so many clients are compared: all, or MOST_COMPARED of them."""
    return np.linspace(0, count - 1, min(count, MOST_COMPARED)).round().astype(np.int64)


def _scores(signatures: Float64, labels: Labels, clusters: int) -> Float64:
    """<o_i(k), x_i> of every client and cluster, (n x J); minus infinity for a cluster with nobody else in it."""
    own = np.eye(clusters)[labels]
    sums = own.T @ signatures
    products = signatures @ sums.T
    lengths = np.square(signatures).sum(axis=1)[:, None]
    others = products - own * lengths
    norms = np.square(sums).sum(axis=1)[None] - own * (2.0 * products - lengths)
    alone = own.sum(axis=0)[None] - own < 1.0
    scores: Float64 = np.where(alone, -np.inf, others / np.sqrt(np.maximum(norms, np.finfo(np.float64).tiny)))
    return scores
