"""Two honest clients and a hostile one, over real sockets and a real Redis: the stage of every attack test.

    async with attacked(fresh_redis_url, "name-of-the-job") as federation:
        await federation.mallory.enter()              # before the honest ones, ...
        ...                                           # the attack
        await federation.honest_complete()            # ... or beside them, by asyncio.gather

`honest_complete` is what every such test ends with: the job completes, and both honest clients took part to its end.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fedhft.adapter import AdapterSchema
from fedhft.job import JobSpec
from fedhft.rpc.channel import ChannelSettings, open_aio_channel
from fedhft.v1 import jobs_pb2
from tests.aggregator import Aggregator, serving
from tests.light import LightClient, light_job, light_schema

HONEST = ("alice", "bob")


@dataclass
class Attacked:
    """A job that waits for its clients, and who is there."""

    aggregator: Aggregator
    spec: JobSpec
    alice: LightClient
    bob: LightClient
    mallory: LightClient
    """The attacker, on a connection of its own, not yet enrolled. Its `schema` may be replaced before it joins."""

    async def honest_complete(self, **joining: Any) -> jobs_pb2.Job:
        """Run the honest clients to the job's end; fails unless it completed with both of them in every round.

        joining: changes of their Join requests, e.g. `signature`.
        """
        async with asyncio.timeout(40):
            statuses = await asyncio.gather(self.alice.work(**joining), self.bob.work(**joining))
        job = await self.aggregator.ended(self.spec.name)
        assert (statuses, job.status) == (["completed", "completed"], "completed"), job.reason
        assert job.rounds_done == self.spec.rounds.total
        assert all(entry.accepted >= len(HONEST) for entry in job.history), job.history
        return job


@asynccontextmanager
async def attacked(
    redis_url: str, name: str, *, pinned: AdapterSchema | None = None, **changes: Any
) -> AsyncIterator[Attacked]:
    """An aggregator with one submitted job; `changes` as in `light_job`. pinned: the schema it is submitted with.

    Rounds close 2 s after they opened, so a client that takes part and never delivers delays a job by that much each.
    """
    changes["rounds"] = {"total": 2, "min_clients": 2, "deadline": "2s", **changes.get("rounds", {})}
    spec = light_job(name, **changes)
    async with serving(redis_url) as aggregator:
        await aggregator.submit(spec, pinned)
        own = open_aio_channel(ChannelSettings(aggregator.address, own_connection=True))
        try:
            alice, bob = (aggregator.client(name, spec) for name in HONEST)
            yield Attacked(aggregator, spec, alice, bob, LightClient(own, "mallory", spec, light_schema()))
        finally:
            await own.close(None)
