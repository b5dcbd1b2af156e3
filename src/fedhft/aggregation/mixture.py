"""Mixtures: what a client starts from (FedHFT, Ilhan et al. 2025, arXiv 2510.14054).

    B = sum_j p_j B_j      h = sum_j p_j h_j      A as it is where all clusters share it
    Delta = sum_j p_j L_j R_j^T = [p_1 L_1 | p_2 L_2 | ...] [R_1 | R_2 | ...]^T

Linear in the published tensors, so server and client agree on it without any decomposition.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedhft.adapter import SHARED, AdapterState, Float32, Float64, Part, TensorKey, cluster_scope
from fedhft.aggregation.versions import add_product, smaller_dense
from fedhft.errors import ErrorCode, FedhftError


def served(memberships: Sequence[float], floor: float) -> tuple[float, ...]:
    """Memberships a client is served by: entries below `floor` become 0, the rest sums to 1 again.

    Every cluster with a positive weight costs the client a download, so small weights are dropped. When all are below
    the floor the largest ones stay. Raises FedhftError(INVALID_ARGUMENT) unless they are finite, >= 0 and not all 0.
    """
    weights = np.asarray(memberships, np.float64)
    if weights.ndim != 1 or not np.isfinite(weights).all() or (weights < 0).any() or not weights.sum() > 0:
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, "memberships", tuple(memberships), "is not a weighting of clusters",
            "give one finite weight >= 0 per cluster, not all 0",
        )  # fmt: skip
    weights = weights / weights.sum()
    weights = np.where(weights >= min(floor, float(weights.max())), weights, 0.0)
    return tuple((weights / weights.sum()).tolist())


def strongest(memberships: Sequence[float]) -> int:
    """Cluster of the largest membership, the first among equals."""
    return max(range(len(memberships)), key=lambda cluster: (memberships[cluster], -cluster))


def mix(state: AdapterState, memberships: Sequence[float]) -> dict[TensorKey, Float32]:
    """The tensors of a client with these memberships: the shared ones and the weighted sum over clusters, float32.

    Sums run in float64 in cluster order. A product slot comes as LEFT and RIGHT while that is smaller, else as PRODUCT.
    Clusters of weight 0 are not touched: the client need not hold them. Weights are used as given.
    Raises FedhftError(INVALID_ARGUMENT) unless there is one finite weight per cluster.
    """
    if len(memberships) != state.clusters or not all(np.isfinite(weight) for weight in memberships):
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, "memberships", tuple(memberships), f"the state has {state.clusters} clusters",
            "give one finite weight per cluster",
        )  # fmt: skip
    sums: dict[TensorKey, Float64] = {}
    factors: dict[str, tuple[list[Float32], list[Float32]]] = {}
    for cluster, weight in enumerate(memberships):
        if weight == 0.0:
            continue
        tensors = state.scope(cluster_scope(cluster))
        for key, matrix in tensors.items():
            if key.part is Part.LEFT:
                lefts, rights = factors.setdefault(key.name, ([], []))
                lefts.append((np.float64(weight) * matrix).astype(np.float32))
                rights.append(tensors[TensorKey(key.name, Part.RIGHT)])
            elif key.part is not Part.RIGHT:
                weighted = np.float64(weight) * matrix.astype(np.float64)
                sums[key] = sums[key] + weighted if key in sums else weighted
    mixed = dict(state.scope(SHARED))
    mixed.update({key: total.astype(np.float32) for key, total in sums.items()})
    for name, (lefts, rights) in factors.items():
        left, right = np.ascontiguousarray(np.hstack(lefts)), np.ascontiguousarray(np.hstack(rights))
        product = mixed.get(TensorKey(name, Part.PRODUCT))
        if product is None and not smaller_dense(len(left), len(right), left.shape[1]):
            mixed[TensorKey(name, Part.LEFT)], mixed[TensorKey(name, Part.RIGHT)] = left, right
            continue
        if product is None:
            product = np.zeros((len(left), len(right)), np.float32)
        add_product(product, left, right)
        mixed[TensorKey(name, Part.PRODUCT)] = product
    return mixed
