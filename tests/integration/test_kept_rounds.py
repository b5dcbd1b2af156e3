"""An aggregator that keeps the figures of few rounds, as a process, over a real Redis."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from fedhft_aggregator.settings import AggregatorSettings

from fedhft.job import JobSpec
from fedhft.jobs.client import JobsClient
from fedhft.local.processes import ServiceProcess, stop_all
from fedhft.local.redis import EmbeddedRedis
from fedhft.process.options import read_settings
from fedhft.rpc.channel import ChannelSettings, open_aio_channel
from tests.light import LightClient, light_job, light_schema


def test_a_long_job_leaves_no_more_rounds_than_the_settings_say(redis_server: EmbeddedRedis, tmp_path: Path) -> None:
    own = ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--metrics-port", "0", "--kept-rounds", "2"]
    arguments = [*own, "--redis", redis_server.url]
    process = ServiceProcess("aggregator", "fedhft_aggregator", arguments, tmp_path / "log", {})
    spec = light_job("endless", rounds={"total": 5, "min_clients": 2}, evaluation={"final": True})
    try:
        addresses = process.wait_listening(60)
        with JobsClient(str(addresses["admin"])) as jobs:
            jobs.submit(spec)
            asyncio.run(_two_clients(str(addresses["grpc"]), spec))
            job = jobs.get("endless")
    finally:
        stop_all([process], 0.0, 15.0)
    assert (job.status, job.rounds_done, job.history_from) == ("completed", 5, 4)
    assert [entry.round for entry in job.history] == [4, 5]
    assert job.final.round == 6
    assert [result.client for result in job.results] == ["alice", "bob"]


async def _two_clients(address: str, spec: JobSpec) -> None:
    channel = open_aio_channel(ChannelSettings(address, own_connection=True))
    clients = [LightClient(channel, name, spec, light_schema()) for name in ("alice", "bob")]
    try:
        assert await asyncio.gather(*(client.work() for client in clients)) == ["completed", "completed"]
    finally:
        await channel.close(None)


def test_an_aggregator_that_would_keep_no_round_does_not_start(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        read_settings(AggregatorSettings, ["--kept-rounds", "0"])
    assert ended.value.code == 2
    assert "--kept-rounds" in capsys.readouterr().err
