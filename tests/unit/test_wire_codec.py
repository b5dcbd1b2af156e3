"""Blobs: what is sent comes back, byte for byte the same each time, and nothing received is believed."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fedhft.adapter import AdapterSchema, MaskedDelta, MaskedMatrix, Parameter, Part, Slot, TensorKey
from fedhft.errors import ErrorCode, FedhftError
from fedhft.v1 import adapter_pb2
from fedhft.v1 import tensor_pb2 as pb
from fedhft.wire.codec import decode, encode
from fedhft.wire.rows import seeded_rows
from tests.unit.wire_examples import ENCODINGS, delta_of, deltas, finite, masked_matrices, schema_of, schemas

UPDATE = int(adapter_pb2.BLOB_KIND_UPDATE)
DELTA = int(adapter_pb2.BLOB_KIND_DELTA)

SMALL = AdapterSchema(
    "base", "tokenizer", "bert", ("no", "yes"), 1, (Slot("q", 0, 6, 5, 2),), (Parameter("head", (2, 3)),)
)
A, B = TensorKey("q", Part.A), TensorKey("q", Part.B)
LEFT, RIGHT, PRODUCT = TensorKey("q", Part.LEFT), TensorKey("q", Part.RIGHT), TensorKey("q", Part.PRODUCT)
HEAD = TensorKey("head", Part.HEAD)
BIG = schema_of(6, 384, 8)


def ones(rows: int, cols: int) -> MaskedMatrix:
    return MaskedMatrix.full(np.ones((rows, cols), np.float32))


def blob_of(schema: AdapterSchema, delta: MaskedDelta, encoding: str = "int8") -> adapter_pb2.AdapterBlob:
    """A decoded protobuf to tamper with."""
    return adapter_pb2.AdapterBlob.FromString(encode(delta, schema, kind=UPDATE, encoding=encoding))


def refusal_of(blob: adapter_pb2.AdapterBlob | bytes, schema: AdapterSchema, max_values: int = 0) -> ErrorCode:
    data = blob if isinstance(blob, bytes) else blob.SerializeToString()
    with pytest.raises(FedhftError) as refusal:
        decode(data, schema, kind=UPDATE, max_values=max_values)
    return refusal.value.code


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


# -- what a receiver refuses


def test_a_blob_of_another_schema_is_refused_by_name() -> None:
    data = encode(MaskedDelta({A: ones(6, 2)}), SMALL, kind=UPDATE, encoding="fp32")
    assert refusal_of(data, BIG) is ErrorCode.SCHEMA_MISMATCH


def test_a_blob_of_another_kind_or_format_is_refused() -> None:
    blob = blob_of(SMALL, MaskedDelta({A: ones(6, 2)}))
    blob.format = 2
    assert refusal_of(blob, SMALL) is ErrorCode.MALFORMED_UPDATE
    data = encode(MaskedDelta({A: ones(6, 2)}), SMALL, kind=DELTA, encoding="fp32")
    assert refusal_of(data, SMALL) is ErrorCode.MALFORMED_UPDATE


def test_a_blob_cut_anywhere_is_refused() -> None:
    data = encode(delta_of(BIG, 0.25, 0), BIG, kind=UPDATE, encoding="int8")
    for length in [*range(200), *range(200, len(data), 997), len(data) - 1]:
        assert refusal_of(data[:length], BIG) in (ErrorCode.MALFORMED_UPDATE, ErrorCode.SCHEMA_MISMATCH)


@pytest.mark.parametrize("cols", [[3, 2], [2, 3], [0, 0], [5000, 5000], [2**32 - 1, 2**32 - 1]])
def test_product_factors_of_unequal_or_absurd_width_are_refused(cols: list[int]) -> None:
    blob = blob_of(SMALL, MaskedDelta({LEFT: ones(5, 2), RIGHT: ones(6, 2)}))
    del blob.tensors.cols[:]
    blob.tensors.cols.extend(cols)
    assert refusal_of(blob, SMALL) is ErrorCode.WRONG_SHAPE


def test_one_product_factor_without_the_other_is_refused() -> None:
    blob = blob_of(SMALL, MaskedDelta({LEFT: ones(5, 2), RIGHT: ones(6, 2)}))
    blob.tensors.tensors.CopyFrom(pb.Subset(bitmap=bytes([1 << SMALL.index_of[LEFT]])))
    del blob.tensors.cols[1:]
    assert refusal_of(blob, SMALL) is ErrorCode.WRONG_SHAPE


def test_more_values_than_allowed_are_refused_before_anything_is_inflated() -> None:
    blob = blob_of(SMALL, MaskedDelta({A: ones(6, 2), HEAD: ones(2, 3)}))
    data = blob.SerializeToString()
    assert decode(data, SMALL, kind=UPDATE, max_values=18).delta.values == 18
    assert refusal_of(data, SMALL, max_values=17) is ErrorCode.UPDATE_TOO_LARGE
    blob.tensors.codes[0].CopyFrom(pb.Stream(zstd=b"not a frame"))
    assert refusal_of(blob, SMALL, max_values=17) is ErrorCode.UPDATE_TOO_LARGE


def test_widths_that_add_up_to_more_than_the_schema_has_use_for_are_refused_without_allocating() -> None:
    schema = schema_of(12, 4096, 8)
    tensors = {key: ones(4096, 1) for key in schema.keys if key.part in (Part.LEFT, Part.RIGHT)}
    blob = blob_of(schema, MaskedDelta(tensors))
    del blob.tensors.cols[:]
    blob.tensors.cols.extend([4096] * len(tensors))
    data = blob.SerializeToString()
    tracemalloc.start()
    try:
        code = refusal_of(data, schema)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert code is ErrorCode.UPDATE_TOO_LARGE
    assert peak < 3_000_000


def test_the_largest_updates_a_schema_has_use_for_are_allowed_by_default() -> None:
    rng = np.random.default_rng(0)
    tensors = {
        key: MaskedMatrix.full(rng.normal(size=SMALL.shape(key)).astype(np.float32)) for key in (A, B, PRODUCT, HEAD)
    }
    data = encode(MaskedDelta(tensors), SMALL, kind=UPDATE, encoding="fp32")
    assert decode(data, SMALL, kind=UPDATE).delta.values == MaskedDelta(tensors).values


def _drop_codes(block: pb.TensorBlock) -> None:
    del block.codes[:]


def _double_codes(block: pb.TensorBlock) -> None:
    block.codes.append(block.codes[0])


def _shorten_codes(block: pb.TensorBlock) -> None:
    block.codes[0].stored = block.codes[0].stored[:-1]


def _drop_scales(block: pb.TensorBlock) -> None:
    del block.scales[:]


def _many_scales(block: pb.TensorBlock) -> None:
    block.scales.extend([block.scales[0]] * 2)


def _more_scales(block: pb.TensorBlock) -> None:
    block.scales[0].stored += b"\x01"


def _tiny_group(block: pb.TensorBlock) -> None:
    block.group = 0


def _huge_group(block: pb.TensorBlock) -> None:
    block.group = 2**31


def _unknown_encoding(block: pb.TensorBlock) -> None:
    block.encoding = 9  # type: ignore[assignment]


def _no_encoding(block: pb.TensorBlock) -> None:
    block.ClearField("encoding")


def _other_encoding(block: pb.TensorBlock) -> None:
    block.encoding = pb.VALUE_ENCODING_FP32


def _no_tensors(block: pb.TensorBlock) -> None:
    block.ClearField("tensors")


def _other_tensors(block: pb.TensorBlock) -> None:
    block.tensors.CopyFrom(pb.Subset(all=True))


def _no_rows(block: pb.TensorBlock) -> None:
    block.ClearField("rows")


def _no_masked(block: pb.TensorBlock) -> None:
    block.ClearField("masked")


def _other_masked(block: pb.TensorBlock) -> None:
    block.masked.CopyFrom(pb.Subset(all=True))


def _seeded(block: pb.TensorBlock) -> None:
    block.rows.CopyFrom(pb.Subset(seeded=pb.SeededRows(seed=1, kept=[3, 1, 1])))


def _seeded_too_many(block: pb.TensorBlock) -> None:
    block.rows.CopyFrom(pb.Subset(seeded=pb.SeededRows(seed=1, kept=[2**32 - 1])))


def _stray_cols(block: pb.TensorBlock) -> None:
    block.cols.append(3)


@pytest.mark.parametrize(
    "tamper",
    [
        _drop_codes, _double_codes, _shorten_codes, _drop_scales, _many_scales, _more_scales, _tiny_group, _huge_group,
        _unknown_encoding, _no_encoding, _other_encoding, _no_tensors, _other_tensors, _no_rows, _no_masked,
        _other_masked, _seeded, _seeded_too_many, _stray_cols,
    ],
)  # fmt: skip
def test_a_block_that_contradicts_itself_is_refused(tamper: Callable[[pb.TensorBlock], None]) -> None:
    masked = MaskedMatrix.of(np.ones((6, 2), np.float32), np.array([0, 3, 5], np.int32))
    blob = blob_of(SMALL, MaskedDelta({A: masked, HEAD: ones(2, 3)}))
    tamper(blob.tensors)
    assert refusal_of(blob, SMALL) is ErrorCode.MALFORMED_UPDATE


def test_scales_of_float_codes_are_refused() -> None:
    blob = blob_of(SMALL, MaskedDelta({A: ones(6, 2)}), "fp32")
    blob.tensors.scales.append(pb.Stream(stored=b"\x01"))
    assert refusal_of(blob, SMALL) is ErrorCode.MALFORMED_UPDATE


def test_rows_of_no_masked_tensor_are_refused() -> None:
    blob = blob_of(SMALL, MaskedDelta({A: ones(6, 2)}))
    blob.tensors.rows.all = True
    assert refusal_of(blob, SMALL) is ErrorCode.MALFORMED_UPDATE


def test_a_scope_of_absurd_length_is_refused() -> None:
    blob = blob_of(SMALL, MaskedDelta({A: ones(6, 2)}))
    blob.scope = "s" * 1000
    assert refusal_of(blob, SMALL) is ErrorCode.MALFORMED_UPDATE


def test_a_mask_that_keeps_every_row_is_read_as_no_mask() -> None:
    blob = blob_of(SMALL, MaskedDelta({A: ones(6, 2)}))
    blob.tensors.masked.all = True
    blob.tensors.rows.all = True
    assert decode(blob.SerializeToString(), SMALL, kind=UPDATE).delta.tensors[A].index is None


def test_an_infinite_value_in_a_received_blob_is_refused() -> None:
    blob = blob_of(SMALL, MaskedDelta({A: ones(6, 2)}), "fp32")
    # Rotated by one bit, an infinite binary32 is ff 00 00 00.
    for stream, byte in zip(blob.tensors.codes, (b"\xff", b"\0", b"\0", b"\0"), strict=True):
        stream.stored = byte * 12
    assert refusal_of(blob, SMALL) is ErrorCode.NON_FINITE


def test_a_bomb_in_a_blob_is_refused_without_being_inflated() -> None:
    parameters = zstandard.ZstdCompressionParameters.from_level(3, format=zstandard.FORMAT_ZSTD1_MAGICLESS)
    blob = blob_of(SMALL, MaskedDelta({A: ones(6, 2)}))
    blob.tensors.codes[0].zstd = zstandard.ZstdCompressor(compression_params=parameters).compress(bytes(10**8))
    data = blob.SerializeToString()
    tracemalloc.start()
    try:
        code = refusal_of(data, SMALL)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert code is ErrorCode.MALFORMED_UPDATE
    assert peak < 1_000_000


_VICTIM = encode(delta_of(SMALL, 0.5, 0), SMALL, kind=UPDATE, encoding="int8")


@settings(max_examples=300)
@given(
    st.lists(st.tuples(st.integers(0, len(_VICTIM) - 1), st.integers(1, 255)), min_size=1, max_size=4),
    st.integers(0, len(_VICTIM)),
)
@example([(0, 1)], 0)
def test_a_corrupted_blob_is_refused_or_read_but_never_breaks_the_reader(
    changes: list[tuple[int, int]], cut: int
) -> None:
    data = bytearray(_VICTIM)
    for place, change in changes:
        data[place] ^= change
    for candidate in (bytes(data), bytes(data[:cut])):
        code = None
        try:
            assert decode(candidate, SMALL, kind=UPDATE).delta.finite()
        except FedhftError as refusal:
            code = refusal.code
        assert code in (
            None,
            ErrorCode.MALFORMED_UPDATE,
            ErrorCode.SCHEMA_MISMATCH,
            ErrorCode.WRONG_SHAPE,
            ErrorCode.NON_FINITE,
            ErrorCode.UPDATE_TOO_LARGE,
        )


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_refused(data: bytes) -> None:
    assert refusal_of(data, SMALL) in (ErrorCode.MALFORMED_UPDATE, ErrorCode.SCHEMA_MISMATCH)
