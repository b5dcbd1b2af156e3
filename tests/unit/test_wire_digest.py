"""Names and pieces of blobs."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhft.errors import ErrorCode, FedhftError
from fedhft.wire.digest import chunks, digest_of


def test_the_digest_is_sha256_in_hex() -> None:
    assert digest_of(b"fedhft") == hashlib.sha256(b"fedhft").hexdigest()


@given(st.binary(max_size=200), st.integers(1, 70), st.data())
def test_pieces_from_any_offset_join_to_the_rest_of_the_blob(data: bytes, size: int, draw: st.DataObject) -> None:
    offset = draw.draw(st.integers(0, len(data)))
    pieces = list(chunks(data, size, offset))
    assert b"".join(piece for _, piece in pieces) == data[offset:]
    assert all(data[at : at + len(piece)] == piece for at, piece in pieces)
    assert all(0 < len(piece) <= size for _, piece in pieces)


@pytest.mark.parametrize("offset", [-1, 11])
def test_an_offset_outside_the_blob_is_refused_at_once(offset: int) -> None:
    with pytest.raises(FedhftError) as refusal:
        chunks(b"0123456789", 4, offset)
    assert refusal.value.code is ErrorCode.WRONG_OFFSET


def test_a_chunk_size_below_one_is_refused() -> None:
    with pytest.raises(FedhftError) as refusal:
        chunks(b"0123456789", 0)
    assert refusal.value.code is ErrorCode.INVALID_ARGUMENT
