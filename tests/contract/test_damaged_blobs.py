"""A bit that flips in a stored blob is noticed when the blob is read whole, in every back end."""

from __future__ import annotations

import pytest

from fedhft.errors import ErrorCode
from fedhft.store.interface import Store
from fedhft.store.whole_blob import read_whole
from tests.contract.federation import JOB, digest_of, refused
from tests.damage import replace_blob

DATA = bytes(range(256)) * 1200


@pytest.mark.parametrize("place", [0, 100_000, len(DATA) - 1])
async def test_a_flipped_bit_is_named_with_the_digest(store: Store, place: int) -> None:
    digest = await store.blobs.put(JOB, DATA)
    assert await read_whole(store.blobs, JOB, digest) == DATA
    damaged = bytearray(DATA)
    damaged[place] ^= 4
    await replace_blob(store, JOB, digest, bytes(damaged))
    with refused(ErrorCode.DAMAGED_BLOB):
        await read_whole(store.blobs, JOB, digest)


async def test_a_blob_that_lost_its_end_is_damaged_and_one_that_is_gone_is_unknown(store: Store) -> None:
    digest = await store.blobs.put(JOB, DATA)
    await replace_blob(store, JOB, digest, DATA[:1000])
    with refused(ErrorCode.DAMAGED_BLOB):
        await read_whole(store.blobs, JOB, digest)
    with refused(ErrorCode.UNKNOWN_BLOB):
        await read_whole(store.blobs, JOB, digest_of(b"never stored"))
