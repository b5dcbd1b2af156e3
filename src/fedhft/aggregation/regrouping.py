"""Another number of clusters: what each new one's state is made of.

    state'_j = sum_k origin_jk state_k           and so its residual, momentum and squares

A split copies (origin_j is one cluster), a merger is the mass-weighted mean; see `clustering.identity`. It is exact for
the head and for B where clusters share A, and for products; where each cluster has an A of its own, A and B are
averaged apart. Sums run in float64 in the order of clusters; a scope that goes on alone keeps its bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from fedhft.adapter import SHARED, AdapterState, Float32, Float64, Part, TensorKey, cluster_scope
from fedhft.aggregation.lowrank import Product
from fedhft.aggregation.versions import ServerState, Tensors
from fedhft.errors import ErrorCode, FedhftError

Origins = Sequence[Sequence[float]]
"""(J x K): each new cluster's state as a weighting of the K old ones, >= 0, rows summing to 1."""

_TOLERANCE = 1e-9


def copies(clusters: int) -> Origins:
    """Origins of so many copies of a single cluster."""
    return ((1.0,),) * clusters


def known_origins(before: int, after: int, told: Origins) -> Origins:
    """Origins of `after` clusters from `before`: those told with the memberships where they fit.

    They do not when the number changed twice while nothing was published. Then clusters that both have go on, and
    further ones begin as the mean of all.
    """
    if len(told) == after and all(len(row) == before for row in told):
        return told
    mean = (1.0 / before,) * before
    return tuple(tuple(float(old == new) for old in range(before)) if new < before else mean for new in range(after))


def renewed(origins: Origins) -> tuple[str, ...]:
    """Scopes of which an old delta says nothing: all but those that go on alone under their own number."""
    return tuple(cluster_scope(j) for j, row in enumerate(origins) if not (j < len(row) and row[j] == 1.0))


def regroup(state: ServerState, origins: Origins, least_square: float = 0.0) -> ServerState:
    """The state with as many clusters as `origins` has rows; the version stays.

    least_square: what an absent tensor of `squares` stands for. Raises FedhftError(INVALID_ARGUMENT) for origins that
    are not weightings of the state's clusters.
    """
    before = state.state.clusters
    for row in origins:
        if len(row) != before or min(row) < 0.0 or abs(sum(row) - 1.0) > _TOLERANCE:
            raise FedhftError.field(
                ErrorCode.INVALID_ARGUMENT, "origins", tuple(row), f"is not a weighting of {before} clusters",
                "give one weight >= 0 per old cluster, summing to 1",
            )  # fmt: skip
    if not origins:
        raise FedhftError.field(ErrorCode.INVALID_ARGUMENT, "origins", (), "name no cluster", "give one row at least")

    def of(scopes: Mapping[str, Tensors], absent: float = 0.0) -> dict[str, Tensors]:
        made = {SHARED: scopes[SHARED]} if SHARED in scopes else {}
        old = [scopes.get(cluster_scope(k), {}) for k in range(before)]
        for j, row in enumerate(origins):
            if tensors := _weighted(old, row, absent):
                made[cluster_scope(j)] = tensors
        return made

    adapters = AdapterState(state.state.version, len(origins), of(state.state.scopes))
    return ServerState(adapters, of(state.residual), of(state.momentum), of(state.squares, least_square))


def _weighted(old: Sequence[Tensors], weights: Sequence[float], absent: float) -> Tensors:
    used = [(tensors, weight) for tensors, weight in zip(old, weights, strict=True) if weight > 0.0]
    if len(used) == 1:
        return used[0][0]
    made: dict[TensorKey, Float32] = {}
    for key in sorted({key for tensors, _ in used for key in tensors}, key=lambda key: (key.name, key.part.value)):
        if key.part in (Part.LEFT, Part.RIGHT, Part.PRODUCT):
            if key.name not in {done.name for done in made}:
                made.update(_product(used, key.name).tensors(key.name))
            continue
        total: Float64 | float = 0.0
        for tensors, weight in used:
            total = total + weight * (tensors[key].astype(np.float64) if key in tensors else absent)
        made[key] = np.asarray(total).astype(np.float32)
    return made


def _product(used: Sequence[tuple[Tensors, float]], name: str) -> Product:
    """The weighted sum of a slot's products, each held in factors, dense, or not at all."""
    total: Product | None = None
    for tensors, weight in used:
        shape = _shape(tensors, name)
        if shape is None:
            continue
        one = Product.held(tensors, name, *shape).scaled(np.full(shape[0], weight))
        total = one if total is None else total + one
    return total if total is not None else Product.zero(0, 0)


def _shape(tensors: Tensors, name: str) -> tuple[int, int] | None:
    dense = tensors.get(TensorKey(name, Part.PRODUCT))
    if dense is not None:
        return dense.shape[0], dense.shape[1]
    left, right = tensors.get(TensorKey(name, Part.LEFT)), tensors.get(TensorKey(name, Part.RIGHT))
    return None if left is None or right is None else (len(left), len(right))
