"""The specified integer generator: the same numbers on every machine, in numpy and in torch.

Starting values (A of every slot, the task head) and signature projections are never sent: both ends draw
them from this generator. It is SplitMix64 (Steele, Lea and Flood 2014) in counter mode, keyed by SHA-256 of the
parts, and only its top 24 bits become floats, so every value is exact in float32 and no library's own
generator, version or vector width can change a bit.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX2 = np.uint64(0x94D049BB133111EB)


def seed_of(*parts: str | int) -> int:
    """64-bit key of a sequence of names and numbers; ("a", 1) and ("a1",) differ."""
    text = "\x1f".join(map(_written, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def keyed(names: Sequence[str], *parts: str | int) -> NDArray[np.uint64]:
    """One number for every name, the same whatever the other names are: for draws among many.

    SplitMix64 of the key of the parts and a checksum of the name: two names in 2^32 draw the same.
    """
    sums = np.fromiter((zlib.crc32(name.encode()) for name in names), np.uint64, len(names))
    with np.errstate(over="ignore"):
        return _mixed(np.uint64(seed_of(*parts)) + (sums + np.uint64(1)) * _GOLDEN)


def _written(part: str | int) -> str:
    return f"{type(part).__name__}:{part}"


def integers(seed: int, count: int) -> NDArray[np.uint64]:
    """`count` uint64 values of the stream `seed`: SplitMix64 of seed + (i + 1) * golden ratio."""
    with np.errstate(over="ignore"):
        return _mixed(np.uint64(seed) + np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN)


def _mixed(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * _MIX1
    z = (z ^ (z >> np.uint64(27))) * _MIX2
    return z ^ (z >> np.uint64(31))


def uniform(seed: int, shape: tuple[int, ...], bound: float) -> NDArray[np.float32]:
    """float32 values in [-bound, bound) of the given shape, row-major."""
    count = int(np.prod(shape, dtype=np.int64))
    unit = (integers(seed, count) >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-23) - np.float32(1.0)
    return (unit * np.float32(bound)).reshape(shape)


def signs(seed: int, count: int) -> NDArray[np.float32]:
    """`count` float32 values, each -1 or +1 with equal probability."""
    return np.where(integers(seed, count) >> np.uint64(63), np.float32(1.0), np.float32(-1.0))
