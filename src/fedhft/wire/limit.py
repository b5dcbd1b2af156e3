"""The shortest a message could be, against which `benchmarks.wire` and the tests hold the codec.

limit = sum over matrices log2 C(n, k) + sum over streams N H(stream), in bits, with n rows of which k are present and
H the zeroth-order entropy of a stream's bytes. Scales count with their own entropy, not with the bytes they happen to
take. What no coder can avoid in practice (shapes, digests, the table of symbol frequencies) is not in the limit: it is
overhead.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fedhft.adapter import AdapterSchema, MaskedDelta
from fedhft.wire.codec import ordered_keys
from fedhft.wire.entropy import entropy_bits
from fedhft.wire.values import ENCODINGS, MOST_LEVELS, encode_values


@dataclass(frozen=True)
class Limit:
    """Parts of the limit, bits."""

    rows: float
    codes: float
    scales: float

    @property
    def bytes(self) -> float:
        """The whole limit, bytes."""
        return (self.rows + self.codes + self.scales) / 8

    def overhead(self, size: int) -> float:
        """How much longer a blob of `size` bytes is, as a fraction of the limit; 0 for a limit of 0."""
        return size / self.bytes - 1 if self.bytes else 0.0


def limit_of(
    delta: MaskedDelta,
    schema: AdapterSchema,
    *,
    encoding: str,
    group: int = 64,
    levels: int = MOST_LEVELS,
    rounding_seed: int | None = None,
) -> Limit:
    """Limit of `codec.encode` with the same arguments. Raises the same errors for values that cannot be coded."""
    matrices = [delta.tensors[key] for key in ordered_keys(delta, schema)]
    values = [matrix.values.reshape(-1) for matrix in matrices]
    joined = np.concatenate(values) if values else np.zeros(0, np.float32)
    sizes = [len(piece) for piece in values]
    streams = encode_values(joined, sizes, ENCODINGS[encoding], group, rounding_seed, levels)
    return Limit(
        rows=sum(choices_bits(matrix.rows, matrix.kept) for matrix in matrices),
        codes=sum(entropy_bits(stream) for stream in streams.codes),
        scales=sum(entropy_bits(stream) for stream in streams.scales),
    )


def choices_bits(size: int, kept: int) -> float:
    """log2 C(size, kept): bits to say which `kept` of `size` rows are present."""
    return (math.lgamma(size + 1) - math.lgamma(kept + 1) - math.lgamma(size - kept + 1)) / math.log(2)
