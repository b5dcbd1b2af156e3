"""Chunks of a push on their way to the store: whatever their sizes, every byte ends where it belongs."""

from __future__ import annotations

import asyncio
import hashlib

import numpy as np
import pytest
from fedhft_aggregator.intake import PIECE_BYTES, Intake
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhft.errors import ErrorCode, FedhftError
from fedhft.ids import JobId
from fedhft.store.in_memory import InMemoryStore
from fedhft.v1 import federation_pb2

JOB = JobId("job")
DATA = np.random.default_rng(0).bytes(3 * PIECE_BYTES)


async def take(intake: Intake, data: bytes, size: int, start: int = 0, end: int | None = None) -> None:
    """Hand over data[start:end] in chunks of `size` bytes."""
    data = data[:end]
    for offset in range(start, len(data), size):
        await intake.add(federation_pb2.BlobChunk(offset=offset, data=data[offset : offset + size]))


async def stored(store: InMemoryStore, data: bytes) -> bytes:
    """What is staged, after a commit under the digest of `data`."""
    digest = hashlib.sha256(data).hexdigest()
    await store.transfers.commit(JOB, "t", digest)
    return await store.blobs.get(JOB, digest)


@settings(max_examples=40, deadline=None)
@given(
    size=st.integers(PIECE_BYTES + 1, len(DATA)),
    chunk=st.sampled_from([30_000, 32 * 1024, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 1 << 20]),
    broken=st.floats(0, 1),
)
def test_a_large_update_is_staged_whole_also_when_its_stream_broke_anywhere(
    size: int, chunk: int, broken: float
) -> None:
    async def run() -> None:
        store, data, end = InMemoryStore(), DATA[:size], int(broken * (size - 1))
        first = Intake(store.transfers, JOB, "t", size)
        await take(first, data, chunk, 0, end)
        await first.stage()
        assert await store.transfers.staged(JOB, "t") == end
        second = Intake(store.transfers, JOB, "t", size)
        await take(second, data, chunk, end)
        await second.stage()
        assert (second.received, second.take_whole()) == (size, None)
        assert await stored(store, data) == data

    asyncio.run(run())


@pytest.mark.parametrize("size", [1, 1000, PIECE_BYTES])
async def test_an_update_of_one_piece_is_never_staged(size: int) -> None:
    store = InMemoryStore()
    intake = Intake(store.transfers, JOB, "t", size)
    assert intake.received is None
    await take(intake, DATA[:size], 30_000)
    await intake.stage()
    assert intake.take_whole() == DATA[:size]
    assert await store.transfers.staged(JOB, "t") == 0


async def test_a_new_attempt_from_the_start_replaces_what_an_earlier_one_left() -> None:
    store, data = InMemoryStore(), DATA[: PIECE_BYTES + 5]
    await store.transfers.stage(JOB, "t", 0, b"left behind")
    intake = Intake(store.transfers, JOB, "t", len(data))
    await take(intake, data, 30_000)
    await intake.stage()
    assert await stored(store, data) == data


async def test_a_gap_and_a_byte_too_many_are_refused() -> None:
    store = InMemoryStore()
    intake = Intake(store.transfers, JOB, "t", 2 * PIECE_BYTES)
    await take(intake, DATA, 30_000, 0, PIECE_BYTES + 7)
    with pytest.raises(FedhftError) as gap:
        await intake.add(federation_pb2.BlobChunk(offset=PIECE_BYTES + 8, data=b"x"))
    assert gap.value.code is ErrorCode.WRONG_OFFSET
    with pytest.raises(FedhftError) as surplus:
        await intake.add(federation_pb2.BlobChunk(offset=PIECE_BYTES + 7, data=bytes(PIECE_BYTES)))
    assert surplus.value.code is ErrorCode.UPDATE_TOO_LARGE
    await intake.stage()
    assert await store.transfers.staged(JOB, "t") == 0
