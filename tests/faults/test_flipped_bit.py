"""A bit flips in an accepted update before it is folded: that client's update is set aside by name, the job goes on."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from fedhft.ids import JobId
from tests.aggregator import serving
from tests.damage import replace_blob
from tests.light import light_job


@pytest.mark.parametrize("blobs", ["redis", "dir"])
async def test_the_update_is_set_aside_and_named(fresh_redis_url: str, tmp_path: Path, blobs: str) -> None:
    spec = light_job("flipped", rounds={"total": 2, "min_clients": 3})
    where = blobs if blobs == "redis" else f"dir:{tmp_path / 'blobs'}"
    async with serving(fresh_redis_url, where) as aggregator:
        await aggregator.submit(spec)
        clients = [aggregator.client(name, spec) for name in ("alice", "bob", "carol")]
        for client in clients:
            await client.enter()
        tasks = [await client.train_task() for client in clients]
        for client, task in zip(clients[:2], tasks, strict=False):
            await client.deliver(task)
        sent = clients[1].update(tasks[1])
        damaged = bytearray(sent)
        damaged[len(sent) // 2] ^= 8
        await replace_blob(aggregator.store, JobId("flipped"), hashlib.sha256(sent).hexdigest(), bytes(damaged))
        await clients[2].deliver(tasks[2])
        for client in clients:
            await client.deliver(await client.train_task())
        job = await aggregator.ended("flipped")
    assert job.status == "completed"
    first, second = job.history
    assert [(aside.client, "SHA-256" in aside.reason) for aside in first.set_aside] == [("bob", True)]
    assert (second.accepted, list(second.set_aside)) == (3, [])
