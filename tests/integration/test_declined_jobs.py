"""Clients that will not serve a job, and the list of a job's clients, over real sockets and a real Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from fedhft.errors import ErrorCode
from fedhft.ids import ClientId, JobId
from fedhft.records import ClientRecord
from fedhft.v1 import clients_pb2, federation_pb2
from tests.aggregator import Aggregator, refused, serving
from tests.light import LightClient, light_job

STATE = clients_pb2.JobClient


@pytest.fixture
async def aggregator(fresh_redis_url: str) -> AsyncIterator[Aggregator]:
    async with serving(fresh_redis_url) as running:
        yield running


async def decline(client: LightClient, reason: str) -> Any:
    request = federation_pb2.DeclineRequest(
        client=client.name, lease_token=client.token, job=client.spec.name, reason=reason
    )
    return await client.stub.Decline(request, timeout=10)


async def clients_of(aggregator: Aggregator, job: str, **asked: Any) -> clients_pb2.ListClientsResponse:
    return await aggregator.jobs.Clients(clients_pb2.ListClientsRequest(job=job, **asked), timeout=20)


async def test_a_client_that_declines_leaves_its_job_and_is_listed_with_its_reason(aggregator: Aggregator) -> None:
    spec = light_job("declined")
    await aggregator.submit(spec)
    one, two, three = (aggregator.client(name, spec) for name in ("one", "two", "three"))
    await one.enter(samples=7)
    await two.enter()
    await three.enroll()
    await decline(two, "the plan has 1000 epochs")
    await decline(three, "never heard of this operator")
    listed = (await clients_of(aggregator, "declined")).clients
    assert [(c.client, c.state, c.reason, c.samples) for c in listed] == [
        ("one", STATE.STATE_LIVE, "", 7),
        ("three", STATE.STATE_DECLINED, "never heard of this operator", 0),
        ("two", STATE.STATE_DECLINED, "the plan has 1000 epochs", 0),
    ]
    assert all(0 <= c.seen_seconds < 10 and 0 <= c.joined_seconds < 10 for c in listed)
    assert (await aggregator.get("declined")).clients == ["one"]
    await two.join()
    listed = (await clients_of(aggregator, "declined")).clients
    assert [c.state for c in listed] == [STATE.STATE_LIVE, STATE.STATE_DECLINED, STATE.STATE_LIVE]


@pytest.mark.parametrize("reason", ["", "x" * 501, "first line\nsecond line", "\x1b[2J"])
async def test_a_reason_that_is_not_a_line_of_text_is_refused(aggregator: Aggregator, reason: str) -> None:
    spec = light_job("reasons")
    await aggregator.submit(spec)
    one = aggregator.client("one", spec)
    await one.enter()
    code, text = await refused(decline(one, reason))
    assert code is ErrorCode.INVALID_ARGUMENT
    assert "is not a line of text" in text
    assert [c.state for c in (await clients_of(aggregator, "reasons")).clients] == [STATE.STATE_LIVE]


async def test_a_job_is_not_declined_by_whom_it_never_asked(aggregator: Aggregator) -> None:
    spec = light_job("closed", clients=["one", "two"])
    await aggregator.submit(spec)
    stranger = aggregator.client("stranger", spec)
    await stranger.enroll()
    code, _ = await refused(decline(stranger, "no"))
    assert code is ErrorCode.NOT_AUTHORISED
    assert not (await clients_of(aggregator, "closed")).clients


async def test_a_client_that_was_not_heard_from_is_silent_and_its_deliveries_are_counted(
    aggregator: Aggregator,
) -> None:
    spec = light_job("counted", rounds={"total": 2, "client_timeout": "1s"})
    await aggregator.submit(spec)
    one, two = aggregator.client("one", spec), aggregator.client("two", spec)
    await one.enter()
    await two.enter()
    await one.deliver(await one.train_task())
    await asyncio.sleep(1.5)
    await one.next_task(wait_ms=0)
    listed = (await clients_of(aggregator, "counted")).clients
    assert [(c.state, c.rounds_delivered) for c in listed] == [(STATE.STATE_LIVE, 1), (STATE.STATE_SILENT, 0)]
    assert listed[1].seen_seconds > 1


async def test_the_clients_of_a_large_job_come_in_pages(aggregator: Aggregator) -> None:
    await aggregator.submit(light_job("large"))
    names = [f"client-{i:04d}" for i in range(1500)]
    for name in names[:1200]:
        record = ClientRecord(client=name, tier="standard", samples=5, data_digest="", joined_ms=1)
        await aggregator.store.join(JobId("large"), record)
    for name in names[1200:]:
        await aggregator.store.decline(JobId("large"), ClientId(name), "no")
    first = await clients_of(aggregator, "large", limit=5000)
    assert ([c.client for c in first.clients], first.more) == (names[:1000], True)
    assert {c.state for c in first.clients} == {STATE.STATE_LIVE}
    last = await clients_of(aggregator, "large", after=first.clients[-1].client)
    assert ([c.client for c in last.clients], last.more) == (names[1000:], False)
    between = await clients_of(aggregator, "large", after="client-0001x", limit=2)
    assert [c.client for c in between.clients] == names[2:4]


async def test_a_task_says_how_few_updates_make_a_version_and_how_much_of_a_cluster_one_is(
    aggregator: Aggregator,
) -> None:
    spec = light_job("told", rounds={"quorum": 0.6}, limits={"sample_cap": 0})
    await aggregator.submit(spec)
    one, two = aggregator.client("one", spec), aggregator.client("two", spec)
    await one.enter(samples=30)
    await two.enter(samples=10)
    task = await one.train_task()
    assert (task.quorum, task.share) == (2, 0.75)
    assert (await two.train_task()).share == 0.25
