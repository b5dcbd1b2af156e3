"""Transfers in this process, beside its blobs: for simulation and tests. They end with the process."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from fedhft.ids import JobId
from fedhft.store import refusals
from fedhft.store.blobs_in_memory import InMemoryBlobs
from fedhft.wire.digest import digest_of


@dataclass
class _Transfer:
    data: bytearray
    touched_s: float


class InMemoryTransfers:
    """TransferStore in dictionaries; a commit hands the bytes to `blobs`."""

    def __init__(self, blobs: InMemoryBlobs, clock: Callable[[], float] = time.time) -> None:
        self._blobs = blobs
        self._clock = clock
        self._jobs: dict[JobId, dict[str, _Transfer]] = {}

    def _of(self, job: JobId) -> dict[str, _Transfer]:
        return self._jobs.setdefault(job, {})

    async def stage(self, job: JobId, transfer: str, offset: int, data: bytes) -> int:
        """See TransferStore.stage."""
        its = self._of(job)
        found = its.get(transfer)
        staged = len(found.data) if found else 0
        if offset != staged:
            raise refusals.wrong_offset(transfer, offset, staged)
        if found is None:
            found = its[transfer] = _Transfer(bytearray(), 0.0)
        found.data += data
        found.touched_s = self._clock()
        return len(found.data)

    async def staged(self, job: JobId, transfer: str) -> int:
        """See TransferStore.staged."""
        found = self._of(job).get(transfer)
        return len(found.data) if found else 0

    async def commit(self, job: JobId, transfer: str, digest: str) -> None:
        """See TransferStore.commit."""
        staged = self._of(job).pop(transfer, None)
        if self._blobs.refresh(job, digest):
            return
        data = bytes(staged.data) if staged else b""
        found = digest_of(data)
        if staged is None or found != digest:
            raise refusals.digest_mismatch(transfer, digest, found)
        await self._blobs.put(job, data)

    async def discard(self, job: JobId, transfer: str) -> None:
        """See TransferStore.discard."""
        self._of(job).pop(transfer, None)

    async def sweep(self, job: JobId, older_than_s: float) -> int:
        """See TransferStore.sweep."""
        its = self._of(job)
        oldest_s = self._clock() - older_than_s
        old = [name for name, one in its.items() if one.touched_s <= oldest_s]
        for name in old:
            del its[name]
        return len(old)
