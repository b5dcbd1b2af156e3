"""Clients that hold what others need: places of transfers, records of agents, a server's time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio
from fedhft_aggregator import transfer_places
from fedhft_aggregator.federation_service import PULLS_AT_ONCE
from fedhft_aggregator.uploads import MAX_INLINE_BYTES, STREAMS_AT_ONCE
from redis.asyncio import Redis

from fedhft import PROTOCOL_VERSION
from fedhft.errors import ErrorCode
from fedhft.store import keys
from fedhft.v1 import federation_pb2, federation_pb2_grpc
from tests.aggregator import Aggregator, refused, serving
from tests.hostile.federation import attacked
from tests.light import LightClient, light_job

WIDE = {"width": 2048, "rank": 8}
"""A schema whose updates are too large to come inside their headers, or to hide in a socket's buffers."""


@pytest_asyncio.fixture
async def aggregator(fresh_redis_url: str) -> AsyncIterator[Aggregator]:
    async with serving(fresh_redis_url) as running:
        yield running


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Places are lost after half a second instead of five."""
    monkeypatch.setattr(transfer_places, "CROWDED_IDLE_S", 0.5)


async def crowd(aggregator: Aggregator, name: str, hostile: int, **rounds: Any) -> tuple[list[LightClient], list[Any]]:
    """A job of two honest clients, who come first in the list, and `hostile` others; and everybody's task."""
    changes = {"total": 2, "min_clients": hostile + 2, "quorum": 0.1, "deadline": "20s", **rounds}
    spec = light_job(name, adapter={"rank": WIDE["rank"]}, rounds=changes, wire={"up": "fp32", "down": "fp32"})
    await aggregator.submit(spec)
    clients = [aggregator.client(f"c{number:02d}", spec, **WIDE) for number in range(hostile + 2)]
    for client in clients:
        await client.enter()
    return clients, [await client.train_task() for client in clients]


async def test_stalled_uploads_give_their_places_to_those_who_wait(aggregator: Aggregator) -> None:
    clients, tasks = await crowd(aggregator, "stalled-up", STREAMS_AT_ONCE)
    stalled = []
    for client, task in zip(clients[2:], tasks[2:], strict=True):
        blob = client.update(task)
        assert len(blob) > MAX_INLINE_BYTES
        call = client.stub.PushUpdate(timeout=60)
        await call.write(federation_pb2.PushUpdateRequest(header=client.header(task, blob)))
        await call.initial_metadata()  # it has its place, and sends nothing
        stalled.append(call)
    async with asyncio.timeout(15):
        for client, task in zip(clients[:2], tasks[:2], strict=True):
            answer = await client.deliver(task)
            assert answer.result == federation_pb2.PushUpdateResponse.RESULT_ACCEPTED
    lost = [call for call in stalled if call.done()]
    assert lost
    assert (await refused(lost[0]))[0] is ErrorCode.TRUNCATED_STREAM
    for call in stalled:
        call.cancel()


async def test_a_client_holds_one_place_however_many_streams_it_opens(aggregator: Aggregator) -> None:
    clients, tasks = await crowd(aggregator, "greedy", 1)
    greedy, task = clients[2], tasks[2]
    header = greedy.header(task, greedy.update(task))
    calls = []
    for _ in range(2 * STREAMS_AT_ONCE):
        call = greedy.stub.PushUpdate(timeout=60)
        await call.write(federation_pb2.PushUpdateRequest(header=header))
        calls.append(call)
        await asyncio.sleep(0.01)
    started = time.monotonic()
    for client, own in zip(clients[:2], tasks[:2], strict=True):
        await client.deliver(own)
    assert time.monotonic() - started < 3
    assert (await refused(calls[0]))[0] is ErrorCode.TRUNCATED_STREAM
    for call in calls:
        call.cancel()


async def test_stalled_downloads_give_their_places_to_those_who_wait(aggregator: Aggregator) -> None:
    clients, tasks = await crowd(aggregator, "stalled-down", PULLS_AT_ONCE, deadline="3s")
    for client, task in zip(clients[:2], tasks[:2], strict=True):
        await client.deliver(task)
    second = await clients[0].train_task()
    # A reader whose window is small, so that a few kilobytes nobody reads stop the server.
    small = [("grpc.http2.lookahead_bytes", 8192), ("grpc.http2.bdp_probe", 0), ("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(aggregator.address, options=small) as channel:
        stub = federation_pb2_grpc.FederationStub(channel)
        stalled = []
        largest = max(second.view.blobs, key=lambda ref: ref.size)
        assert largest.size > 64 * 1024
        for client in clients[2:]:
            request = federation_pb2.PullBlobRequest(
                client=client.name, lease_token=client.token, job=client.spec.name, digest=largest.digest
            )
            stalled.append(stub.PullBlob(request, timeout=60))  # and nothing reads
        await asyncio.sleep(0.3)
        async with asyncio.timeout(15):
            assert await clients[0].pull(second)
        for call in stalled:
            call.cancel()


async def test_ten_thousand_enrolments_pass_and_are_forgotten(fresh_redis_url: str) -> None:
    async with attacked(fresh_redis_url, "flood") as federation:
        stub = federation.mallory.stub

        async def enroll(number: int) -> None:
            request = federation_pb2.EnrollRequest(client=f"sybil-{number}", protocol_version=PROTOCOL_VERSION)
            await stub.Enroll(request, timeout=60)

        async def flood() -> None:
            for start in range(0, 10_000, 250):
                await asyncio.gather(*(enroll(number) for number in range(start, start + 250)))

        await asyncio.gather(flood(), federation.honest_complete())
    async with Redis.from_url(fresh_redis_url) as redis:
        left_ms = [await redis.pttl(keys.agent(f"sybil-{number}")) for number in (0, 5_000, 9_999)]  # type: ignore[arg-type]
        assert all(0 < left <= keys.NEW_AGENT_TTL_MS for left in left_ms)
