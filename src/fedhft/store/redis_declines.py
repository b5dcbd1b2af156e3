"""Declines in Redis: the clients that will not serve a job, and why."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from fedhft.ids import ClientId, JobId
from fedhft.records import DeclineRecord
from fedhft.store import refusals
from fedhft.store.connection import RedisConnection
from fedhft.store.keys import JobKeys


class RedisDeclines:
    """The part of RedisStore that keeps declines."""

    _redis: RedisConnection

    async def decline(self, job: JobId, client: ClientId, reason: str) -> bool:
        """See Store.decline."""
        its = JobKeys(job)
        outcome, *noted = await self._redis.run(
            "decline", (its.job, its.clients, its.declines, its.client_events), client, reason
        )
        if outcome == b"unknown_job":
            raise refusals.unknown_job(job)
        return bool(noted[0])

    async def declined(self, job: JobId) -> list[ClientId]:
        """See Store.declined."""
        return sorted(ClientId(raw.decode()) for raw in await self._redis.call("HKEYS", JobKeys(job).declines))

    async def declines(self, job: JobId, clients: Collection[ClientId]) -> Mapping[ClientId, DeclineRecord]:
        """See Store.declines."""
        names = sorted(clients)
        found = await self._redis.call("HMGET", JobKeys(job).declines, *names) if names else []
        return {
            client: DeclineRecord.model_validate_json(record)
            for client, record in zip(names, found, strict=True)
            if record is not None
        }
