"""Agents that wait for work while their job changes under them."""

from __future__ import annotations

import asyncio

from fedhft.v1 import jobs_pb2
from tests.aggregator import serving
from tests.light import light_job


async def test_a_pause_hands_out_no_task_that_is_delivered_already(fresh_redis_url: str) -> None:
    spec = light_job("paused", rounds={"total": 2, "min_clients": 2})
    async with serving(fresh_redis_url) as aggregator:
        await aggregator.submit(spec)
        alice, bob = (aggregator.client(name, spec) for name in ("alice", "bob"))
        await alice.enter()
        await bob.enter()
        first = await bob.train_task()
        await alice.deliver(await alice.train_task())
        waiting = asyncio.create_task(alice.next_task(3_000))
        await asyncio.sleep(0.3)
        await aggregator.jobs.Pause(jobs_pb2.PauseJobRequest(job="paused"), timeout=10)
        await asyncio.sleep(0.3)
        await aggregator.jobs.Resume(jobs_pb2.ResumeJobRequest(job="paused"), timeout=10)
        assert (await waiting).WhichOneof("task") == "wait"
        await bob.deliver(first)
        assert (await alice.train_task()).round == 2
