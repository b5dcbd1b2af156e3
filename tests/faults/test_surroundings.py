"""What an aggregator stands on fails for some seconds, or damages what it keeps: the job waits, and completes.

Real Redis, real sockets; the aggregator runs in this process, the clients make up their tensors. An outage takes 3 s,
or as long as FEDHFT_TEST_OUTAGE_S says:

    FEDHFT_TEST_OUTAGE_S=60 make test TEST_ARGS="tests/faults/test_surroundings.py"
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from redis.asyncio import Redis

from fedhft.ids import JobId
from fedhft.local.redis import EmbeddedRedis
from fedhft.rpc.status import error_from_rpc
from fedhft.store.keys import JobKeys
from fedhft.v1 import jobs_pb2
from tests import aggregator as stage
from tests.aggregator import Aggregator, serving
from tests.light import LightClient, light_job

AWAY_S = float(os.environ.get("FEDHFT_TEST_OUTAGE_S", "3"))
pytestmark = pytest.mark.timeout(300 + 2 * AWAY_S)


async def persistent(client: LightClient) -> str:
    """A client that repeats what failed for the moment, as agents do."""
    while True:
        try:
            return await client.work()
        except grpc.aio.AioRpcError as error:
            if not error_from_rpc(error).outcome.retryable and error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                raise
            await asyncio.sleep(0.1)


async def complete(aggregator: Aggregator, *clients: LightClient) -> jobs_pb2.Job:
    """All of them work to the end; nothing that was acknowledged may be missing."""
    async with asyncio.timeout(60 + 2 * AWAY_S):
        statuses = await asyncio.gather(*(persistent(client) for client in clients))
    job = await aggregator.ended(clients[0].spec.name)
    assert (set(statuses), job.status, job.blocked, job.paused) == ({"completed"}, "completed", "", ""), job.reason
    assert [entry.accepted for entry in job.history] == [len(clients)] * clients[0].spec.rounds.total
    return job


async def blocked(aggregator: Aggregator, name: str) -> str:
    """What the job is shown to wait for, once it waits."""
    for _ in range(200):
        if reason := (await aggregator.get(name)).blocked:
            return reason
        await asyncio.sleep(0.05)
    raise AssertionError("the job shows nothing that blocks it")


def reaching(monkeypatch: pytest.MonkeyPatch, reached: Callable[[str], None]) -> None:
    """Tell what points the aggregator's rounds pass."""
    loops = stage.JobLoops
    monkeypatch.setattr(stage, "JobLoops", lambda store, cache, clusterer, _: loops(store, cache, clusterer, reached))


@asynccontextmanager
async def two_clients(redis: str, blobs: str, name: str) -> AsyncIterator[tuple[Aggregator, list[LightClient]]]:
    spec = light_job(name, rounds={"total": 2, "min_clients": 2, "deadline": f"{60 + AWAY_S:g}s"})
    async with serving(redis, blobs) as aggregator:
        await aggregator.submit(spec)
        yield aggregator, [aggregator.client(client, spec) for client in ("alice", "bob")]


async def test_a_volume_that_is_away_while_updates_come_is_waited_for(fresh_redis_url: str, tmp_path: Path) -> None:
    root = tmp_path / "blobs"
    async with two_clients(fresh_redis_url, f"dir:{root}", "unmounted") as (aggregator, clients):
        await aggregator.store.ping()
        root.rename(tmp_path / "away")
        working = asyncio.create_task(complete(aggregator, *clients))
        await asyncio.sleep(AWAY_S)
        assert not root.exists()
        (tmp_path / "away").rename(root)
        await working


async def test_a_volume_that_goes_away_in_a_fold_blocks_the_job_until_it_is_back(
    fresh_redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, folds = tmp_path / "blobs", []

    def unmount(point: str) -> None:
        if point == "folding" and not folds:
            folds.append(point)
            root.rename(tmp_path / "away")

    reaching(monkeypatch, unmount)
    async with two_clients(fresh_redis_url, f"dir:{root}", "unmounted-fold") as (aggregator, clients):
        working = asyncio.create_task(complete(aggregator, *clients))
        assert "not mounted" in await blocked(aggregator, "unmounted-fold")
        await asyncio.sleep(AWAY_S)
        (tmp_path / "away").rename(root)
        await working


async def test_a_redis_without_memory_blocks_the_job_until_it_has_some(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path / "redis") as own:
        admin: Redis = Redis.from_url(own.url)
        async with two_clients(own.url, "redis", "full") as (aggregator, clients):
            await clients[0].enter()
            await admin.config_set("maxmemory", 1)
            working = asyncio.create_task(complete(aggregator, *clients))
            assert "out of memory" in await blocked(aggregator, "full")
            await asyncio.sleep(AWAY_S)
            await admin.config_set("maxmemory", 0)
            await working
        await admin.aclose()


async def test_a_redis_that_stands_still_is_waited_for(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path / "redis") as own:
        async with two_clients(own.url, "redis", "still") as (aggregator, clients):
            working = asyncio.create_task(complete(aggregator, *clients))
            await asyncio.sleep(0.2)
            assert own.pid is not None
            os.kill(own.pid, signal.SIGSTOP)
            try:
                await asyncio.sleep(AWAY_S)
            finally:
                os.kill(own.pid, signal.SIGCONT)
            await working


async def flip_in_redis(redis: str, root: Path, digest: str) -> None:
    key = JobKeys(JobId("flipped")).blob(digest)
    admin: Redis = Redis.from_url(redis)
    await admin.setbit(key, 1001, 1 - await admin.getbit(key, 1001))
    await admin.aclose()


async def flip_in_directory(redis: str, root: Path, digest: str) -> None:
    path = root / "flipped" / "blobs" / digest[:2] / digest
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(("blobs", "flip"), [("redis", flip_in_redis), ("dir", flip_in_directory)])
async def test_an_accepted_update_with_a_flipped_bit_is_set_aside_and_its_client_named(
    blobs: str, flip: Callable[..., Any], fresh_redis_url: str, tmp_path: Path
) -> None:
    root = tmp_path / "blobs"
    kept = blobs if blobs == "redis" else f"dir:{root}"
    spec = light_job("flipped", rounds={"total": 1, "min_clients": 3, "deadline": "60s"})
    names = ("alice", "bob", "carol")
    async with serving(fresh_redis_url, kept) as aggregator:
        await aggregator.submit(spec)
        clients = [aggregator.client(name, spec) for name in names]
        for client in clients:
            await client.enter()
        for client in clients[:2]:
            await client.deliver(await client.train_task())
        (damaged,) = [record.digest for name, record in (await aggregator.store.updates(JobId("flipped"), 1)).items()
                      if name == "alice"]  # fmt: skip
    await flip(fresh_redis_url, root, damaged)
    async with serving(fresh_redis_url, kept) as aggregator:  # another process: it has nothing of it in memory
        again = await aggregator.submit(spec)
        assert again.open_round == 1
        carol = aggregator.client("carol", spec)
        await carol.enter()
        await carol.deliver(await carol.train_task())
        job = await aggregator.ended("flipped")
    assert job.status == "completed"
    (entry,) = job.history
    assert [aside.client for aside in entry.set_aside] == ["alice"]
    assert entry.accepted == 2
