"""Who a store in Redis is."""

from __future__ import annotations

import secrets

from fedhft.store.connection import RedisConnection
from fedhft.store.keys import STORE


class RedisIdentity:
    """StoreIdentity in Redis."""

    def __init__(self, redis: RedisConnection) -> None:
        self._redis = redis

    async def read(self) -> tuple[str, bool]:
        """See StoreIdentity.read."""
        await self._redis.call("HSETNX", STORE, "id", secrets.token_hex(16))
        store, marked = await self._redis.call("HMGET", STORE, "id", "blob_root")
        return store.decode(), marked is not None

    async def marked(self) -> None:
        """See StoreIdentity.marked."""
        await self._redis.call("HSET", STORE, "blob_root", "marked")
