"""Value encodings: float32 arrays to byte streams and back.

fp32 is exact. fp16 and bf16 round to nearest even. int8 holds value = code * scale with |code| <= levels <= 127 and one
scale per group of values of one matrix.

`levels` is the s of QSGD (Alistarh et al. 2017, arXiv 1610.02132): the sender's choice, which a reader need not know.
The entropy stage behind it turns fewer levels into fewer bits, one bit a value for every halving.

An int8 scale is the group's largest magnitude / levels rounded *up* to 4 fraction bits. With an entropy stage behind
it a step that is up to 1/16 too wide costs no bits at equal error (wider steps make smaller codes), while a 16-bit
scale would cost twice the bits. And the product of an 8-bit code and a 5-bit scale is exact in float32: every machine
decodes the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedhft import seeds
from fedhft.adapter import Float32
from fedhft.errors import ErrorCode, FedhftError
from fedhft.v1 import tensor_pb2 as pb

ENCODINGS: dict[str, int] = {
    "fp32": pb.VALUE_ENCODING_FP32,
    "fp16": pb.VALUE_ENCODING_FP16,
    "bf16": pb.VALUE_ENCODING_BF16,
    "int8": pb.VALUE_ENCODING_INT8,
}
"""Names of the job file to numbers on the wire."""

Bits = NDArray[Any]
"""Values as unsigned integers of the encoding's width."""

LEAST_GROUP, MOST_GROUP = 16, 4096
MOST_LEVELS = 127

_FLOAT_BYTES: dict[int, int] = {pb.VALUE_ENCODING_FP32: 4, pb.VALUE_ENCODING_FP16: 2, pb.VALUE_ENCODING_BF16: 2}
_LARGEST: dict[int, float] = {
    pb.VALUE_ENCODING_FP32: float(np.finfo(np.float32).max),
    pb.VALUE_ENCODING_FP16: 65504.0,
    pb.VALUE_ENCODING_BF16: 2.0**127 * (2.0 - 2.0**-7),
    pb.VALUE_ENCODING_INT8: 2.0**127,
}
_BLOCK = 1 << 16
_SCALE_DROPPED_BITS = 19
"""Bits of a binary32 below its sign, exponent and 4 fraction bits."""
_INFINITE_SCALE = 0x7F800000 >> _SCALE_DROPPED_BITS


@dataclass(frozen=True)
class Streams:
    """Coded values before the entropy stage.

    codes: int8: one stream; floats: one per byte of a value, most significant first.
    scales: int8: one or two streams with one byte per group; floats: none.
    scale_base: see TensorBlock.scale_base.
    """

    codes: tuple[bytes, ...]
    scales: tuple[bytes, ...] = ()
    scale_base: int = 0


def value_bytes(encoding: int) -> int:
    """Bytes of one code; also the number of code streams. Raises FedhftError(MALFORMED_UPDATE) if unknown."""
    if encoding == pb.VALUE_ENCODING_INT8:
        return 1
    try:
        return _FLOAT_BYTES[encoding]
    except KeyError:
        raise FedhftError(
            ErrorCode.MALFORMED_UPDATE, f"encoding = {encoding}: not known here; upgrade fedhft"
        ) from None


def largest_value(encoding: str) -> float:
    """Largest magnitude that an encoding of the job file can hold."""
    return _LARGEST[ENCODINGS[encoding]]


