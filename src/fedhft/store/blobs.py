"""Where the bytes of a job are kept: what every blob back end can do."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from fedhft.ids import JobId


class BlobStore(Protocol):
    """Immutable bytes, each known by its job and its SHA-256.

    A back end promises:
    * a blob is there whole or not at all, whoever reads while it is being written;
    * once `put` has returned, the blob is as durable as the round state, whose accepted updates refer to it;
    * all replicas see the same blobs at once;
    * no sweep deletes a blob that was put again after the sweep looked at its age.

    It takes whole blobs only. What arrives piece by piece is a transfer (TransferStore) until it is complete.
    """

    async def ping(self) -> None:
        """Raises STORE_UNAVAILABLE unless the back end takes writes."""
        ...

    async def close(self) -> None:
        """Release what is held open."""
        ...

    async def put(self, job: JobId, data: bytes, digest: str | None = None) -> str:
        """Store bytes; returns their hex SHA-256. Bytes that are there already count as just stored.

        digest: what the caller has found their SHA-256 to be; None: it is computed here.
        """
        ...

    async def get(self, job: JobId, digest: str, offset: int = 0, length: int = -1) -> bytes:
        """Bytes [offset, offset + length) (to the end for -1), or fewer. Raises UNKNOWN_BLOB, INVALID_ARGUMENT."""
        ...

    async def size(self, job: JobId, digest: str) -> int | None:
        """Size in bytes, None when absent."""
        ...

    async def mark(self, job: JobId) -> float:
        """Now, by the clock that says when blobs were stored, seconds: see `delete` and `sweep`."""
        ...

    async def delete(self, job: JobId, digests: Collection[str], before: float | None = None) -> None:
        """Delete blobs; absent ones are ignored.

        before: a mark; what was stored then or later stays. Who looks up what is needed after the mark, and deletes the
        rest by it, can fall asleep in between: whatever others came to need meanwhile, they stored after the mark.
        """
        ...

    async def sweep(self, job: JobId, keep: Collection[str], older_than_s: float, before: float | None = None) -> int:
        """Delete blobs not in `keep` that were last stored longer ago than the given age; returns how many.

        before: a mark from which the age is counted back; the present for None. What a killed writer left unfinished
        goes too, and is counted.
        """
        ...

    async def delete_job(self, job: JobId) -> None:
        """Delete every blob of a job, a bounded number at a time; repeatable."""
        ...
