"""Synthetic signatures for the tests of clustering: groups of clients around centroids in 256 dimensions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fedhft.adapter import Float32, Float64

DIMS = 256


def centroids(count: int, seed: int, *, between: float = 0.2, within: float = 0.7) -> Float64:
    """`count` centroids such that clients of a group have cosine `within` and of two groups `between`, on average."""
    rng = np.random.default_rng([1, seed])
    base, own = rng.standard_normal(DIMS), rng.standard_normal((count, DIMS))
    base /= np.linalg.norm(base)
    own /= np.linalg.norm(own, axis=1, keepdims=True)
    return np.sqrt(between) * base + np.sqrt(within - between) * own


def around(centers: Float64, labels: Sequence[int] | NDArray[np.int64], seed: int, *, within: float = 0.7) -> Float64:
    """One unit-norm signature per label: its centroid and isotropic noise."""
    rng = np.random.default_rng([2, seed])
    noise = np.sqrt((1.0 - within) / DIMS) * rng.standard_normal((len(labels), DIMS))
    signatures: Float64 = centers[np.asarray(labels)] + noise
    return signatures / np.linalg.norm(signatures, axis=1, keepdims=True)


def structureless(clients: int, seed: int, *, rank: int = 0, within: float = 0.6) -> Float64:
    """Clients that differ by noise alone: isotropic, or mostly in `rank` directions of falling strength."""
    rng = np.random.default_rng([3, seed])
    center = rng.standard_normal(DIMS)
    noise = rng.standard_normal((clients, DIMS)) / np.sqrt(DIMS)
    if rank:
        directions = rng.standard_normal((rank, DIMS)) / np.sqrt(np.arange(1, rank + 1))[:, None]
        directions /= np.linalg.norm(directions)
        noise = rng.standard_normal((clients, rank)) @ directions + 0.1 * noise
    signatures: Float64 = np.sqrt(within) * center / np.linalg.norm(center) + np.sqrt(1.0 - within) * noise
    return signatures / np.linalg.norm(signatures, axis=1, keepdims=True)


def named(signatures: Float64, first: int = 0) -> dict[str, Float32]:
    """Signatures as clients send them."""
    return {f"client-{first + i:02d}": row.astype(np.float32) for i, row in enumerate(signatures)}


def largest(rows: Mapping[str, Sequence[float]], names: Sequence[str] | None = None) -> list[int]:
    """Index of each client's largest membership, clients in order."""
    return [int(np.argmax(rows[name])) for name in (names if names is not None else sorted(rows))]


def same_partition(first: Sequence[int], second: Sequence[int]) -> bool:
    """Whether two labellings group the clients alike."""
    pairs = set(zip(first, second, strict=True))
    return len(pairs) == len(set(first)) == len(set(second))


def halves(
    labels: Sequence[int] | NDArray[np.int64], seed: int, *, reliability: float = 0.4, apart: float = 1.5
) -> tuple[Float64, Float64]:
    """Two halves per client (n x DIMS): mean product `reliability`; groups' meanings have a cosine of 1 - `apart`."""
    rng = np.random.default_rng([4, seed])
    groups = int(max(labels)) + 1
    own = np.linalg.qr(rng.standard_normal((DIMS, groups + 1)))[0].T
    meanings = own[1:]
    if groups > 1 and apart > 1.0:  # around their mean: cosines of -1 / (groups - 1) at most
        meanings = meanings - min(1.0, apart - 0.5) * meanings.mean(axis=0)
    elif groups > 1:
        meanings = np.sqrt(1.0 - apart) * own[:1] + np.sqrt(apart) * meanings
    meanings = meanings / np.linalg.norm(meanings, axis=1, keepdims=True)

    def half() -> Float64:
        noise = rng.standard_normal((len(labels), DIMS)) / np.sqrt(DIMS)
        drawn: Float64 = np.sqrt(reliability) * meanings[np.asarray(labels)] + np.sqrt(1.0 - reliability) * noise
        return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)

    return half(), half()