def group_count(sizes: Sequence[int], group: int) -> int:
    """Number of int8 scales of matrices with these numbers of kept values."""
    return sum(-(-size // group) for size in sizes)


def encode_values(
    values: Float32,
    sizes: Sequence[int],
    encoding: int,
    group: int,
    rounding_seed: int | None = None,
    levels: int = MOST_LEVELS,
) -> Streams:
    """Code the concatenated kept values of matrices of `sizes` values each.

    values: float32 (n,). rounding_seed: int8 rounds up with probability equal to the fraction, drawn from this
    stream of the specified generator, so that the mean error is zero; None rounds to nearest.
    levels: int8 codes lie in -levels..levels, 1 to 127.
    Raises FedhftError(NON_FINITE) for NaN, infinities and values the encoding cannot hold.
    """
    largest = float(np.abs(values).max(initial=0.0))
    if not largest <= _LARGEST[encoding]:
        name = next(name for name, number in ENCODINGS.items() if number == encoding)
        raise FedhftError(
            ErrorCode.NON_FINITE,
            f"values hold {largest}: {name} carries finite values up to {_LARGEST[encoding]:.4g}; "
            "lower the learning rate or choose a wider encoding",
        )
    if encoding == pb.VALUE_ENCODING_INT8:
        return _encode_int8(values, sizes, group, rounding_seed, levels)
    return Streams(_byte_planes(_float_bits(values, encoding)))


def decode_values(streams: Streams, sizes: Sequence[int], encoding: int, group: int) -> Float32:
    """Inverse of encode_values; streams already have the lengths that `sizes` demand.

    Raises FedhftError(MALFORMED_UPDATE) for codes no sender makes, (NON_FINITE) for NaN or infinities.
    """
    if encoding == pb.VALUE_ENCODING_INT8:
        values = _decode_int8(streams, sizes, group)
    else:
        values = _floats(_from_planes(streams.codes), encoding)
    if not np.isfinite(values).all():
        raise FedhftError(
            ErrorCode.NON_FINITE, "the update holds NaN or infinite values; lower the learning rate and train again"
        )
    return values


def _float_bits(values: Float32, encoding: int) -> Bits:
    if encoding == pb.VALUE_ENCODING_FP16:
        return values.astype("<f2").view("<u2")
    bits = values.astype("<f4", copy=False).view("<u4")
    if encoding == pb.VALUE_ENCODING_FP32:
        return bits
    nearest_even = np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    upper: Bits = ((bits + nearest_even) >> np.uint32(16)).astype("<u2")
    return upper


def _floats(bits: Bits, encoding: int) -> Float32:
    if encoding == pb.VALUE_ENCODING_FP16:
        return bits.view("<f2").astype(np.float32)
    if encoding == pb.VALUE_ENCODING_BF16:
        bits = bits.astype("<u4") << np.uint32(16)
    return bits.view("<f4").astype(np.float32, copy=False)


def _byte_planes(bits: Bits) -> tuple[bytes, ...]:
    # Sign last: it is noise, and without it the exponent fills its byte alone (fp32, bf16).
    width = bits.dtype.itemsize
    rotated: Bits = (bits << bits.dtype.type(1)) | (bits >> bits.dtype.type(8 * width - 1))
    planes = rotated.view(np.uint8).reshape(-1, width)
    return tuple(planes[:, plane].tobytes() for plane in reversed(range(width)))


def _from_planes(planes: Sequence[bytes]) -> Bits:
    width = len(planes)
    # Shifted together, not interleaved byte by byte: whole words are several times faster.
    bits: Bits = np.frombuffer(planes[0], np.uint8).astype(f"=u{width}")
    for plane in planes[1:]:
        bits <<= bits.dtype.type(8)
        bits |= np.frombuffer(plane, np.uint8)
    one, top = bits.dtype.type(1), bits.dtype.type(8 * width - 1)
    # In place and a block at a time: the reader of a large update holds its values once, not three times.
    for start in range(0, len(bits), _BLOCK):
        block = bits[start : start + _BLOCK]
        sign = block << top
        block >>= one
        block |= sign
    return bits


def _group_lengths(sizes: Sequence[int], group: int) -> NDArray[np.int64]:
    size = np.asarray(sizes, np.int64)
    count = -(-size // group)
    lengths = np.full(int(count.sum()), group, np.int64)
    filled = count > 0
    lengths[np.cumsum(count)[filled] - 1] = (size - (count - 1) * group)[filled]
    return lengths


def _encode_int8(values: Float32, sizes: Sequence[int], group: int, rounding_seed: int | None, levels: int) -> Streams:
    lengths = _group_lengths(sizes, group)
    if not len(lengths):
        return Streams((b"",), (b"",))
    starts = np.cumsum(lengths) - lengths
    largest = np.maximum.reduceat(np.abs(values), starts)
    step = np.uint32((1 << _SCALE_DROPPED_BITS) - 1)
    upper = ((largest / np.float32(levels)).view(np.uint32) + step) >> np.uint32(_SCALE_DROPPED_BITS)
    scale = _scale(upper)
    # A divisor of 1 for groups of zeros: 0 / 1 = 0.
    divisor = np.where(scale > 0, scale, np.float32(1))
    if rounding_seed is None:
        codes = np.rint(values / np.repeat(divisor, lengths))
    else:
        unit = (seeds.integers(rounding_seed, len(values)) >> np.uint64(11)).astype(np.float64) * 2.0**-53
        codes = np.floor(values.astype(np.float64) / np.repeat(divisor, lengths) + unit)
    # The quotient is at most `levels` but for one rounding of the division.
    coded = np.clip(codes, -levels, levels).astype(np.int8).tobytes()
    present = upper[upper > 0]
    base = int(present.min()) if len(present) else 0
    number = np.where(upper > 0, upper - np.uint32(base) + np.uint32(1), np.uint32(0)).astype(np.uint32)
    low = (number & np.uint32(0xFF)).astype(np.uint8).tobytes()
    if int(number.max()) <= 0xFF:
        return Streams((coded,), (low,), base)
    return Streams((coded,), ((number >> np.uint32(8)).astype(np.uint8).tobytes(), low), base)


def _decode_int8(streams: Streams, sizes: Sequence[int], group: int) -> Float32:
    codes = np.frombuffer(streams.codes[0], np.int8)
    if codes.min(initial=0) < -127:
        raise FedhftError(ErrorCode.MALFORMED_UPDATE, "values hold code -128, which no sender makes; send again")
    number = np.frombuffer(streams.scales[-1], np.uint8).astype(np.int64)
    if len(streams.scales) == 2:
        number += np.frombuffer(streams.scales[0], np.uint8).astype(np.int64) << 8
    upper = np.where(number > 0, number + (streams.scale_base - 1), 0)
    if upper.max(initial=0) >= _INFINITE_SCALE or upper.min(initial=0) < 0:
        raise FedhftError(ErrorCode.NON_FINITE, "the update holds an infinite scale; train again")
    scale = _scale(upper.astype(np.uint32))
    with np.errstate(over="ignore"):
        return codes.astype(np.float32) * np.repeat(scale, _group_lengths(sizes, group))


def _scale(upper: NDArray[np.uint32]) -> Float32:
    return (upper << np.uint32(_SCALE_DROPPED_BITS)).view(np.float32)
