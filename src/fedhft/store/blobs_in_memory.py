"""Blobs in this process: for simulation and tests. They end with the process."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from fedhft.ids import JobId
from fedhft.store import refusals
from fedhft.wire.digest import digest_of


@dataclass
class _JobBlobs:
    blobs: dict[str, bytes] = field(default_factory=dict)
    stored_s: dict[str, float] = field(default_factory=dict)


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

    async def put(self, job: JobId, data: bytes, digest: str | None = None) -> str:
        """See BlobStore.put."""
        digest = digest or digest_of(data)
        its = self._of(job)
        its.blobs.setdefault(digest, bytes(data))
        its.stored_s[digest] = self._clock()
        return digest

    def refresh(self, job: JobId, digest: str) -> bool:
        """Count a blob as just stored; False when it is absent."""
        its = self._of(job)
        if digest not in its.blobs:
            return False
        its.stored_s[digest] = self._clock()
        return True

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

    async def mark(self, job: JobId) -> float:
        """See BlobStore.mark."""
        return self._clock()

    async def delete(self, job: JobId, digests: Collection[str], before: float | None = None) -> None:
        """See BlobStore.delete."""
        its = self._of(job)
        for digest in digests:
            if before is not None and its.stored_s.get(digest, before - 1) >= before:
                continue
            its.blobs.pop(digest, None)
            its.stored_s.pop(digest, None)

    async def sweep(self, job: JobId, keep: Collection[str], older_than_s: float, before: float | None = None) -> int:
        """See BlobStore.sweep."""
        kept = set(keep)
        oldest_s = (self._clock() if before is None else before) - older_than_s
        old = [digest for digest, at in self._of(job).stored_s.items() if digest not in kept and at <= oldest_s]
        await self.delete(job, old)
        return len(old)

    async def delete_job(self, job: JobId) -> None:
        """See BlobStore.delete_job."""
        self._jobs.pop(job, None)
