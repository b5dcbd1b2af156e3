"""Published blobs in memory: read from the store once per process, sent to everybody who asks."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator

from fedhft.errors import ErrorCode, FedhftError
from fedhft.ids import JobId
from fedhft.rpc.piece_size import PieceSize
from fedhft.store.blobs import BlobStore
from fedhft.store.whole_blob import read_whole

KEPT_BYTES = 64 << 20
"""Bytes kept in one process; the blobs used least recently go first."""
LARGEST_KEPT = KEPT_BYTES // 4
"""A larger blob is read piece by piece for each reader."""
PIECE_BYTES = 256 * 1024
CROWDED_PIECE_BYTES = 32 * 1024
"""While others wait for their turn, a stream must move every few seconds: a slow link can carry this much in them."""


def piece_size(crowded: bool) -> PieceSize:
    """Of a stream that begins while others wait for their turn, or while nobody does."""
    return PieceSize(CROWDED_PIECE_BYTES if crowded else PIECE_BYTES, CROWDED_PIECE_BYTES, PIECE_BYTES)


class PublishedBlobs:
    """A bounded cache over a blob store."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._kept: OrderedDict[tuple[JobId, str], bytes] = OrderedDict()
        self._held = 0
        self._reading: dict[tuple[JobId, str], asyncio.Task[bytes]] = {}

    async def pieces(self, job: JobId, digest: str, offset: int, of: PieceSize) -> AsyncIterator[tuple[int, bytes]]:
        """Pieces from an offset on, as (offset, bytes); the next one is asked for when the one before went through.

        Raises FedhftError: UNKNOWN_BLOB, WRONG_OFFSET, DAMAGED_BLOB when the stored bytes are damaged.
        """
        kept = self._kept.get((job, digest))
        size = len(kept) if kept is not None else await self._blobs.size(job, digest)
        if size is None:
            raise FedhftError(ErrorCode.UNKNOWN_BLOB, f"blob {digest[:16]} is not in the store; ask NextTask again")
        if offset > size:
            raise FedhftError.field(
                ErrorCode.WRONG_OFFSET, "offset", offset, f"the blob has {size} bytes", "start where your copy ends"
            )
        whole = await self._whole(job, digest) if size <= LARGEST_KEPT else None
        if whole is not None:
            for start, piece in of.pieces(whole, offset):
                yield start, piece
            return
        of.begin()
        while offset < size:
            piece = await self._blobs.get(job, digest, offset, of.size)
            yield offset, piece
            of.moved(len(piece))
            offset += len(piece)

    async def _whole(self, job: JobId, digest: str) -> bytes:
        key = (job, digest)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        reading = self._reading.get(key)
        if reading is None:
            reading = self._reading[key] = asyncio.create_task(self._read(job, digest))
            reading.add_done_callback(lambda done: self._reading.pop(key, None))
        return await asyncio.shield(reading)

    async def _read(self, job: JobId, digest: str) -> bytes:
        data = await read_whole(self._blobs, job, digest)
        self._kept[job, digest] = data
        self._held += len(data)
        while self._held > KEPT_BYTES:
            _, oldest = self._kept.popitem(last=False)
            self._held -= len(oldest)
        return data
