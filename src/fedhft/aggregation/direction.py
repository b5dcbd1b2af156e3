"""Which updates point against the others: a sketch of each, compared with those of its clusters.

    sketch   s = unit(count sketch of x): bucket h(row) xor h(column), with a sign (Charikar et al. 2002, "Finding
             frequent items in data streams"); <s_i, s_k> is cos(x_i, x_k) within about 1 / sqrt(BUCKETS) = .03
    others   c_i = sum_j p_ij (sum_k p_kj s_k - p_ij s_i)          of client i, by shared clusters, itself left out
    opposed  <s_i, c_i> / |c_i| < -threshold

A flipped update of full size, once it is clipped, still turns an average of few clients around; by its direction it can
be told. Every sketch has length 1, so nobody weighs more here by size or samples. Where more than a third would be left
out there is no direction to speak of, and nobody is.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fedhft import seeds
from fedhft.adapter import Float32, Float64, MaskedDelta, TensorKey

BUCKETS = 1024
_MOST_OPPOSED = 1 / 3
_LARGEST_KEPT = 1 << 14
"""Values of a tensor whose places are kept: 200 KB."""
_FEWEST = 3
"""Of two updates that disagree nobody knows which one is wrong."""


@dataclass(frozen=True)
class Measured:
    """What is kept of an accepted update beside its bytes."""

    norm: float
    """Frobenius norm."""
    sketch: str
    """Its direction, BUCKETS values in 8 bits each, base64; empty for an update that moves nothing."""

    @classmethod
    def of(cls, delta: MaskedDelta) -> Measured:
        """Norm and direction of an update."""
        norm = delta.norm()
        return cls(norm, _packed(_sums(delta)) if norm > 0 else "")


NOTHING = Measured(0.0, "")
"""Of an update that moves nothing, or of none."""


def opposed(
    sketches: Mapping[str, str], memberships: Mapping[str, Sequence[float]], threshold: float
) -> tuple[str, ...]:
    """Clients whose updates point against the others of their clusters, sorted; threshold 0 finds none.

    sketches: client -> `Measured.sketch`. memberships: weights over the same clusters for each of them.
    """
    clients = sorted(client for client, sketch in sketches.items() if sketch)
    if not threshold or len(clients) < _FEWEST:
        return ()
    # One sketch at a time, twice: those of ten thousand clients together would take 80 MB.
    sums = np.zeros((len(memberships[clients[0]]), BUCKETS))
    for client in clients:
        sums += np.outer(memberships[client], _unpacked(sketches[client]))
    found = []
    for client in clients:
        unit, weights = _unpacked(sketches[client]), np.asarray(memberships[client], np.float64)
        others = weights @ sums - float(weights @ weights) * unit
        length = float(np.linalg.norm(others))
        if length > 0 and float(unit @ others) / length < -threshold:
            found.append(client)
    return tuple(found) if len(found) <= _MOST_OPPOSED * len(clients) else ()


@lru_cache(maxsize=4096)
def _hashes(key: TensorKey, axis: int, size: int) -> NDArray[np.uint16]:
    seed = seeds.seed_of("sketch", key.name, key.part.value, axis)
    return (seeds.integers(seed, size) % np.uint64(2 * BUCKETS)).astype(np.uint16)


def _places(key: TensorKey, rows: int, cols: int) -> tuple[NDArray[np.intp], Float32]:
    """Bucket and sign of every value of a tensor, (rows x cols) each."""
    mixed = _hashes(key, 0, rows)[:, None] ^ _hashes(key, 1, cols)[None, :]
    return (mixed & (BUCKETS - 1)).astype(np.intp), np.where(mixed & BUCKETS, np.float32(-1), np.float32(1))


@lru_cache(maxsize=128)
def _kept_places(key: TensorKey, rows: int, cols: int) -> tuple[NDArray[np.intp], Float32]:
    return _places(key, rows, cols)


def _sums(delta: MaskedDelta) -> Float64:
    sums = np.zeros(BUCKETS)
    for key, matrix in delta:
        # Working the places out takes longer than using them; those of a large tensor would take too much memory.
        find = _kept_places if matrix.rows * matrix.cols <= _LARGEST_KEPT else _places
        buckets, signs = find(key, matrix.rows, matrix.cols)
        if matrix.index is not None:
            buckets, signs = buckets[matrix.index], signs[matrix.index]
        sums += np.bincount(buckets.ravel(), (matrix.values * signs).ravel(), BUCKETS)
    return sums


def _packed(sums: Float64) -> str:
    largest = float(np.abs(sums).max())
    if not largest > 0:
        return ""
    return base64.b64encode(np.rint(sums * (127 / largest)).astype(np.int8).tobytes()).decode("ascii")


def _unpacked(sketch: str) -> Float64:
    values = np.frombuffer(base64.b64decode(sketch), np.int8).astype(np.float64)
    length = float(np.linalg.norm(values))
    return values / length if length > 0 else values
