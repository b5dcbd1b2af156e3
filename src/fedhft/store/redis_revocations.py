"""The deny list in Redis: one hash, and a change counter."""

from __future__ import annotations

from collections.abc import Mapping

from fedhft.records import Revocation
from fedhft.store import keys
from fedhft.store.changes import ChangeFeed
from fedhft.store.connection import RedisConnection


class RedisRevocations:
    """The deny list part of RedisStore."""

    _redis: RedisConnection
    _changes: ChangeFeed

    async def revoke(self, serial: str, revocation: Revocation) -> None:
        """See Store.revoke."""
        record = revocation.model_dump_json()
        names = (keys.REVOKED, keys.REVOCATIONS)
        await self._redis.run("revoke", names, serial, record, keys.REVOCATION_SLACK_MS)

    async def revocations(self) -> Mapping[str, Revocation]:
        """See Store.revocations."""
        found = await self._redis.call("HGETALL", keys.REVOKED)
        return {serial.decode(): Revocation.model_validate_json(record) for serial, record in found.items()}

    async def revocation_changes(self) -> int:
        """See Store.revocation_changes."""
        return await self._changes.read(keys.REVOCATIONS)

    async def wait_revocation(self, seen: int, timeout_s: float) -> int:
        """See Store.wait_revocation."""
        return await self._changes.wait(keys.REVOCATIONS, seen, timeout_s)
