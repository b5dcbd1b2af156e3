"""How well found clusters agree with the hidden groups: the adjusted Rand index (Hubert and Arabie 1985).

With n_ij items in group i and cluster j, row sums a_i, column sums b_j, n items and C2(x) = x (x - 1) / 2:

    index = (sum C2(n_ij) - E) / ((sum C2(a_i) + sum C2(b_j)) / 2 - E),   E = sum C2(a_i) sum C2(b_j) / C2(n)

1 for equal partitions, 0 on average for independent ones; names of groups and clusters do not matter.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def adjusted_rand_index(groups: Sequence[int], clusters: Sequence[int]) -> float:
    """Agreement of two partitions of the same items, at most 1. Raises ValueError for unequal lengths."""
    if len(groups) != len(clusters):
        raise ValueError(f"{len(groups)} groups for {len(clusters)} clusters; give one of each per item")
    _, rows = np.unique(np.asarray(groups), return_inverse=True)
    _, columns = np.unique(np.asarray(clusters), return_inverse=True)
    table = np.zeros((len(set(groups)), len(set(clusters))), np.int64)
    np.add.at(table, (rows, columns), 1)
    together, in_groups, in_clusters = _pairs(table), _pairs(table.sum(axis=1)), _pairs(table.sum(axis=0))
    if together == in_groups == in_clusters:
        return 1.0  # equal partitions, including those with no pair or all pairs together, where the quotient is 0 / 0
    product, every = in_groups * in_clusters, _pairs(table.sum(keepdims=True))
    return 2 * (together * every - product) / ((in_groups + in_clusters) * every - 2 * product)


def _pairs(counts: NDArray[np.int64]) -> int:
    """Pairs of items that lie in the same cell."""
    return int((counts * (counts - 1) // 2).sum())
