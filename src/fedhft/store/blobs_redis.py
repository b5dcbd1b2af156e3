"""Blobs in Redis: for adapters of up to a few megabytes."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Collection

from fedhft.ids import JobId
from fedhft.store import refusals
from fedhft.store.connection import RedisConnection
from fedhft.store.keys import TRANSFER_TTL_S, JobKeys

_COMMIT_ATTEMPTS = 3
_HASH_IN_THREAD = 1 << 20


class RedisBlobs:
    """BlobStore in the same Redis as the round state."""

    def __init__(self, redis: RedisConnection) -> None:
        self._redis = redis

    async def ping(self) -> None:
        """Nothing to check: the store's own ping has checked this server."""

    async def close(self) -> None:
        """Nothing to release: the connections are the store's."""

    async def put(self, job: JobId, data: bytes) -> str:
        """See BlobStore.put."""
        digest = await _sha256(data)
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

    async def stage(self, job: JobId, transfer: str, offset: int, data: bytes) -> int:
        """See BlobStore.stage."""
        its = JobKeys(job)
        outcome, staged = await self._redis.run(
            "stage",
            (its.transfer(transfer), its.transfers),
            transfer,
            offset,
            data,
            secrets.token_hex(8),
            TRANSFER_TTL_S,
        )
        if outcome == b"wrong_offset":
            raise refusals.wrong_offset(transfer, offset, staged)
        return int(staged)

    async def staged(self, job: JobId, transfer: str) -> int:
        """See BlobStore.staged."""
        return int(await self._redis.call("STRLEN", JobKeys(job).transfer(transfer)))

    async def commit(self, job: JobId, transfer: str, digest: str) -> None:
        """See BlobStore.commit.

        Redis cannot compute SHA-256, so the bytes are read and checked here; the incarnation and the size tell the
        script that what it renames is what was checked.
        """
        its = JobKeys(job)
        found = "of nothing"
        for _ in range(_COMMIT_ATTEMPTS):
            outcome, *staged = await self._redis.run(
                "read_transfer", (its.transfer(transfer), its.transfers, its.blob(digest)), transfer
            )
            if outcome == b"none":
                break
            incarnation, data = staged if outcome == b"staged" else (b"", b"")
            found = digest if outcome == b"done" else await _sha256(data)
            if found != digest:
                break
            (outcome,) = await self._redis.run(
                "commit_transfer",
                (its.transfer(transfer), its.transfers, its.blob(digest), its.blobs),
                transfer,
                incarnation,
                len(data),
                digest,
            )
            if outcome == b"ok":
                return
        await self.discard(job, transfer)
        raise refusals.digest_mismatch(transfer, digest, found)

    async def discard(self, job: JobId, transfer: str) -> None:
        """See BlobStore.discard."""
        its = JobKeys(job)
        await self._redis.run("discard_transfer", (its.transfer(transfer), its.transfers), transfer)

    async def delete(self, job: JobId, digests: Collection[str]) -> None:
        """See BlobStore.delete."""
        its = JobKeys(job)
        await self._redis.run("delete_blobs", (its.blobs,), its.blob_prefix, *digests)

    async def sweep(self, job: JobId, keep: Collection[str], older_than_s: float) -> int:
        """See BlobStore.sweep."""
        its = JobKeys(job)
        _, deleted = await self._redis.run(
            "sweep_blobs",
            (its.blobs, its.transfers),
            round(older_than_s * 1000),
            its.blob_prefix,
            its.transfer_prefix,
            *keep,
        )
        return int(deleted)


async def _sha256(data: bytes) -> str:
    if len(data) > _HASH_IN_THREAD:
        return await asyncio.to_thread(lambda: hashlib.sha256(data).hexdigest())
    return hashlib.sha256(data).hexdigest()
