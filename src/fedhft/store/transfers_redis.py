"""Transfers in Redis, beside the blobs that they become."""

from __future__ import annotations

import secrets

from fedhft.ids import JobId
from fedhft.store import refusals
from fedhft.store.connection import RedisConnection
from fedhft.store.hashing import sha256
from fedhft.store.keys import TRANSFER_TTL_S, JobKeys

_COMMIT_ATTEMPTS = 3


class RedisTransfers:
    """TransferStore in the same Redis as its blobs (RedisBlobs): a commit renames a key."""

    def __init__(self, redis: RedisConnection) -> None:
        self._redis = redis

    async def stage(self, job: JobId, transfer: str, offset: int, data: bytes) -> int:
        """See TransferStore.stage."""
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
        """See TransferStore.staged."""
        return int(await self._redis.call("STRLEN", JobKeys(job).transfer(transfer)))

    async def commit(self, job: JobId, transfer: str, digest: str) -> None:
        """See TransferStore.commit.

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
            found = digest if outcome == b"done" else await sha256(data)
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
        """See TransferStore.discard."""
        its = JobKeys(job)
        await self._redis.run("discard_transfer", (its.transfer(transfer), its.transfers), transfer)

    async def sweep(self, job: JobId, older_than_s: float) -> int:
        """See TransferStore.sweep."""
        its = JobKeys(job)
        _, dropped = await self._redis.run(
            "sweep_transfers", (its.transfers,), round(older_than_s * 1000), its.transfer_prefix
        )
        return int(dropped)
