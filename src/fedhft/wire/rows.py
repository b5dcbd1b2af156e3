"""Which rows (or tensors) of many are present: the shortest of all, bitmap, Rice-coded gaps, or a seed.

The masked matrices of a message share one subset over their concatenated rows, so a matrix costs neither a count nor
padding: log2 C(sum n, sum k) exceeds sum log2 C(n, k) by a few bits per matrix only.

Rice coding (Rice and Plaunt 1971) of gaps g >= 0 with parameter m: g >> m in unary, then m low bits. All low bits stand
before all unary parts, so both can be read without a loop.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedhft import seeds
from fedhft.adapter import RowIndex, TensorKey
from fedhft.errors import ErrorCode, FedhftError
from fedhft.v1 import tensor_pb2 as pb

Positions = NDArray[np.int64]
"""Strictly increasing numbers, int64."""

_MOST_PARAMETER = 31


def encode_subset(present: Positions, size: int) -> pb.Subset:
    """The shortest explicit form of `present`, strictly increasing numbers in 0..size-1."""
    if len(present) == size:
        return pb.Subset(all=True)
    absent = np.ones(size, np.bool_)
    absent[present] = False
    candidates = [
        pb.Subset(bitmap=np.packbits(~absent, bitorder="little").tobytes()),
        pb.Subset(present=_encode_gaps(present)),
        pb.Subset(absent=_encode_gaps(np.flatnonzero(absent))),
    ]
    return min(candidates, key=pb.Subset.ByteSize)


def decode_subset(subset: pb.Subset, size: int) -> Positions:
    """Inverse of encode_subset. Memory is bounded by `size` and by the bytes received.

    Raises FedhftError(MALFORMED_UPDATE).
    """
    form = subset.WhichOneof("form")
    if form == "all":
        return np.arange(size, dtype=np.int64)
    if form == "bitmap":
        return _decode_bitmap(subset.bitmap, size)
    if form == "present":
        return _decode_gaps(subset.present, size)
    if form == "absent":
        kept = np.ones(size, np.bool_)
        kept[_decode_gaps(subset.absent, size)] = False
        return np.flatnonzero(kept)
    raise _malformed(f"form {form} is not allowed here")


def seeded_rows(seed: int, key: TensorKey, rows: int, kept: int) -> RowIndex:
    """`kept` of `rows` rows, ascending int32, drawn for one tensor from the specified generator.

    They are the rows with the smallest values of stream ("rows", seed, name, part). A random mask made by this
    function travels as its seed.
    """
    stream = seeds.seed_of("rows", seed, key.name, key.part.value)
    order = np.argsort(seeds.integers(stream, rows), kind="stable")
    return np.sort(order[:kept]).astype(np.int32)


def encode_seeded(seed: int, kept: Sequence[int]) -> pb.Subset:
    """The form in which rows drawn by `seeded_rows` travel; `kept` is one count per masked tensor."""
    return pb.Subset(seeded=pb.SeededRows(seed=seed, kept=kept))


def decode_seeded(subset: pb.SeededRows, keys: Sequence[TensorKey], rows: Sequence[int]) -> list[RowIndex]:
    """Rows of each masked tensor. Raises FedhftError(MALFORMED_UPDATE)."""
    if len(subset.kept) != len(keys):
        raise _malformed(f"{len(subset.kept)} row counts for {len(keys)} masked tensors")
    if any(kept > count for kept, count in zip(subset.kept, rows, strict=True)):
        raise _malformed("more seeded rows than the tensor has")
    return [
        seeded_rows(subset.seed, key, count, kept) for key, count, kept in zip(keys, rows, subset.kept, strict=True)
    ]


def _decode_bitmap(data: bytes, size: int) -> Positions:
    if len(data) != (size + 7) // 8:
        raise _malformed(f"a bitmap of {len(data)} bytes for {size} rows")
    present = np.flatnonzero(np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little"))
    if len(present) and present[-1] >= size:
        raise _malformed(f"row {present[-1]} of {size}")
    return present


def _encode_gaps(numbers: Positions) -> pb.RiceGaps:
    gaps = np.diff(numbers, prepend=-1) - 1
    parameter = _shortest_parameter(gaps)
    low = ((gaps[:, None] >> np.arange(parameter)) & 1).astype(np.uint8).ravel()
    ends = np.cumsum((gaps >> parameter) + 1)
    unary = np.zeros(int(ends[-1]) if len(ends) else 0, np.uint8)
    unary[ends - 1] = 1
    bits = np.packbits(np.concatenate([low, unary]), bitorder="little").tobytes()
    return pb.RiceGaps(count=len(numbers), parameter=parameter, bits=bits)


def _shortest_parameter(gaps: Positions) -> int:
    # The length is convex in the parameter: stop at the first rise.
    best, shortest = 0, None
    for parameter in range(_MOST_PARAMETER + 1):
        length = len(gaps) * (parameter + 1) + int((gaps >> parameter).sum())
        if shortest is not None and length >= shortest:
            break
        best, shortest = parameter, length
    return best


def _decode_gaps(gaps: pb.RiceGaps, size: int) -> Positions:
    count, parameter, data = gaps.count, gaps.parameter, gaps.bits
    if count > size or parameter > _MOST_PARAMETER:
        raise _malformed(f"{count} of {size} rows with Rice parameter {parameter}")
    most_bits = count * (parameter + 1) + (size >> parameter)
    if not (count * (parameter + 1) + 7) // 8 <= len(data) <= (most_bits + 7) // 8:
        raise _malformed(f"{len(data)} bytes of gaps for {count} of {size} rows")
    bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    low = bits[: count * parameter].reshape(count, parameter).astype(np.int64) @ (1 << np.arange(parameter))
    unary = bits[count * parameter :]
    ends = np.flatnonzero(unary)
    if len(ends) != count or len(unary) - (int(ends[-1]) + 1 if count else 0) > 7:
        raise _malformed(f"{len(ends)} gaps, expected {count}")
    high = np.diff(ends, prepend=-1) - 1
    # `high` sums to less than the bits received and is shifted by at most 31: no overflow in int64.
    numbers = np.cumsum((high << parameter) + low + 1) - 1
    if count and numbers[-1] >= size:
        raise _malformed(f"row {numbers[-1]} of {size}")
    return numbers


def _malformed(problem: str) -> FedhftError:
    return FedhftError(ErrorCode.MALFORMED_UPDATE, f"row mask cannot be read: {problem}; send the blob again")
