"""A bit flips in an accepted update, and the agent that sent it says so: a real agent, real sockets, a real Redis."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from fedhft.ids import ClientId, JobId
from fedhft.job import JobSpec
from fedhft.telemetry.registry import REGISTRY
from fedhft.v1 import federation_pb2
from tests.agents import InProcessAgent, Site
from tests.aggregator import Aggregator, serving
from tests.damage import replace_blob
from tests.light import LightClient, light_job
from tests.models import tiny_model

T = TypeVar("T")

SAID = "update accepted but not folded"


def bounded(outcome: str) -> float:
    return REGISTRY.get_sample_value("fedhft_agent_updates_bounded_total", {"outcome": outcome}) or 0.0


async def eventually(look: Callable[[], Awaitable[T | None]]) -> T:
    """What a look finds, within a minute."""
    for _ in range(1200):
        if (found := await look()) is not None:
            return found
        await asyncio.sleep(0.05)
    raise AssertionError("it did not come about within a minute")


async def flip(aggregator: Aggregator, job: str, client: str) -> None:
    """Flip a bit of what the client sent in round 1, once it is there."""
    record = await eventually(lambda: aggregator.store.update(JobId(job), 1, ClientId(client)))
    damaged = bytearray(await aggregator.store.blobs.get(JobId(job), record.digest))
    damaged[len(damaged) // 2] ^= 8
    await replace_blob(aggregator.store, JobId(job), record.digest, bytes(damaged))


async def beside_a_real_agent(redis: str, folder: Path, name: str, quorum: float) -> tuple[JobSpec, list[int]]:
    """A job of two rounds of a real agent and a light client; the agent's first update is damaged before its fold.

    Returns the job and the rounds that the agent trained.
    """
    async with serving(redis) as aggregator:
        site = Site(folder, aggregator.address, aggregator.address, await asyncio.to_thread(tiny_model, folder / "m"))
        spec = site.job(name, rounds={"total": 2, "min_clients": 2, "quorum": quorum})
        await aggregator.submit(spec)
        agent = await asyncio.to_thread(InProcessAgent, site, spec, state=folder / "state")
        bob = LightClient(aggregator.channel, "bob", spec, agent.worker.schema)
        await bob.enter()

        def work() -> str:
            with agent:
                return agent.run().status

        working = asyncio.create_task(asyncio.to_thread(work))
        try:
            async with asyncio.timeout(60):
                first = await bob.train_task()
                await flip(aggregator, name, "ash")
                await bob.deliver(first)
                await bob.deliver(await bob.train_task())
                assert await asyncio.shield(working) == "completed"
        finally:
            agent.stop.request()
        job = await aggregator.ended(name)
        assert job.status == "completed"
        assert bob.told == []
        return spec, agent.trained


@pytest.mark.parametrize(("quorum", "trained"), [(0.5, [1, 2]), (1.0, [1, 1, 2])])
async def test_an_agent_whose_update_is_damaged_says_so_once_and_goes_on(
    quorum: float, trained: list[int], fresh_redis_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = bounded("set_aside")
    with caplog.at_level(logging.INFO):
        _, done = await beside_a_real_agent(fresh_redis_url, tmp_path, "flipped-real", quorum)
    (said,) = [vars(record) for record in caplog.records if record.message == SAID]
    assert (said["job"], said["round"], said["outcome"], said["levelname"]) == (
        "flipped-real", 1, "set_aside", "WARNING",
    )  # fmt: skip
    assert "SHA-256" in said["reason"]
    assert bounded("set_aside") - before == 1
    assert done == trained  # a round that is collected again is trained again, from where the agent stands
    assert not [record for record in caplog.records if record.message == "task given up"]


async def test_word_outlives_the_aggregator_and_comes_until_the_client_has_it(fresh_redis_url: str) -> None:
    spec = light_job("told", rounds={"total": 2, "min_clients": 3})
    async with serving(fresh_redis_url) as aggregator:
        await aggregator.submit(spec)
        clients = [aggregator.client(name, spec) for name in ("alice", "bob", "carol")]
        for client in clients:
            await client.enter()
        tasks = [await client.train_task() for client in clients]
        await clients[0].deliver(tasks[0])
        await flip(aggregator, "told", "alice")
        for client, task in zip(clients[1:], tasks[1:], strict=True):
            await client.deliver(task)

        async def second() -> bool | None:
            return (await aggregator.get("told")).open_round == 2 or None

        await eventually(second)
    async with serving(fresh_redis_url) as aggregator:
        await aggregator.submit(spec)
        alice, bob, carol = (aggregator.client(client.name, spec) for client in clients)
        for client, before in zip((alice, bob, carol), clients, strict=True):
            client.token = before.token
        for _ in range(2):  # as after an answer that was lost on its way
            alice.told.clear()
            assert (await alice.next_task()).WhichOneof("task") == "train"
            (outcome,) = alice.told
            assert (outcome.round, outcome.kind) == (1, federation_pb2.Outcome.KIND_SET_ASIDE)
        for client in (alice, bob, carol):
            await client.deliver(await client.train_task())
        await aggregator.ended("told")
        for client in (alice, bob, carol):
            assert (await client.next_task()).WhichOneof("task") == "finished"
        assert ([len(client.told) for client in (alice, bob, carol)]) == [1, 0, 0]
        late = aggregator.client("alice", spec)  # one that lost what it knew: told at the end, too
        late.token = alice.token
        await late.next_task()
        assert [outcome.round for outcome in late.told] == [1]


async def test_a_client_that_waits_is_told_with_the_task_that_wakes_it(fresh_redis_url: str) -> None:
    spec = light_job("told-waiting", rounds={"total": 2, "min_clients": 3})
    async with serving(fresh_redis_url) as aggregator:
        await aggregator.submit(spec)
        clients = [aggregator.client(name, spec) for name in ("alice", "bob", "carol")]
        for client in clients:
            await client.enter()
        tasks = [await client.train_task() for client in clients]
        for client, task in zip(clients[:2], tasks[:2], strict=True):
            await client.deliver(task)
        await flip(aggregator, "told-waiting", "alice")
        waiting = asyncio.create_task(clients[0].next_task())
        await asyncio.sleep(0.3)
        await clients[2].deliver(tasks[2])
        assert (await waiting).train.round == 2
        assert [outcome.round for outcome in clients[0].told] == [1]
