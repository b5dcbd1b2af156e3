"""Updates on their way to the aggregator: repeated, resumed, refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from fedhft_aggregator.uploads import MAX_INLINE_BYTES, STREAMS_AT_ONCE

from fedhft.errors import ErrorCode
from fedhft.rpc.go_ahead import is_go_ahead
from fedhft.v1 import federation_pb2
from tests.aggregator import Aggregator, refused, serving
from tests.integration.test_aggregator_protocol import two_in_a_round
from tests.light import LightClient, light_job, light_schema

RESPONSE = federation_pb2.PushUpdateResponse


@pytest.fixture
async def aggregator(fresh_redis_url: str) -> AsyncIterator[Aggregator]:
    async with serving(fresh_redis_url) as running:
        yield running


async def test_a_repeated_push_is_acknowledged_again_even_after_its_round(aggregator: Aggregator) -> None:
    one, two, task = await two_in_a_round(aggregator, "repeat")
    blob = one.update(task)
    header = one.header(task, blob)
    assert (await one.push(header, [(0, blob)])).result == RESPONSE.RESULT_ACCEPTED
    assert (await one.push(header, [(0, blob)])).result == RESPONSE.RESULT_REPEATED
    await two.deliver(await two.train_task())
    await one.train_task()
    assert (await one.push(header)).result == RESPONSE.RESULT_REPEATED
    assert (await aggregator.get("repeat")).history[0].accepted == 2


async def test_a_second_different_update_is_refused_and_the_first_stands(aggregator: Aggregator) -> None:
    one, _, task = await two_in_a_round(aggregator, "conflict")
    await one.deliver(task)
    other = one.update(task, scale=0.5)
    code, _ = await refused(one.push(one.header(task, other), [(0, other)]))
    assert code is ErrorCode.UPDATE_CONFLICT
    assert (await aggregator.get("conflict")).accepted == 1


async def test_an_interrupted_push_resumes_at_its_offset(aggregator: Aggregator) -> None:
    one, _, task = await two_in_a_round(aggregator, "resume")
    blob = one.update(task)
    header = one.header(task, blob)
    half = len(blob) // 2
    code, text = await refused(one.push(header, [(0, blob[:half])]))
    assert code is ErrorCode.TRUNCATED_STREAM
    assert f"{half} of {len(blob)}" in text
    staged = await one.push(one.header(task, blob, query_staged=True))
    assert (staged.result, staged.staged_bytes) == (RESPONSE.RESULT_STAGED, half)
    assert (await one.push(header, [(half, blob[half:])])).result == RESPONSE.RESULT_ACCEPTED


async def test_a_push_gets_its_go_ahead_when_a_stream_is_free(aggregator: Aggregator) -> None:
    spec = light_job("turn", rounds={"min_clients": STREAMS_AT_ONCE + 1})
    await aggregator.submit(spec)
    calls = {}
    clients = [aggregator.client(f"c{number}", spec) for number in range(STREAMS_AT_ONCE + 1)]
    for client in clients:
        await client.enter()
    for client in clients:
        task = await client.train_task()
        blob = client.update(task)
        call = client.stub.PushUpdate(timeout=30)
        await call.write(federation_pb2.PushUpdateRequest(header=client.header(task, blob)))
        calls[asyncio.create_task(call.initial_metadata())] = (call, blob)
    # Calls written in one order need not be served in it: whichever comes last has to wait.
    waiting = set(calls)
    while len(waiting) > 1:
        given, waiting = await asyncio.wait(waiting, timeout=10, return_when=asyncio.FIRST_COMPLETED)
        assert given, f"{len(waiting)} pushes wait, one may"
        assert all(is_go_ahead(task.result()) for task in given)
    await asyncio.sleep(0.3)
    (turn,) = waiting
    assert not turn.done()
    last, blob = calls.pop(turn)
    taken = [call for call, _ in calls.values()]
    taken[0].cancel()
    assert is_go_ahead(await asyncio.wait_for(turn, 10))
    await last.write(federation_pb2.PushUpdateRequest(chunk=federation_pb2.BlobChunk(offset=0, data=blob)))
    await last.done_writing()
    assert (await last).result == RESPONSE.RESULT_ACCEPTED
    for call in taken:
        call.cancel()


async def test_a_small_update_comes_inside_its_header(aggregator: Aggregator) -> None:
    one, two, task = await two_in_a_round(aggregator, "inline")
    blob = one.update(task)
    assert len(blob) <= MAX_INLINE_BYTES
    header = one.header(task, blob)
    for wrong, code in (
        (blob[:-1], ErrorCode.MALFORMED_UPDATE),
        (bytes(len(blob)), ErrorCode.DIGEST_MISMATCH),
        (bytes(MAX_INLINE_BYTES + 1), ErrorCode.UPDATE_TOO_LARGE),
    ):
        header.blob = wrong
        assert (await refused(one.push(header)))[0] is code
    header.blob = blob
    assert (await one.push(header)).result == RESPONSE.RESULT_ACCEPTED
    assert (await one.push(header)).result == RESPONSE.RESULT_REPEATED
    await two.deliver(await two.train_task())
    await one.train_task()
    assert (await aggregator.get("inline")).history[0].accepted == 2


async def test_a_chunk_at_the_wrong_offset_or_past_the_size_or_of_the_wrong_bytes_is_refused(
    aggregator: Aggregator,
) -> None:
    one, _, task = await two_in_a_round(aggregator, "chunks")
    blob = one.update(task)
    header = one.header(task, blob)
    assert (await refused(one.push(header, [(3, blob[3:10])])))[0] is ErrorCode.WRONG_OFFSET
    assert (await refused(one.push(header, [(0, blob + b"more")])))[0] is ErrorCode.UPDATE_TOO_LARGE
    bad = bytes(len(blob))
    assert (await refused(one.push(header, [(0, bad)])))[0] is ErrorCode.DIGEST_MISMATCH
    assert (await refused(one.push(header, [(0, bad[:5]), (5, bad[5:])])))[0] is ErrorCode.DIGEST_MISMATCH
    assert (await refused(one.push(header, [])))[0] is ErrorCode.TRUNCATED_STREAM
    huge = one.header(task, blob, size=10**9)
    assert (await refused(one.push(huge, [(0, blob)])))[0] is ErrorCode.UPDATE_TOO_LARGE
    assert (await one.push(header, [(0, blob)])).result == RESPONSE.RESULT_ACCEPTED


async def test_foreign_stale_and_malformed_updates_are_refused_by_name(aggregator: Aggregator) -> None:
    one, two, task = await two_in_a_round(aggregator, "foreign")
    blob = one.update(task)
    chunks = [(0, blob)]

    async def code(header: federation_pb2.UpdateHeader) -> ErrorCode:
        return (await refused(one.push(header, chunks)))[0]

    assert await code(one.header(task, blob, round=7)) is ErrorCode.ROUND_CLOSED
    assert await code(one.header(task, blob, base_version=3)) is ErrorCode.STALE_VERSION
    assert await code(one.header(task, blob, job="nowhere")) is ErrorCode.UNKNOWN_JOB
    assert await code(one.header(task, blob, job="No Job")) is ErrorCode.INVALID_ARGUMENT
    assert await code(one.header(task, blob, lease_token="wrong")) is ErrorCode.LEASE_SUPERSEDED
    assert await code(one.header(task, blob, client="nobody")) is ErrorCode.NOT_ENROLLED
    assert await code(one.header(task, blob, digest=b"short")) is ErrorCode.MALFORMED_UPDATE
    late = aggregator.client("late", one.spec)
    await late.enter()
    assert await code(late.header(task, blob)) is ErrorCode.NOT_PARTICIPANT
    noise = b"no protobuf at all, but of the right digest"
    assert (await refused(one.push(one.header(task, noise), [(0, noise)])))[0] is ErrorCode.MALFORMED_UPDATE
    other = LightClient(aggregator.channel, "one", one.spec, light_schema(width=20))
    strange = other.update(task)
    assert (await refused(one.push(one.header(task, strange), [(0, strange)])))[0] is ErrorCode.SCHEMA_MISMATCH
    assert (await aggregator.get("foreign")).accepted == 0
    await one.deliver(task)
    await two.deliver(await two.train_task())


async def test_rows_beyond_the_plan_are_refused(aggregator: Aggregator) -> None:
    one, _, task = await two_in_a_round(aggregator, "plan", tiers={"small": {"density": 0.25}})
    greedy = federation_pb2.TrainTask()
    greedy.CopyFrom(task)
    greedy.plan.density = 1.0
    blob = one.update(greedy)
    code, _ = await refused(one.push(one.header(task, blob), [(0, blob)]))
    assert code in (ErrorCode.OUTSIDE_PLAN, ErrorCode.UPDATE_TOO_LARGE)
