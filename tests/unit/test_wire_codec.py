"""Blobs: what is sent comes back, byte for byte the same each time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhft.adapter import AdapterSchema, MaskedDelta, MaskedMatrix, Part, TensorKey
from fedhft.errors import ErrorCode, FedhftError
from fedhft.v1 import adapter_pb2
from fedhft.wire.codec import decode, encode
from fedhft.wire.rows import seeded_rows
from tests.unit.wire_examples import (
    BIG,
    DELTA,
    ENCODINGS,
    HEAD,
    LEFT,
    RIGHT,
    SMALL,
    UPDATE,
    A,
    B,
    delta_of,
    deltas,
    finite,
    masked_matrices,
    ones,
    schemas,
)

# -- round trips


@given(deltas(finite(3.4028234663852886e38)), st.integers(0, 2**64 - 1), st.sampled_from(["", "shared", "cluster-7"]))
def test_an_fp32_blob_comes_back_to_the_bit(case: tuple[AdapterSchema, MaskedDelta], version: int, scope: str) -> None:
    schema, delta = case
    data = encode(delta, schema, kind=DELTA, encoding="fp32", scope=scope, version=version)
    blob = decode(data, schema, kind=DELTA)
    assert (blob.kind, blob.scope, blob.version) == (DELTA, scope, version)
    assert list(blob.delta.tensors) == [key for key in schema.keys if key in delta.tensors]
    for key, sent in delta:
        received = blob.delta.tensors[key]
        assert (received.rows, received.cols) == (sent.rows, sent.cols)
        assert received.kept_rows.tolist() == sent.kept_rows.tolist()
        assert received.kept_rows.dtype == np.int32
        assert received.values.tobytes() == sent.values.tobytes()


@given(deltas(finite(1000.0)), st.sampled_from(ENCODINGS), st.integers(16, 4096), st.sampled_from([None, 5]))
def test_every_encoding_keeps_rows_and_stays_near_the_values(
    case: tuple[AdapterSchema, MaskedDelta], encoding: str, group: int, seed: int | None
) -> None:
    schema, delta = case
    data = encode(delta, schema, kind=UPDATE, encoding=encoding, group=group, rounding_seed=seed)
    received = decode(data, schema, kind=UPDATE).delta.tensors
    for key, sent in delta:
        assert received[key].kept_rows.tolist() == sent.kept_rows.tolist()
        largest = float(np.abs(sent.values).max(initial=0.0))
        bound = largest / 127 * 17 / 16 + 1e-7 if encoding == "int8" else largest * 2.0**-8 + 1e-7
        assert np.abs(received[key].values - sent.values).max(initial=0.0) <= bound


@given(deltas(finite(1.0)), st.sampled_from(ENCODINGS))
def test_what_was_decoded_is_coded_without_further_loss(case: tuple[AdapterSchema, MaskedDelta], encoding: str) -> None:
    schema, delta = case
    once = decode(encode(delta, schema, kind=UPDATE, encoding=encoding), schema, kind=UPDATE).delta
    exact = decode(encode(once, schema, kind=UPDATE, encoding="fp32"), schema, kind=UPDATE).delta
    assert [m.values.tobytes() for _, m in exact] == [m.values.tobytes() for _, m in once]


@given(deltas(finite(10.0)), st.sampled_from(ENCODINGS), st.randoms(use_true_random=False))
def test_bytes_do_not_depend_on_the_order_of_tensors_or_on_the_call(
    case: tuple[AdapterSchema, MaskedDelta], encoding: str, random: object
) -> None:
    schema, delta = case
    items = list(delta.tensors.items())
    random.shuffle(items)  # type: ignore[attr-defined]
    again = MaskedDelta(dict(items))
    assert encode(delta, schema, kind=UPDATE, encoding=encoding) == encode(
        again, schema, kind=UPDATE, encoding=encoding
    )


GOLDEN_HEAD = bytes.fromhex("080110021a20")
GOLDEN_TAIL = bytes.fromhex(
    "2206736861726564 2803 322a 0804 1040"  # scope, version, block, int8, group 64
    "1a03120121 2a03120101 3203120112"  # tensors 0 and 5; the first is masked; rows 1 and 4
    "3a0c0a0a 3c881e00 0000001e3c78"  # codes 60 -120 30 0 of A, 0 0 0 30 60 120 of the head
    "42040a020111 48910f"  # scales 2^-6 (1 + 1/16) and twice that
)


def test_the_format_is_what_it_was() -> None:
    """Short streams are stored, so these bytes depend on no compression library."""
    delta = MaskedDelta(
        {
            A: MaskedMatrix(6, 2, np.array([1, 4], np.int32), np.array([[1, -2], [0.5, 0]], np.float32)),
            HEAD: MaskedMatrix.full(np.array([[0, 0, 0], [1, 2, 4]], np.float32)),
        }
    )
    data = encode(delta, SMALL, kind=DELTA, encoding="int8", scope="shared", version=3)
    expected = GOLDEN_HEAD + bytes.fromhex(SMALL.digest) + GOLDEN_TAIL
    assert data.hex() == expected.hex()
    received = decode(expected, SMALL, kind=DELTA).delta.tensors
    assert received[A].kept_rows.tolist() == [1, 4]
    assert np.allclose(received[A].values, [[1, -2], [0.5, 0]], atol=0.01)
    assert np.allclose(received[HEAD].values, [[0, 0, 0], [1, 2, 4]], atol=0.02)


def test_every_row_given_by_index_is_every_row() -> None:
    values = np.ones((6, 2), np.float32)
    delta = MaskedDelta({A: MaskedMatrix(6, 2, np.arange(6, dtype=np.int32), values)})
    assert encode(delta, SMALL, kind=UPDATE, encoding="int8") == encode(
        MaskedDelta({A: MaskedMatrix.full(values)}), SMALL, kind=UPDATE, encoding="int8"
    )


@given(schemas(), st.integers(0, 2**64 - 1), st.floats(0, 0.99), st.data())
def test_seeded_rows_travel_as_a_seed_and_come_back(
    schema: AdapterSchema, seed: int, density: float, data: st.DataObject
) -> None:
    tensors = {}
    for key in schema.keys:
        rows, cols = schema.shape(key)
        if key.part in (Part.A, Part.B):
            index = seeded_rows(seed, key, rows, int(density * rows))
            tensors[key] = MaskedMatrix.of(np.ones((rows, cols), np.float32), index)
        elif key.part is Part.HEAD:
            tensors[key] = MaskedMatrix.full(data.draw(masked_matrices(rows, cols, finite(1.0))).dense())
    sent = encode(MaskedDelta(tensors), schema, kind=UPDATE, encoding="fp32", row_seed=seed)
    masked = any(matrix.kept < matrix.rows for matrix in tensors.values())
    form = adapter_pb2.AdapterBlob.FromString(sent).tensors.rows.WhichOneof("form")
    assert form == ("seeded" if masked else None)
    received = decode(sent, schema, kind=UPDATE).delta.tensors
    for key, matrix in tensors.items():
        assert received[key].kept_rows.tolist() == matrix.kept_rows.tolist()
        assert received[key].values.tobytes() == matrix.values.tobytes()


def test_seeded_rows_cost_a_seed_and_counts() -> None:
    tensors = {
        key: MaskedMatrix.of(np.zeros((384, 8), np.float32), seeded_rows(9, key, 384, 96))
        for key in BIG.keys
        if key.part in (Part.A, Part.B)
    }
    blob = adapter_pb2.AdapterBlob.FromString(
        encode(MaskedDelta(tensors), BIG, kind=UPDATE, encoding="int8", row_seed=9)
    )
    assert blob.tensors.rows.ByteSize() < 24 + 20


def test_rows_other_than_the_seeds_are_sent_as_they_are() -> None:
    delta = MaskedDelta({A: MaskedMatrix.of(np.ones((6, 2), np.float32), np.array([0, 1, 2], np.int32))})
    assert seeded_rows(9, A, 6, 3).tolist() != [0, 1, 2]
    data = encode(delta, SMALL, kind=UPDATE, encoding="int8", row_seed=9)
    assert decode(data, SMALL, kind=UPDATE).delta.tensors[A].kept_rows.tolist() == [0, 1, 2]


def test_one_masked_tensor_with_other_rows_sends_all_rows_as_they_are() -> None:
    index = seeded_rows(9, A, 6, 3)
    delta = MaskedDelta(
        {
            A: MaskedMatrix.of(np.ones((6, 2), np.float32), index),
            B: MaskedMatrix.of(np.ones((5, 2), np.float32), index[:1]),
        }
    )
    assert seeded_rows(9, B, 5, 1).tolist() != index[:1].tolist()
    received = decode(encode(delta, SMALL, kind=UPDATE, encoding="int8", row_seed=9), SMALL, kind=UPDATE).delta.tensors
    assert received[A].kept_rows.tolist() == index.tolist()
    assert received[B].kept_rows.tolist() == index[:1].tolist()


def test_int8_is_rounded_as_the_seed_says() -> None:
    delta = delta_of(SMALL, 1.0, 0)
    drawn = {encode(delta, SMALL, kind=UPDATE, encoding="int8", rounding_seed=seed) for seed in (None, 1, 2)}
    assert len(drawn) == 3
    assert encode(delta, SMALL, kind=UPDATE, encoding="int8", rounding_seed=1) in drawn


def test_random_float_bits_never_grow_by_more_than_the_header() -> None:
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, 6 * 384 * 8, dtype=np.uint32)
    bits[(bits >> 23) & 255 == 255] = 1
    delta = MaskedDelta(
        {key: MaskedMatrix.full(bits[:3072].view(np.float32).reshape(384, 8)) for key in BIG.keys if key.part is Part.B}
    )
    assert len(encode(delta, BIG, kind=UPDATE, encoding="fp32")) <= 4 * delta.values + 120


# -- what a sender may not send


@pytest.mark.parametrize(
    "tensors",
    [
        {A: ones(5, 2)},
        {A: ones(6, 3)},
        {TensorKey("k", Part.A): ones(6, 2)},
        {LEFT: ones(5, 2), RIGHT: ones(6, 3)},
        {LEFT: ones(5, 2)},
        {RIGHT: ones(6, 2)},
        {LEFT: ones(5, 0), RIGHT: ones(6, 0)},
        {LEFT: ones(5, 4097), RIGHT: ones(6, 4097)},
    ],
    ids=["rows", "cols", "unknown", "unequal width", "left alone", "right alone", "width 0", "too wide"],
)
def test_a_tensor_that_does_not_fit_the_schema_is_not_sent(tensors: dict[TensorKey, MaskedMatrix]) -> None:
    with pytest.raises(FedhftError) as refusal:
        encode(MaskedDelta(tensors), SMALL, kind=UPDATE, encoding="fp32")
    assert refusal.value.code is ErrorCode.WRONG_SHAPE


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_nan_is_not_sent(encoding: str) -> None:
    matrix = MaskedMatrix.full(np.full((6, 2), np.nan, np.float32))
    with pytest.raises(FedhftError) as refusal:
        encode(MaskedDelta({A: matrix}), SMALL, kind=UPDATE, encoding=encoding)
    assert refusal.value.code is ErrorCode.NON_FINITE


@pytest.mark.parametrize(
    ("encoding", "group", "levels"),
    [("int4", 64, 127), ("int8", 8, 127), ("int8", 5000, 127), ("int8", 64, 0), ("int8", 64, 128)],
)
def test_an_unknown_encoding_group_or_number_of_levels_is_not_sent(encoding: str, group: int, levels: int) -> None:
    with pytest.raises(FedhftError) as refusal:
        encode(MaskedDelta({A: ones(6, 2)}), SMALL, kind=UPDATE, encoding=encoding, group=group, levels=levels)
    assert refusal.value.code is ErrorCode.INVALID_ARGUMENT
