"""The aggregator over real sockets and a real Redis: whole rounds, and every way of doing them wrong."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from fedhft import PROTOCOL_VERSION
from fedhft.clustering.signature import DIMENSIONS
from fedhft.errors import ErrorCode, FedhftError
from fedhft.ids import ClientId
from fedhft.job import load_canonical
from fedhft.v1 import federation_pb2, jobs_pb2
from tests.aggregator import Aggregator, refused, serving
from tests.light import LightClient, light_job, light_signature

RESPONSE = federation_pb2.PushUpdateResponse


@pytest.fixture
async def aggregator(fresh_redis_url: str) -> AsyncIterator[Aggregator]:
    async with serving(fresh_redis_url) as running:
        yield running


async def two_in_a_round(aggregator: Aggregator, name: str, **changes: Any) -> tuple[LightClient, LightClient, Any]:
    spec = light_job(name, **changes)
    await aggregator.submit(spec)
    one, two = aggregator.client("one", spec), aggregator.client("two", spec)
    await one.enter()
    await two.enter()
    return one, two, await one.train_task()


async def test_two_clients_run_a_job_to_its_end_and_its_versions_can_be_pulled(aggregator: Aggregator) -> None:
    one, two, task = await two_in_a_round(aggregator, "whole")
    for number in (1, 2):
        assert task.round == number
        pulled = await one.pull(task)
        assert bool(pulled) == (number > 1)
        for client, own in ((one, task), (two, await two.train_task())):
            assert (await client.deliver(own)).result == RESPONSE.RESULT_ACCEPTED
        if number == 1:
            task = await one.train_task()
    job = await aggregator.ended("whole")
    assert (job.status, job.rounds_done) == ("completed", 2)
    assert [entry.accepted for entry in job.history] == [2, 2]
    finished = (await one.next_task()).finished
    assert finished.status == "completed"


async def test_a_preview_tells_what_enrolling_would_and_leaves_a_running_agent_its_lease(
    aggregator: Aggregator,
) -> None:
    one, _, _ = await two_in_a_round(aggregator, "seen")
    spec = light_job("others", clients=["two", "three"])
    await aggregator.submit(spec)
    before = await aggregator.store.now_ms()
    request = federation_pb2.PreviewRequest(client="one", protocol_version=PROTOCOL_VERSION, job="seen")
    answer = await one.stub.Preview(request, timeout=10)
    assert before <= answer.now_ms <= await aggregator.store.now_ms()
    assert [offer.job for offer in answer.jobs] == ["seen"]
    assert load_canonical(answer.offer.spec_json).name == "seen"
    await one.next_task(0)  # its token still holds

    request.job = "others"
    assert (await refused(one.stub.Preview(request, timeout=10)))[0] is ErrorCode.NOT_AUTHORISED
    stranger = federation_pb2.PreviewRequest(client="stranger", protocol_version=PROTOCOL_VERSION)
    assert not (await one.stub.Preview(stranger, timeout=10)).offer.job
    with pytest.raises(FedhftError) as unknown:
        await aggregator.store.check_lease(ClientId("stranger"), "")
    assert unknown.value.code is ErrorCode.NOT_ENROLLED
    stranger.protocol_version += 1
    assert (await refused(one.stub.Preview(stranger, timeout=10)))[0] is ErrorCode.PROTOCOL_VERSION


async def test_offers_come_without_specs_which_are_fetched_by_job(aggregator: Aggregator) -> None:
    open_to_all, closed = light_job("open"), light_job("closed", clients=["alice", "bob"])
    await aggregator.submit(open_to_all)
    await aggregator.submit(closed)
    eve = aggregator.client("eve", open_to_all)
    await asyncio.sleep(1.1)  # offers are read from the store once a second
    enrolled = await eve.enroll()
    offers = {offer.job: offer for offer in enrolled.jobs}
    assert (list(offers), offers["open"].spec_json) == (["open"], "")
    request = federation_pb2.GetOfferRequest(client="eve", lease_token=enrolled.lease_token, job="open")
    offer = await eve.stub.GetOffer(request, timeout=10)
    assert offer.spec_json == open_to_all.canonical()
    assert offer.spec_digest == offers["open"].spec_digest == hashlib.sha256(offer.spec_json.encode()).digest()
    request.job = "closed"
    assert (await refused(eve.stub.GetOffer(request, timeout=10)))[0] is ErrorCode.NOT_AUTHORISED
    request.job = "none"
    assert (await refused(eve.stub.GetOffer(request, timeout=10)))[0] is ErrorCode.UNKNOWN_JOB


async def test_a_superseded_lease_is_told_so_and_the_new_holder_goes_on(aggregator: Aggregator) -> None:
    one, _, task = await two_in_a_round(aggregator, "lease")
    again = aggregator.client("one", one.spec)
    await again.enroll()
    assert (await refused(one.next_task(100)))[0] is ErrorCode.LEASE_SUPERSEDED
    assert (await again.deliver(task)).result == RESPONSE.RESULT_ACCEPTED


async def test_agents_that_disagree_on_protocol_labels_shapes_or_rights_are_refused_at_the_door(
    aggregator: Aggregator,
) -> None:
    spec = light_job("door", clients=["one", "two"])
    await aggregator.submit(spec)
    one = aggregator.client("one", spec)
    code, text = await refused(one.enroll(protocol_version=99))
    assert (code, "99" in text) == (ErrorCode.PROTOCOL_VERSION, True)
    await one.enroll()
    await one.join()
    two = aggregator.client("two", spec, width=20)
    await two.enroll()
    code, text = await refused(two.join())
    assert code is ErrorCode.SCHEMA_MISMATCH
    assert "slots" in text
    labels = aggregator.client("two", spec, labels=("b", "a"))
    labels.token = two.token
    code, text = await refused(labels.join())
    assert (code, "labels" in text) == (ErrorCode.SCHEMA_MISMATCH, True)
    rank = aggregator.client("two", spec, rank=8)
    rank.token = two.token
    assert (await refused(rank.join()))[0] is ErrorCode.SCHEMA_MISMATCH
    assert (await refused(two.join(samples=0)))[0] is ErrorCode.INVALID_DATA
    assert (await refused(two.join(tier="huge", schema_json=one.schema.to_json())))[0] is ErrorCode.INVALID_ARGUMENT
    assert (await refused(two.join(schema_json="{}")))[0] is ErrorCode.SCHEMA_MISMATCH
    stranger = aggregator.client("stranger", spec)
    await stranger.enroll()
    assert (await refused(stranger.join()))[0] is ErrorCode.NOT_AUTHORISED
    assert (await refused(stranger.join(schema_json="{")))[0] is ErrorCode.NOT_AUTHORISED  # before it is parsed
    assert (await refused(stranger.next_task(100)))[0] is ErrorCode.NOT_JOINED
    odd = aggregator.client("Bad Name", spec)
    assert (await refused(odd.enroll()))[0] is ErrorCode.INVALID_ARGUMENT


async def test_a_clustered_job_needs_finite_signatures(aggregator: Aggregator) -> None:
    spec = light_job("signed", method={"clusters": 2})
    await aggregator.submit(spec)
    one = aggregator.client("one", spec)
    await one.enroll()
    for signature in ((), (1.0, 0.0), (1.0,) * DIMENSIONS):
        assert (await refused(one.join(signature=signature)))[0] is ErrorCode.INVALID_ARGUMENT
    endless = (float("nan"), *light_signature()[1:])
    assert (await refused(one.join(signature=endless)))[0] is ErrorCode.NON_FINITE
    await one.join(signature=light_signature())


async def test_jobs_are_checked_when_submitted_and_can_be_listed_and_cancelled(aggregator: Aggregator) -> None:
    spec = light_job("managed")
    await aggregator.submit(spec)
    assert (await aggregator.submit(spec)).status == "waiting"
    code, text = await refused(aggregator.submit(light_job("managed", rounds={"total": 9})))
    assert code is ErrorCode.JOB_EXISTS
    raw = {**json.loads(spec.canonical()), "name": "other", "learning_rat": 1}
    request = jobs_pb2.SubmitJobRequest(spec_json=json.dumps(raw))
    code, text = await refused(aggregator.jobs.Submit(request, timeout=10))
    assert (code, "learning_rat: unknown key" in text) == (ErrorCode.INVALID_JOB, True)
    for broken in ("", "[]", "{"):
        request = jobs_pb2.SubmitJobRequest(spec_json=broken)
        assert (await refused(aggregator.jobs.Submit(request, timeout=10)))[0] is ErrorCode.INVALID_JOB
    listed = await aggregator.jobs.List(jobs_pb2.ListJobsRequest(), timeout=10)
    assert "managed" in [job.job for job in listed.jobs]
    cancel = jobs_pb2.CancelJobRequest(job="managed", reason="enough")
    cancelled = await aggregator.jobs.Cancel(cancel, timeout=10)
    assert (cancelled.status, cancelled.reason) == ("cancelled", "enough")
    assert (await refused(aggregator.jobs.Cancel(cancel, timeout=10)))[0] is ErrorCode.JOB_NOT_RUNNING
    one = aggregator.client("one", spec)
    await one.enroll()
    assert (await refused(one.join()))[0] is ErrorCode.JOB_NOT_RUNNING
    assert (await refused(aggregator.get("never")))[0] is ErrorCode.UNKNOWN_JOB
    export = jobs_pb2.ExportJobRequest(job="managed")
    assert (await refused(aggregator.jobs.Export(export, timeout=10)))[0] is ErrorCode.JOB_NOT_RUNNING


async def test_a_round_closes_at_its_deadline_with_quorum_and_fails_without(aggregator: Aggregator) -> None:
    rules = {"total": 1, "deadline": "1s", "extensions": 0, "quorum": 0.5}
    one, _, task = await two_in_a_round(aggregator, "deadline", rounds=rules)
    await one.deliver(task)
    job = await aggregator.ended("deadline")
    assert (job.status, job.history[0].accepted) == ("completed", 1)
    await two_in_a_round(aggregator, "no-quorum", rounds={**rules, "quorum": 1.0})
    job = await aggregator.ended("no-quorum")
    assert job.status == "failed"
    assert "0 of 2 participants delivered, 2 needed" in job.reason


async def test_an_evaluation_report_in_a_training_round_is_refused(aggregator: Aggregator) -> None:
    one, two, task = await two_in_a_round(aggregator, "report", rounds={"total": 1})
    report = federation_pb2.ReportEvaluationRequest(client="one", lease_token=one.token, job="report", round=task.round)
    assert (await refused(one.stub.ReportEvaluation(report, timeout=10)))[0] is ErrorCode.ROUND_CLOSED
    await one.deliver(task)
    await two.deliver(await two.train_task())
    assert (await aggregator.ended("report")).status == "completed"


async def test_figures_that_no_round_can_be_summed_up_with_are_refused(aggregator: Aggregator) -> None:
    one, _, task = await two_in_a_round(aggregator, "figures")
    blob = one.update(task)
    header = one.header(task, blob)
    header.scores.add(split=1, moment=1, view=1, value=float("nan"), rows=1)
    assert (await refused(one.push(header, [(0, blob)])))[0] is ErrorCode.NON_FINITE
    header = one.header(task, blob)
    header.measurements.steps = 2**64 - 1
    assert (await refused(one.push(header, [(0, blob)])))[0] is ErrorCode.INVALID_ARGUMENT
    assert (await one.push(one.header(task, blob), [(0, blob)])).result == RESPONSE.RESULT_ACCEPTED


async def test_a_round_that_cannot_be_folded_pauses_the_job_with_the_reason(
    aggregator: Aggregator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def defect(*_: Any) -> None:
        raise ZeroDivisionError("nobody foresaw this")

    monkeypatch.setattr("fedhft.coordination.folding.fold", defect)
    one, two, task = await two_in_a_round(aggregator, "unfoldable")
    await one.deliver(task)
    await two.deliver(await two.train_task())
    for _ in range(300):
        job = await aggregator.get("unfoldable")
        if job.paused:
            break
        await asyncio.sleep(0.1)
    assert job.status == "running"
    assert "incident" in job.paused
    assert (await aggregator.jobs.Resume(jobs_pb2.ResumeJobRequest(job="unfoldable"), timeout=10)).paused == ""


async def test_values_beyond_what_the_published_encoding_holds_wait_in_the_residual(aggregator: Aggregator) -> None:
    wire, rounds = {"up": "fp32", "down": "fp16"}, {"total": 1}
    one, two, task = await two_in_a_round(aggregator, "beyond", wire=wire, rounds=rounds)
    for client in (one, two):
        own = task if client is one else await two.train_task()
        blob = client.update(own, scale=9e4)
        await client.push(client.header(own, blob), [(0, blob)])
    job = await aggregator.ended("beyond")
    assert job.status == "completed"
    assert job.history[0].residual_norm > 0


async def test_updates_of_other_clients_cannot_be_pulled(aggregator: Aggregator) -> None:
    one, two, task = await two_in_a_round(aggregator, "private")
    blob = one.update(task)
    header = one.header(task, blob)
    await one.push(header, [(0, blob)])
    request = federation_pb2.PullBlobRequest(client="two", lease_token=two.token, job="private", digest=header.digest)

    async def pull() -> None:
        async for _ in two.stub.PullBlob(request, timeout=10):
            pass

    assert (await refused(pull()))[0] is ErrorCode.UNKNOWN_BLOB


async def test_several_jobs_run_side_by_side(aggregator: Aggregator) -> None:
    async def run(name: str) -> str:
        one, two, task = await two_in_a_round(aggregator, name, rounds={"total": 1})
        await one.deliver(task)
        await two.deliver(await two.train_task())
        return (await aggregator.ended(name)).status

    specs = ["side-a", "side-b", "side-c"]
    first = await run(specs[0])
    assert [first, *await asyncio.gather(*[run_alone(aggregator, name) for name in specs[1:]])] == ["completed"] * 3


async def run_alone(aggregator: Aggregator, name: str) -> str:
    """A job of its own clients."""
    spec = light_job(name, rounds={"total": 1})
    await aggregator.submit(spec)
    clients = [aggregator.client(f"{name}-{i}", spec) for i in range(2)]
    for client in clients:
        await client.enter()
    for client in clients:
        await client.deliver(await client.train_task())
    return (await aggregator.ended(name)).status


async def test_published_bytes_do_not_depend_on_the_order_of_arrival(aggregator: Aggregator) -> None:
    published = []
    for name, order in (("order-a", (0, 1, 2)), ("order-b", (2, 0, 1))):
        spec = light_job(name, rounds={"total": 1, "min_clients": 3})
        await aggregator.submit(spec)
        clients = [aggregator.client(f"client-{i}", spec) for i in range(3)]
        for client in clients:
            await client.enter()
        for position in order:
            await clients[position].deliver(await clients[position].train_task())
        await aggregator.ended(name)
        exported = await aggregator.jobs.Export(jobs_pb2.ExportJobRequest(job=name), timeout=10)
        published.append([(ref.scope, ref.digest) for ref in exported.blobs])
    assert published[0] == published[1]
    assert published[0]
