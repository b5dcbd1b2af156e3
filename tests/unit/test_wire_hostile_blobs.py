"""Blobs that nobody made: nothing received is believed, and nothing large is allocated for it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fedhft.adapter import AdapterSchema, MaskedDelta, MaskedMatrix, Part
from fedhft.errors import ErrorCode, FedhftError
from fedhft.v1 import adapter_pb2
from fedhft.v1 import tensor_pb2 as pb
from fedhft.wire.codec import decode, encode
from tests.unit.memory import peak_of
from tests.unit.wire_examples import (
    BIG,
    DELTA,
    HEAD,
    LEFT,
    PRODUCT,
    RIGHT,
    SMALL,
    UPDATE,
    A,
    B,
    delta_of,
    ones,
    schema_of,
)


def blob_of(schema: AdapterSchema, delta: MaskedDelta, encoding: str = "int8") -> adapter_pb2.AdapterBlob:
    """A decoded protobuf to tamper with."""
    return adapter_pb2.AdapterBlob.FromString(encode(delta, schema, kind=UPDATE, encoding=encoding))


def refusal_of(blob: adapter_pb2.AdapterBlob | bytes, schema: AdapterSchema, max_values: int = 0) -> ErrorCode:
    data = blob if isinstance(blob, bytes) else blob.SerializeToString()
    with pytest.raises(FedhftError) as refusal:
        decode(data, schema, kind=UPDATE, max_values=max_values)
    return refusal.value.code


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
    code, peak = peak_of(lambda: refusal_of(data, schema))
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
    code, peak = peak_of(lambda: refusal_of(data, SMALL))
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


def test_a_list_of_masked_tensors_without_any_is_refused() -> None:
    blob = blob_of(SMALL, MaskedDelta({A: ones(6, 2)}))
    blob.tensors.masked.bitmap = b"\0"
    blob.tensors.rows.bitmap = b""
    assert refusal_of(blob, SMALL) is ErrorCode.MALFORMED_UPDATE
    blob.tensors.rows.all = True
    assert refusal_of(blob, SMALL) is ErrorCode.MALFORMED_UPDATE
