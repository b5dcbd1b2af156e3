"""Value encodings: error bounds, rounding, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhft.adapter import Float32
from fedhft.errors import ErrorCode, FedhftError
from fedhft.v1 import tensor_pb2 as pb
from fedhft.wire.values import ENCODINGS, Streams, decode_values, encode_values, group_count
from tests.unit.wire_examples import ENCODINGS as NAMES
from tests.unit.wire_examples import finite

INT8 = ENCODINGS["int8"]


def through(
    values: Float32,
    encoding: str,
    sizes: list[int] | None = None,
    group: int = 16,
    seed: int | None = None,
    levels: int = 127,
) -> Float32:
    sizes = [len(values)] if sizes is None else sizes
    number = ENCODINGS[encoding]
    return decode_values(encode_values(values, sizes, number, group, seed, levels), sizes, number, group)


def floats(limit: float, **settings: int) -> st.SearchStrategy[Float32]:
    return st.lists(finite(limit), **settings).map(lambda values: np.array(values, np.float32))


def group_maxima(values: Float32, sizes: list[int], group: int) -> Float32:
    """Largest magnitude of the group of each value, found the slow way."""
    found, start = [], 0
    for size in sizes:
        for at in range(start, start + size, group):
            piece = values[at : min(at + group, start + size)]
            found += [np.abs(piece).max()] * len(piece)
        start += size
    return np.array(found, np.float32)


@given(floats(3.4028234663852886e38, max_size=60))
def test_fp32_is_exact_to_the_bit(values: Float32) -> None:
    assert through(values, "fp32").tobytes() == values.tobytes()


@given(floats(65504.0, max_size=60))
def test_fp16_rounds_to_the_nearest_half(values: Float32) -> None:
    assert np.array_equal(through(values, "fp16"), values.astype(np.float16).astype(np.float32))


@given(floats(3.3895313892515355e38, max_size=60))
def test_bf16_is_off_by_at_most_half_a_step_of_8_bits(values: Float32) -> None:
    wide = values.astype(np.float64)
    error = np.abs(through(values, "bf16") - wide)
    assert (error <= np.maximum(np.abs(wide) * 2.0**-8, 2.0**-134)).all()


def test_bf16_rounds_ties_to_even() -> None:
    values = np.array([1 + 2.0**-8, 1 + 3 * 2.0**-8, -1 - 2.0**-8, 1 + 2.0**-8 + 2.0**-20], np.float32)
    assert through(values, "bf16").tolist() == [1.0, 1 + 2.0**-6, -1.0, 1 + 2.0**-7]


@given(
    st.lists(st.lists(finite(2.0**127), max_size=70), max_size=4),
    st.integers(16, 40),
    st.sampled_from([None, 3]),
    st.sampled_from([1, 7, 15, 127]),
)
def test_int8_is_off_by_at_most_half_a_step_of_its_group(
    parts: list[list[float]], group: int, seed: int | None, levels: int
) -> None:
    values = np.array([value for part in parts for value in part], np.float32)
    sizes = [len(part) for part in parts]
    received = through(values, "int8", sizes, group, seed, levels).astype(np.float64)
    # A step is the group's largest magnitude / levels, rounded up to 4 fraction bits (2^-130 apart near zero).
    step = group_maxima(values, sizes, group).astype(np.float64) / levels * (17 / 16) * (1 + 1e-6) + 2.0**-130
    assert (np.abs(received - values) <= step * (0.5 if seed is None else 1.0)).all()


@given(floats(2.0**100, min_size=1, max_size=60), st.sampled_from([None, 3]), st.integers(1, 127))
def test_int8_codes_stay_within_the_levels_asked_for(values: Float32, seed: int | None, levels: int) -> None:
    (codes,) = encode_values(values, [len(values)], INT8, 16, seed, levels).codes
    assert np.abs(np.frombuffer(codes, np.int8).astype(int)).max() <= levels


@given(st.lists(finite(2.0**-10), min_size=1, max_size=60), st.sampled_from([1e-3, 1.0, 1e6]))
def test_a_loud_group_leaves_a_quiet_one_its_precision(quiet: list[float], loud: float) -> None:
    first = np.array(quiet, np.float32)
    together = through(np.concatenate([first, np.full(16, loud, np.float32)]), "int8", [len(first), 16], group=64)
    assert np.array_equal(together[: len(first)], through(first, "int8", group=64))


def test_scales_too_far_apart_for_one_byte_take_two() -> None:
    values = np.repeat(np.array([1e-30, 0.0, 1e30], np.float32), 16)
    streams = encode_values(values, [48], INT8, 16)
    assert len(streams.scales) == 2
    assert np.allclose(decode_values(streams, [48], INT8, 16), values, rtol=0.05, atol=0)
    assert len(encode_values(values[:32], [32], INT8, 16).scales) == 1


def test_zeros_stay_zero() -> None:
    for encoding in NAMES:
        assert not through(np.zeros(40, np.float32), encoding).any()


def test_stochastic_rounding_has_no_mean_error_where_nearest_has() -> None:
    values = np.full(16 * 500, 0.3, np.float32)
    values[::16] = 127.0
    small = np.arange(len(values)) % 16 != 0
    assert not through(values, "int8")[small].any()
    drawn = through(values, "int8", seed=11)[small]
    assert set(drawn.tolist()) == {0.0, 1.0}
    assert abs(float(drawn.mean()) - 0.3) < 0.02
    assert np.array_equal(drawn, through(values, "int8", seed=11)[small])
    assert not np.array_equal(drawn, through(values, "int8", seed=12)[small])


def test_decoded_values_are_products_exact_in_float32() -> None:
    values = np.random.default_rng(0).normal(size=640).astype(np.float32)
    streams = encode_values(values, [640], INT8, 64)
    codes = np.frombuffer(streams.codes[0], np.int8).astype(np.float64)
    scale = np.frombuffer(streams.scales[0], np.uint8).astype(np.uint32) + np.uint32(streams.scale_base - 1)
    exact = codes * np.repeat((scale << np.uint32(19)).view(np.float32), 64).astype(np.float64)
    assert np.array_equal(decode_values(streams, [640], INT8, 64).astype(np.float64), exact)


@pytest.mark.parametrize("encoding", NAMES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused_by_the_sender(encoding: str, bad: float) -> None:
    values = np.ones(40, np.float32)
    values[17] = bad
    with pytest.raises(FedhftError) as refusal:
        encode_values(values, [40], ENCODINGS[encoding], 64)
    assert refusal.value.code is ErrorCode.NON_FINITE
    assert encoding in refusal.value.message


@pytest.mark.parametrize(("encoding", "value"), [("fp16", 65536.0), ("bf16", 3.4e38), ("int8", 3.4e38)])
def test_values_that_would_become_infinite_are_refused_by_the_sender(encoding: str, value: float) -> None:
    with pytest.raises(FedhftError) as refusal:
        encode_values(np.array([value], np.float32), [1], ENCODINGS[encoding], 64)
    assert refusal.value.code is ErrorCode.NON_FINITE


@pytest.mark.parametrize(
    ("encoding", "streams"),
    [
        ("fp32", Streams((b"\xff", b"\x00", b"\x00", b"\x00"))),
        ("fp16", Streams((b"\xfc", b"\x01"))),
        ("bf16", Streams((b"\xff", b"\x00"))),
        ("int8", Streams((b"\x01",), (b"\x01",), 0x7F800000 >> 19)),
        ("int8", Streams((b"\x01",), (b"\x02",), 0xFFFFFFFF)),
        ("int8", Streams((b"\x7f",), (b"\x01",), (0x7F800000 >> 19) - 1)),
    ],
)
def test_nan_and_infinity_are_refused_by_the_receiver(encoding: str, streams: Streams) -> None:
    with pytest.raises(FedhftError) as refusal:
        decode_values(streams, [1], ENCODINGS[encoding], 64)
    assert refusal.value.code is ErrorCode.NON_FINITE


def test_code_minus_128_is_refused() -> None:
    with pytest.raises(FedhftError) as refusal:
        decode_values(Streams((b"\x80",), (b"\x01",), 100), [1], INT8, 64)
    assert refusal.value.code is ErrorCode.MALFORMED_UPDATE


def test_a_matrix_starts_a_new_group() -> None:
    assert group_count([64, 65, 0, 1], 64) == 4
    assert len(encode_values(np.ones(130, np.float32), [64, 65, 0, 1], INT8, 64).scales[0]) == 4


def test_the_encodings_are_those_of_the_protocol() -> None:
    assert ENCODINGS == {
        "fp32": pb.VALUE_ENCODING_FP32,
        "fp16": pb.VALUE_ENCODING_FP16,
        "bf16": pb.VALUE_ENCODING_BF16,
        "int8": pb.VALUE_ENCODING_INT8,
    }
