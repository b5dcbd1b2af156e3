"""Bytes of one push on their way to the store, in pieces large enough that the store sees few writes."""

from __future__ import annotations

from fedhft.errors import ErrorCode, FedhftError
from fedhft.ids import JobId
from fedhft.store.refusals import wrong_offset
from fedhft.store.transfers import TransferStore
from fedhft.v1 import federation_pb2

PIECE_BYTES = 512 * 1024
"""Chunks are joined into pieces of this size. An update no larger than one is staged only if its stream breaks. When a
server dies, the part of a piece that it held must be sent again."""


class Intake:
    """The chunks of one push. Holds at most a piece, its copy for the store, and a chunk."""

    def __init__(self, transfers: TransferStore, job: JobId, transfer: str, size: int) -> None:
        self._transfers = transfers
        self._job = job
        self._transfer = transfer
        self._size = size
        self._piece = memoryview(bytearray(min(size, PIECE_BYTES)))
        self._held = 0
        self._start: int | None = None

    @property
    def received(self) -> int | None:
        """Bytes of the update up to the last chunk's end; None before the first chunk."""
        return None if self._start is None else self._start + self._held

    def take_whole(self) -> bytes | None:
        """The update, if all of it fits in one piece, which then was not staged; else None. It is then let go."""
        if not self._is_whole:
            return None
        data = bytes(self._piece)
        self._piece, self._held = memoryview(bytearray()), 0
        return data

    @property
    def _is_whole(self) -> bool:
        return self._start == 0 and self._held == self._size

    async def add(self, chunk: federation_pb2.BlobChunk) -> None:
        """Take the next chunk. Raises UPDATE_TOO_LARGE (and drops what is staged), WRONG_OFFSET."""
        data = memoryview(chunk.data)
        if chunk.offset + len(data) > self._size:
            self._held = 0
            await self._transfers.discard(self._job, self._transfer)
            raise FedhftError(
                ErrorCode.UPDATE_TOO_LARGE,
                f"the stream goes past the declared size of {self._size} bytes; declare the size of the whole update",
            )
        if self._start is None:
            self._start = chunk.offset
        elif chunk.offset != self.received:
            raise wrong_offset(self._transfer, chunk.offset, self._start + self._held)
        while data:
            taken = min(len(data), len(self._piece) - self._held)
            self._piece[self._held : self._held + taken] = data[:taken]
            self._held, data = self._held + taken, data[taken:]
            if self._held == len(self._piece):
                await self.stage()

    async def stage(self) -> None:
        """Append what is held to the staged transfer, unless it is the whole update.

        Raises WRONG_OFFSET when the staged transfer ends elsewhere.
        """
        if not self._held or self._start is None or self._is_whole:
            return
        if self._start == 0:
            await self._transfers.discard(self._job, self._transfer)  # left by another attempt; this one starts over
        data = bytes(self._piece[: self._held])
        self._start = await self._transfers.stage(self._job, self._transfer, self._start, data)
        self._held = 0
