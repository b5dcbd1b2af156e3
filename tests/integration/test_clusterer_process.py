"""The clusterer as a process: ready while Redis is, and nothing that it published is lost."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpc_health.v1 import health_pb2, health_pb2_grpc

from fedhft.errors import OUTCOMES, ErrorCode
from fedhft.ids import JobId
from fedhft.local.redis import EmbeddedRedis
from fedhft.rpc.channel import ChannelSettings, open_aio_channel
from fedhft.store.open import open_store
from fedhft.v1 import clustering_pb2_grpc
from tests.integration.test_clusterer_service import Clusterer, Gate, refused, signatures
from tests.light import light_job


@dataclass
class Process:
    child: asyncio.subprocess.Process
    grpc: str
    metrics: str

    async def page(self, path: str) -> tuple[int, str]:
        host, _, port = self.metrics.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        head, _, body = (await asyncio.wait_for(reader.read(), 10)).decode().partition("\r\n\r\n")
        writer.close()
        return int(head.split()[1]), body


@asynccontextmanager
async def process(redis_url: str, log: Path) -> AsyncIterator[Process]:
    with log.open("wb") as stderr:
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "fedhft_clusterer",
            "--listen", "127.0.0.1:0", "--metrics-port", "0", "--redis", redis_url,
            stdout=asyncio.subprocess.PIPE, stderr=stderr, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    try:
        assert child.stdout is not None
        line = json.loads(await asyncio.wait_for(child.stdout.readline(), 60) or "{}")
        assert line.pop("event", None) == "listening", f"it ended; see {log}"
        yield Process(child, **line)
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()


async def eventually(probe: Any, expected: object, within_s: float = 15.0) -> None:
    async with asyncio.timeout(within_s):
        while await probe() != expected:  # noqa: ASYNC110 - another process has no event
            await asyncio.sleep(0.05)


async def test_health_and_readiness_follow_redis_down_and_up_and_nothing_published_is_lost(tmp_path: Path) -> None:
    redis = EmbeddedRedis(tmp_path / "redis")
    redis.start()
    store = open_store(redis.url, "redis")
    job = JobId("outage")
    await store.create_job(job, light_job(job, method={"clusters": 3}).canonical())
    try:
        async with (
            process(redis.url, tmp_path / "log") as running,
            open_aio_channel(ChannelSettings(running.grpc)) as channel,
        ):
            service = Clusterer(store, clustering_pb2_grpc.ClusteringStub(channel), Gate())

            async def health() -> tuple[int, int]:
                stub = health_pb2_grpc.HealthStub(channel)
                request = health_pb2.HealthCheckRequest(service="fedhft.v1.Clustering")
                page, _ = await running.page("/readyz")
                return (await stub.Check(request, timeout=5)).status, page

            await eventually(health, (health_pb2.HealthCheckResponse.SERVING, 200))
            first = await service.update(job, signatures())
            redis.kill()
            await eventually(health, (health_pb2.HealthCheckResponse.NOT_SERVING, 503))
            _, reason = await running.page("/readyz")
            assert json.loads(reason)["reason"]
            assert "fedhft_store_up 0.0" in (await running.page("/metrics"))[1]
            assert (await running.page("/healthz"))[0] == 200
            code, _ = await refused(service.ask(job, expected=1))
            assert code is ErrorCode.STORE_UNAVAILABLE
            redis.start()
            await eventually(health, (health_pb2.HealthCheckResponse.SERVING, 200))
            assert await service.get(job) == first
            assert (await service.update(job, signatures(), expected=1)).version == 2
            _, metrics = await running.page("/metrics")
            assert 'fedhft_refusals_total{code="store_unavailable"} 1.0' in metrics
            assert 'fedhft_clusterings_total{outcome="published"} 2.0' in metrics
            assert 'fedhft_socket_bytes_total{direction="received"}' in metrics
            assert "fedhft_store_up 1.0" in metrics
            running.child.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(running.child.wait(), 15) == 0
    finally:
        await store.close()
        redis.stop()


async def test_it_starts_without_redis_says_so_and_turns_ready_when_redis_comes(tmp_path: Path) -> None:
    redis = EmbeddedRedis(tmp_path / "redis")
    redis.start()
    redis.stop()
    async with process(redis.url, tmp_path / "log") as running:

        async def ready() -> int:
            return (await running.page("/readyz"))[0]

        assert await ready() == 503
        redis.start()
        await eventually(ready, 200)
        running.child.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(running.child.wait(), 15) == 0
    redis.stop()


async def test_an_address_it_cannot_listen_on_ends_it_with_the_errors_exit_code(tmp_path: Path) -> None:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "fedhft_clusterer", "--listen", "nowhere", "--metrics-port", "0",
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, stderr = await asyncio.wait_for(child.communicate(), 60)
    assert child.returncode == OUTCOMES[ErrorCode.INVALID_ARGUMENT].exit_code
    assert "fedhft_clusterer: --listen = 'nowhere': is not an address; write host:port" in stderr.decode()
