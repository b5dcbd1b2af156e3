"""Keeping clusters' identities: which new component is which old cluster, and what became of the others.

Components are matched to the last clusters by the assignment with the least sum of squared distances between means in
signature space (Kuhn 1955). Where their number changed some are left over:

    more     a new component splits off the cluster that most of its clients' weight comes from
    fewer    a cluster that nothing continues goes where most of its clients' weight goes

    flow_kj    = sum_i q_i p_ik p'_ij           q: clients' weights, p: last memberships, p': new ones
    origin_jk  = mass_k / sum of mass over the clusters that became j,   mass_k = sum_i q_i p_ik

So a split copies, and a merger is the mass-weighted mean; clusters that go on keep their numbers, except that the last
one takes the number of one that ended.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from fedhft.adapter import Float64


@dataclass(frozen=True, eq=False)
class Lineage:
    """What became of K clusters that are now J.

    origins: (J x K), each new cluster's state as a weighting of the old ones, rows summing to 1. shares: (K x J), how
    an old membership is spread over the new clusters, rows summing to 1.
    """

    origins: Float64
    shares: Float64


def match(previous: Float64, current: Float64) -> NDArray[np.int64]:
    """The new order of components: current[order[j]] is cluster j. previous (K x D), current (J x D), means.

    What continues cluster j keeps its number while there is one; further components come last.
    """
    distances = np.square(previous[:, None, :] - current[None]).sum(axis=2)
    old, new = linear_sum_assignment(distances)
    clusters = len(current)
    order = np.full(clusters, -1, np.int64)
    kept = old < clusters
    order[old[kept]] = new[kept]
    moved = [*new[~kept].tolist(), *sorted(set(range(clusters)) - set(new.tolist()))]
    order[order < 0] = moved
    return order


def lineage(previous: Float64, current: Float64, before: Float64, after: Float64, weights: Float64) -> Lineage:
    """What became of K clusters. previous, current: means (K x D), (J x D), these in their final order.

    before, after: memberships of the same clients, (n x K) and (n x J). weights: the clients' q_i, (n,).
    """
    then, now = len(previous), len(current)
    distances = np.square(previous[:, None, :] - current[None]).sum(axis=2)
    old, new = linear_sum_assignment(distances)
    mass = weights @ before
    flow = (before * weights[:, None]).T @ after
    became = np.zeros((then, now), np.bool_)
    became[old, new] = True
    for cluster in set(range(now)) - set(new.tolist()):  # it splits off
        became[_most(flow[:, cluster], -distances[:, cluster]), cluster] = True
    for cluster in set(range(then)) - set(old.tolist()):  # it ends
        became[cluster, _most(flow[cluster], -distances[cluster])] = True
    shares = became / became.sum(axis=1, keepdims=True)
    origins = (became * mass[:, None]).T
    massless = origins.sum(axis=1) <= 0.0
    certain = np.zeros((now, then))
    certain[new, old] = 1.0
    without = ~certain.any(axis=1)
    certain[without] = became.T[without]
    origins[massless] = certain[massless]
    return Lineage(origins / origins.sum(axis=1, keepdims=True), shares)


def _most(flow: Float64, nearness: Float64) -> int:
    return int(flow.argmax()) if flow.any() else int(nearness.argmax())
