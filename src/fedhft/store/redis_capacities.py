"""What devices can do, and the plans made from it, in Redis."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping

from pydantic import TypeAdapter, ValidationError

from fedhft.ids import ClientId, JobId
from fedhft.planning.allocation import Allocated
from fedhft.planning.estimates import Capacity
from fedhft.store import refusals
from fedhft.store.connection import RedisConnection
from fedhft.store.keys import JobKeys

log = logging.getLogger(__name__)

_CAPACITY = TypeAdapter(Capacity)
_ALLOCATED = TypeAdapter(Allocated)


class RedisCapacities:
    """The part of RedisStore about devices."""

    _redis: RedisConnection

    async def note_capacity(self, job: JobId, client: ClientId, capacity: Capacity) -> None:
        """See Store.note_capacity."""
        its = JobKeys(job)
        (outcome,) = await self._redis.run(
            "note_capacity", (its.job, its.capacities), client, _CAPACITY.dump_json(capacity)
        )
        if outcome == b"unknown_job":
            raise refusals.unknown_job(job)

    async def note_capacities(self, job: JobId, capacities: Mapping[str, Capacity], fence: int) -> None:
        """See Store.note_capacities."""
        pairs = (text for client, one in capacities.items() for text in (client, _CAPACITY.dump_json(one)))
        await self._fenced(job, "note_capacities", JobKeys(job).capacities, fence, *pairs)

    async def capacities(self, job: JobId, clients: Collection[str]) -> Mapping[str, Capacity]:
        """See Store.capacities."""
        if not clients:
            return {}
        wanted = list(clients)
        texts = await self._redis.call("HMGET", JobKeys(job).capacities, *wanted)
        known = {}
        for client, text in zip(wanted, texts, strict=True):
            if text is None:
                continue
            try:
                known[client] = _CAPACITY.validate_json(text)
            except ValidationError:  # it is measured again in the next round
                log.warning("what is known of a device cannot be read", extra={"job": job, "client": client})
        return known

    async def keep_allocated(self, job: JobId, allocated: Allocated, fence: int) -> None:
        """See Store.keep_allocated."""
        await self._fenced(job, "keep_allocated", JobKeys(job).allocated, fence, _ALLOCATED.dump_json(allocated))

    async def allocated(self, job: JobId) -> Allocated | None:
        """See Store.allocated."""
        text = await self._redis.call("GET", JobKeys(job).allocated)
        if text is None:
            return None
        try:
            return _ALLOCATED.validate_json(text)
        except ValidationError:  # plans are made again when the next round opens
            log.warning("the plans in force cannot be read", extra={"job": job})
            return None

    async def _fenced(self, job: JobId, script: str, key: str, fence: int, *arguments: str | bytes) -> None:
        (outcome,) = await self._redis.run(script, (JobKeys(job).fence, key), fence, *arguments)
        if outcome == b"fenced":
            raise refusals.fenced(job, fence)
