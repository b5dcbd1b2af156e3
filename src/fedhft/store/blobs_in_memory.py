"""Blobs in this process: for simulation and tests. They end with the process."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from fedhft.ids import JobId
from fedhft.store import refusals


@dataclass
class _Transfer:
    data: bytearray
    touched_s: float


@dataclass
class _JobBlobs:
    blobs: dict[str, bytes] = field(default_factory=dict)
    stored_s: dict[str, float] = field(default_factory=dict)
    transfers: dict[str, _Transfer] = field(default_factory=dict)


class InMemoryBlobs:
    """BlobStore in dictionaries."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._jobs: dict[JobId, _JobBlobs] = {}

    def _of(self, job: JobId) -> _JobBlobs:
        return self._jobs.setdefault(job, _JobBlobs())

    async def ping(self) -> None:
        """See BlobStore.ping."""

    async def close(self) -> None:
        """See BlobStore.close."""

    async def put(self, job: JobId, data: bytes) -> str:
        """See BlobStore.put."""
        digest = hashlib.sha256(data).hexdigest()
        its = self._of(job)
        its.blobs.setdefault(digest, bytes(data))
        its.stored_s[digest] = self._clock()
        return digest

    async def get(self, job: JobId, digest: str, offset: int = 0, length: int = -1) -> bytes:
        """See BlobStore.get."""
        if offset < 0 or length < -1:
            raise refusals.impossible_range(offset, length)
        data = self._of(job).blobs.get(digest)
        if data is None:
            raise refusals.unknown_blob(job, digest)
        return data[offset:] if length == -1 else data[offset : offset + length]

    async def size(self, job: JobId, digest: str) -> int | None:
        """See BlobStore.size."""
        data = self._of(job).blobs.get(digest)
        return None if data is None else len(data)

    async def stage(self, job: JobId, transfer: str, offset: int, data: bytes) -> int:
        """See BlobStore.stage."""
        its = self._of(job)
        found = its.transfers.get(transfer)
        staged = len(found.data) if found else 0
        if offset != staged:
            raise refusals.wrong_offset(transfer, offset, staged)
        if found is None:
            found = its.transfers[transfer] = _Transfer(bytearray(), 0.0)
        found.data += data
        found.touched_s = self._clock()
        return len(found.data)

    async def staged(self, job: JobId, transfer: str) -> int:
        """See BlobStore.staged."""
        found = self._of(job).transfers.get(transfer)
        return len(found.data) if found else 0

    async def commit(self, job: JobId, transfer: str, digest: str) -> None:
        """See BlobStore.commit."""
        its = self._of(job)
        staged = its.transfers.pop(transfer, None)
        if digest not in its.blobs:
            data = bytes(staged.data) if staged else b""
            found = hashlib.sha256(data).hexdigest()
            if staged is None or found != digest:
                raise refusals.digest_mismatch(transfer, digest, found)
            its.blobs[digest] = data
        its.stored_s[digest] = self._clock()

    async def discard(self, job: JobId, transfer: str) -> None:
        """See BlobStore.discard."""
        self._of(job).transfers.pop(transfer, None)

    async def delete(self, job: JobId, digests: Collection[str]) -> None:
        """See BlobStore.delete."""
        its = self._of(job)
        for digest in digests:
            its.blobs.pop(digest, None)
            its.stored_s.pop(digest, None)

    async def sweep(self, job: JobId, keep: Collection[str], older_than_s: float) -> int:
        """See BlobStore.sweep."""
        its = self._of(job)
        kept = set(keep)
        oldest_s = self._clock() - older_than_s
        blobs = [digest for digest, at in its.stored_s.items() if digest not in kept and at <= oldest_s]
        transfers = [name for name, one in its.transfers.items() if one.touched_s <= oldest_s]
        await self.delete(job, blobs)
        for name in transfers:
            del its.transfers[name]
        return len(blobs) + len(transfers)
