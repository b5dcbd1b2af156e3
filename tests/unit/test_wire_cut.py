"""Some tensors of a blob, cut out of it without touching a value."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhft.adapter import MaskedDelta, MaskedMatrix, Part, TensorKey
from fedhft.bands import between
from fedhft.v1 import adapter_pb2
from fedhft.wire.codec import decode, encode
from fedhft.wire.cut import cut
from tests.unit.wire_examples import ENCODINGS, delta_of, schema_of

DELTA = adapter_pb2.BLOB_KIND_DELTA
SCHEMA = schema_of(layers=5, width=24, rank=3)


def whole(encoding: str, density: float, seed: int, levels: int = 127) -> bytes:
    delta = delta_of(SCHEMA, density, seed, "unequal rows")
    return encode(delta, SCHEMA, kind=DELTA, encoding=encoding, group=64, levels=levels, scope="shared", version=4)


@given(
    st.sampled_from(ENCODINGS),
    st.sampled_from([0.3, 1.0]),
    st.integers(0, 99),
    st.sampled_from([7, 127]),
    st.sets(st.sampled_from(SCHEMA.keys)),
)
def test_what_is_cut_out_has_the_same_bits(
    encoding: str, density: float, seed: int, levels: int, wanted: set[TensorKey]
) -> None:
    data = whole(encoding, density, seed, levels)
    before = decode(data, SCHEMA, kind=DELTA).delta
    (part,) = cut(data, SCHEMA, [wanted.__contains__])
    expected = {key: matrix for key, matrix in before if key in wanted}
    assert bool(part) == bool(expected)
    if not part:
        return
    blob = decode(part, SCHEMA, kind=DELTA)
    assert (blob.scope, blob.version) == ("shared", 4)
    assert list(blob.delta.tensors) == list(expected)
    for key, matrix in blob.delta:
        np.testing.assert_array_equal(matrix.kept_rows, expected[key].kept_rows)
        assert matrix.values.tobytes() == expected[key].values.tobytes()


def test_coding_the_decoded_values_again_would_change_them() -> None:
    key = TensorKey("classifier.bias", Part.HEAD)
    first = MaskedDelta({key: MaskedMatrix.full(np.array([[127 * 1.1251], [50.0]], np.float32))})
    for _ in range(2):
        before, first = first, decode(encode(first, SCHEMA, kind=DELTA, encoding="int8"), SCHEMA, kind=DELTA).delta
    assert before.tensors[key].values.tobytes() != first.tensors[key].values.tobytes()


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_bands_share_out_a_blob_at_little_more_than_its_size(encoding: str) -> None:
    schema = schema_of(layers=6, width=128, rank=8)
    data = encode(delta_of(schema, 1.0, 3), schema, kind=DELTA, encoding=encoding, levels=7)
    parts = cut(data, schema, [lambda key, band=band: band.has(key, schema) for band in between((1, 3, 6))])
    assert sum(map(len, parts)) < 1.03 * len(data) + 3 * 150
    found = [key for part in parts for key, _ in decode(part, schema, kind=DELTA).delta]
    assert sorted(found) == sorted(decode(data, schema, kind=DELTA).delta.tensors)
