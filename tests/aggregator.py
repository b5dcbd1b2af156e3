"""An aggregator in this process over real sockets and a real Redis, for tests that speak its protocol."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import pytest
from fedhft_aggregator.federation_service import Federation
from fedhft_aggregator.jobs_service import Jobs
from fedhft_aggregator.loops import JobLoops

from fedhft.adapter import AdapterSchema
from fedhft.coordination.job_cache import JobCache
from fedhft.errors import OUTCOMES, ErrorCode
from fedhft.job import JobSpec
from fedhft.rpc.channel import ChannelSettings, open_aio_channel
from fedhft.rpc.server import ServerSettings, start_server
from fedhft.rpc.status import error_from_rpc
from fedhft.store.interface import Store
from fedhft.store.open import open_store
from fedhft.telemetry.registry import REGISTRY
from fedhft.v1 import federation_pb2_grpc, jobs_pb2, jobs_pb2_grpc
from tests.light import LightClient, light_schema


@dataclass
class Aggregator:
    store: Store
    address: str
    channel: grpc.aio.Channel
    jobs: Any

    async def submit(self, spec: JobSpec, schema: AdapterSchema | None = None) -> jobs_pb2.Job:
        text = "" if schema is None else schema.to_json()
        return await self.jobs.Submit(
            jobs_pb2.SubmitJobRequest(spec_json=spec.canonical(), schema_json=text), timeout=10
        )

    async def get(self, name: str) -> jobs_pb2.Job:
        return await self.jobs.Get(jobs_pb2.GetJobRequest(job=name), timeout=10)

    def client(self, name: str, spec: JobSpec, **schema: Any) -> LightClient:
        return LightClient(self.channel, name, spec, light_schema(**schema))

    async def ended(self, name: str) -> jobs_pb2.Job:
        """The job once it is over, with the history that the watch brought piece by piece."""
        history: list[jobs_pb2.RoundSummary] = []
        async for job in self.jobs.Watch(jobs_pb2.WatchJobRequest(job=name), timeout=30):
            history.extend(job.history)
            last = job
        del last.history[:]
        last.history.extend(history)
        return last


@asynccontextmanager
async def serving(redis_url: str, blobs: str = "redis", listen: str = "127.0.0.1:0") -> AsyncIterator[Aggregator]:
    store = open_store(redis_url, blobs)
    cache = JobCache(store)
    loops = JobLoops(store, cache, None, lambda point: None)

    def register(server: grpc.aio.Server) -> None:
        federation_pb2_grpc.add_FederationServicer_to_server(Federation(store, cache), server)
        jobs_pb2_grpc.add_JobsServicer_to_server(Jobs(store, loops), server)

    server = await start_server(ServerSettings(listen), register, [])
    channel = open_aio_channel(ChannelSettings(server.address, own_connection=True))
    try:
        yield Aggregator(store, server.address, channel, jobs_pb2_grpc.JobsStub(channel))
    finally:
        await channel.close(None)
        await loops.stop()
        await server.stop(0)
        await store.close()


async def refused(call: Awaitable[Any]) -> tuple[ErrorCode, str]:
    """The code and text of a refusal; checks its gRPC status and that it was counted."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    error = error_from_rpc(caught.value)
    assert caught.value.code().name == OUTCOMES[error.code].grpc_status
    assert (REGISTRY.get_sample_value("fedhft_refusals_total", {"code": error.code.value}) or 0) > 0
    return error.code, error.message
