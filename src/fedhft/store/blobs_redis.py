"""Blobs in Redis: for adapters of up to a few megabytes."""

from __future__ import annotations

from collections.abc import Collection

from fedhft.ids import JobId
from fedhft.store import refusals
from fedhft.store.connection import RedisConnection
from fedhft.store.hashing import sha256
from fedhft.store.keys import JobKeys

_DELETED_AT_ONCE = 256


class RedisBlobs:
    """BlobStore in the same Redis as the round state."""

    def __init__(self, redis: RedisConnection) -> None:
        self._redis = redis

    async def ping(self) -> None:
        """Nothing to check: the store's own ping has checked this server."""

    async def close(self) -> None:
        """Nothing to release: the connections are the store's."""

    async def put(self, job: JobId, data: bytes, digest: str | None = None) -> str:
        """See BlobStore.put."""
        digest = digest or await sha256(data)
        its = JobKeys(job)
        await self._redis.run("put_blob", (its.blob(digest), its.blobs), digest, data)
        return digest

    async def get(self, job: JobId, digest: str, offset: int = 0, length: int = -1) -> bytes:
        """See BlobStore.get."""
        if offset < 0 or length < -1:
            raise refusals.impossible_range(offset, length)
        key = JobKeys(job).blob(digest)
        if length == 0:
            data = b""
        else:
            data = await self._redis.call("GETRANGE", key, offset, -1 if length == -1 else offset + length - 1)
        if not data and not await self._redis.call("EXISTS", key):
            raise refusals.unknown_blob(job, digest)
        return bytes(data)

    async def size(self, job: JobId, digest: str) -> int | None:
        """See BlobStore.size."""
        outcome, *size = await self._redis.run("size_of_blob", (JobKeys(job).blob(digest),))
        return int(size[0]) if outcome == b"ok" else None

    async def mark(self, job: JobId) -> float:
        """See BlobStore.mark."""
        seconds, microseconds = await self._redis.call("TIME")
        return int(seconds) + int(microseconds) // 1000 / 1000

    async def delete(self, job: JobId, digests: Collection[str], before: float | None = None) -> None:
        """See BlobStore.delete."""
        its = JobKeys(job)
        await self._redis.run("delete_blobs", (its.blobs,), _ms(before), its.blob_prefix, *digests)

    async def sweep(self, job: JobId, keep: Collection[str], older_than_s: float, before: float | None = None) -> int:
        """See BlobStore.sweep. A put is one script, so a killed writer leaves nothing unfinished."""
        its = JobKeys(job)
        _, deleted = await self._redis.run(
            "sweep_blobs", (its.blobs,), round(older_than_s * 1000), _ms(before), its.blob_prefix, *keep
        )
        return int(deleted)

    async def delete_job(self, job: JobId) -> None:
        """See BlobStore.delete_job."""
        its = JobKeys(job)
        while digests := await self._redis.call("ZRANGE", its.blobs, 0, _DELETED_AT_ONCE - 1):
            await self.delete(job, [digest.decode() for digest in digests])


def _ms(mark: float | None) -> str:
    return "" if mark is None else str(round(mark * 1000))
