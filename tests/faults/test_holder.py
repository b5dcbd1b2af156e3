"""What happens to the process that drives a job: it sleeps where it would delete, or an update kills it.

Real Redis, real aggregator processes and sockets; the clients make up their tensors.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest

from fedhft.export.published import fetch_adapters
from fedhft.jobs.client import JobsClient
from fedhft.local.processes import ServiceProcess, stop_all
from fedhft.local.redis import EmbeddedRedis
from fedhft.rpc.channel import ChannelSettings, open_aio_channel
from fedhft.rpc.status import error_from_rpc
from tests.agents import free_address
from tests.light import LightClient, light_job, light_schema


@dataclass
class Site:
    """A Redis, a directory of blobs, and aggregators that come and go."""

    folder: Path
    redis: EmbeddedRedis
    running: list[ServiceProcess] = field(default_factory=list)

    def aggregator(self, listen: str, admin: str, failpoint: str = "") -> ServiceProcess:
        process = ServiceProcess(
            "aggregator",
            "fedhft_aggregator",
            [
                *("--redis", self.redis.url, "--blobs", f"dir:{self.folder / 'blobs'}", "--metrics-port", "0"),
                *("--listen", listen, "--admin-listen", admin, "--takeover", "2"),
            ],
            self.folder / f"aggregator-{len(self.running)}.log",
            {"FEDHFT_FAILPOINT": failpoint},
        )
        self.running.append(process)
        process.wait_listening(60)
        return process


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with EmbeddedRedis(tmp_path / "redis") as redis:
        here = Site(tmp_path, redis)
        try:
            yield here
        finally:
            for process in here.running:
                if process.exit_code is None:
                    os.kill(process.pid, signal.SIGCONT)
            stop_all(here.running, 0.0, 15.0)


async def work(address: str, name: str, spec_rounds: dict[str, object], job: str) -> str:
    """A client that repeats what failed for the moment, as agents do."""
    spec = light_job(job, rounds=spec_rounds)
    async with open_aio_channel(ChannelSettings(address, own_connection=True)) as channel:
        client = LightClient(channel, name, spec, light_schema())
        while True:
            try:
                return await client.work()
            except grpc.aio.AioRpcError as error:
                if not error_from_rpc(error).outcome.retryable:
                    raise
                await asyncio.sleep(0.2)


@pytest.mark.slow
async def test_a_holder_that_slept_where_it_tidies_deletes_nothing_live_when_it_wakes(site: Site) -> None:
    sleeper = site.aggregator("127.0.0.1:0", "127.0.0.1:0", "tidying@2!stop")
    rounds = {"total": 6, "min_clients": 2, "deadline": "60s"}
    # The sleeper alone finds the job, and so holds it; then it shares the work with a replica.
    admin = free_address()
    with JobsClient(str(sleeper.wait_listening(5)["admin"])) as jobs:
        jobs.submit(light_job("asleep", rounds=rounds))
    other = site.aggregator("127.0.0.1:0", admin)
    address = str(other.wait_listening(5)["grpc"])
    clients = [asyncio.create_task(work(address, name, rounds, "asleep")) for name in ("alice", "bob")]
    with JobsClient(admin) as jobs:
        until = time.monotonic() + 60
        while jobs.get("asleep").rounds_done < 5:  # three rounds after the one it slept in
            assert time.monotonic() < until, other.describe_log()
            await asyncio.sleep(0.2)
        assert _state(sleeper.pid) == "T"
        os.kill(sleeper.pid, signal.SIGCONT)
        assert await asyncio.wait_for(asyncio.gather(*clients), 60) == ["completed", "completed"]
        await asyncio.sleep(2.0)  # the sleeper is awake and has done whatever it does
        job = jobs.get("asleep")
        assert [entry.accepted for entry in job.history] == [2] * 6
        assert fetch_adapters(jobs, "asleep").state.version == 6  # every blob of the last version is there


@pytest.mark.slow
async def test_an_update_that_kills_the_folding_process_three_times_is_set_aside(site: Site) -> None:
    listen, admin = free_address(), free_address()
    rounds = {"total": 1, "min_clients": 3, "quorum": 0.5, "deadline": "60s"}
    deaths = 0
    process = site.aggregator(listen, admin, "decoding=mallory")
    with JobsClient(admin, give_up_after_s=60.0) as jobs:
        jobs.submit(light_job("deadly", rounds=rounds))
        clients = [asyncio.create_task(work(listen, name, rounds, "deadly")) for name in ("alice", "bob", "mallory")]
        gathered = asyncio.gather(*clients)
        until = time.monotonic() + 100
        while not gathered.done():
            assert time.monotonic() < until, process.describe_log()
            if process.exit_code is not None:
                deaths += 1
                process = site.aggregator(listen, admin, "decoding=mallory")
            await asyncio.sleep(0.1)
        job = jobs.get("deadly")
    assert await gathered == ["completed"] * 3
    assert job.status == "completed"
    assert deaths >= 3
    assert [one.client for entry in job.history for one in entry.set_aside] == ["mallory"]


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
