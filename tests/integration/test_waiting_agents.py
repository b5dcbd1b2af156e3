"""Agents that wait for work while their job changes under them."""

from __future__ import annotations

import asyncio
import zlib

from fedhft_aggregator.waiting import Waiting

from fedhft.coordination.job_cache import JobCache
from fedhft.ids import ClientId, JobId
from fedhft.records import JobStatus, Topic
from fedhft.store.open import open_store
from fedhft.v1 import federation_pb2, jobs_pb2
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


async def test_nobody_is_woken_when_a_job_begins_to_run_before_its_first_round(fresh_redis_url: str) -> None:
    spec = light_job("running")
    store = open_store(fresh_redis_url, "redis")
    try:
        job = JobId(spec.name)
        await store.create_job(job, spec.canonical())
        waiting = Waiting(store, JobCache(store))
        clock = asyncio.get_running_loop()
        begun = clock.time()
        call = asyncio.create_task(waiting.wait(job, ClientId("alice"), await store.changes(job, Topic.TASKS), 1.0))
        await asyncio.sleep(0.2)
        assert await store.set_status(job, JobStatus.RUNNING, "", [JobStatus.WAITING])
        assert await call is None
        assert clock.time() - begun >= 0.99, "woken for nothing: ten thousand of them would ask the store at once"
    finally:
        await store.close()


async def test_after_a_start_a_wait_ends_early_so_that_agents_do_not_ask_again_together(fresh_redis_url: str) -> None:
    spec = light_job("spread", rounds={"total": 1, "min_clients": 2})
    async with serving(fresh_redis_url) as aggregator:
        await aggregator.submit(spec)
        name = min((f"client-{number}" for number in range(100)), key=lambda name: zlib.crc32(name.encode()))
        client = aggregator.client(name, spec)
        await client.enter()
        request = federation_pb2.NextTaskRequest(client=name, lease_token=client.token, job="spread", wait_ms=20_000)
        answer = await client.stub.NextTask(request, timeout=10)  # a hundredth of what it asks for, or so
        assert answer.WhichOneof("task") == "wait"
