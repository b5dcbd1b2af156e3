"""Somebody who may submit jobs and submits absurd ones; the job of the others goes on."""

from __future__ import annotations

import json

import grpc.aio
import pytest
from fedhft_aggregator import jobs_service

from fedhft.errors import ErrorCode
from fedhft.job import MOST_SPEC_BYTES
from fedhft.v1 import jobs_pb2
from tests.aggregator import Aggregator, refused
from tests.hostile.federation import attacked
from tests.light import light_job

RAW = json.loads(light_job("spam").canonical())


async def submit(aggregator: Aggregator, text: str) -> jobs_pb2.Job:
    return await aggregator.jobs.Submit(jobs_pb2.SubmitJobRequest(spec_json=text), timeout=20)


async def test_jobs_of_a_megabyte_are_refused_and_the_largest_ones_hide_no_other(fresh_redis_url: str) -> None:
    async with attacked(fresh_redis_url, "beside-spam", rounds={"total": 1}) as federation:
        for number in range(5):
            big = json.dumps(
                {**RAW, "name": f"big{number}", "client_tiers": {"c" * 60 + str(i): "x" for i in range(16000)}}
            )
            assert len(big) > 1 << 20
            code, text = await refused(submit(federation.aggregator, big))
            assert code is ErrorCode.INVALID_JOB
            assert f"longer than {MOST_SPEC_BYTES} bytes" in text
        for number in range(5):
            names = [f"client-{i}" for i in range(12_000)]
            await submit(federation.aggregator, json.dumps({**RAW, "name": f"large{number}", "clients": names}))
        await federation.honest_complete()


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"name":' * 10_000,
        json.dumps({**RAW, "method": {"preset": {}}}),
        json.dumps({**RAW, "method": {"preset": ["fedhft"]}}),
        json.dumps({**RAW, "limits": {"update_bytes": "1e400GiB"}}),
        json.dumps({**RAW, "limits": {"update_bytes": "9" * 400 + "GiB"}}),
        json.dumps({**RAW, "rounds": {"deadline": "9" * 5000 + "s"}}),
        json.dumps({**RAW, "seed": 0})[:-1] + ', "x": ' + "9" * 5000 + "}",
        json.dumps({**RAW, "adapter": {"alpha": float("inf")}}),
        json.dumps({**RAW, "name": "a"})[:-1] + ', "name": "b"}',
        json.dumps({**RAW, "training": {"max_steps": 2**32}}),
        json.dumps({**RAW, "model": {"name": "\ud800"}}),
    ],
    ids=lambda text: text[:30],
)
async def test_a_job_that_python_would_choke_on_is_refused_as_one(fresh_redis_url: str, text: str) -> None:
    async with attacked(fresh_redis_url, "beside-chokers", rounds={"total": 1}) as federation:
        assert (await refused(submit(federation.aggregator, text)))[0] is ErrorCode.INVALID_JOB
        await federation.honest_complete()


async def test_no_more_jobs_are_driven_than_there_may_be(fresh_redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_service, "MOST_UNFINISHED_JOBS", 3)
    async with attacked(fresh_redis_url, "one-of-few", rounds={"total": 1}) as federation:
        for number in (1, 2):
            await submit(federation.aggregator, json.dumps({**RAW, "name": f"spam{number}"}))
        third = json.dumps({**RAW, "name": "spam3"})
        assert (await refused(submit(federation.aggregator, third)))[0] is ErrorCode.TOO_MANY_JOBS
        await submit(federation.aggregator, federation.spec.canonical())  # again, which is no further job
        await federation.honest_complete()
        await submit(federation.aggregator, third)  # there is room again


async def test_a_damaged_job_in_the_store_hides_no_other(fresh_redis_url: str) -> None:
    async with attacked(fresh_redis_url, "beside-damage", rounds={"total": 1}) as federation:
        store = federation.aggregator.store
        for name, spec in (("nested", "[" * 100_000), ("half", '{"version":1,'), ("old", '{"version":7}')):
            await store.create_job(name, spec)  # type: ignore[arg-type]
        assert len((await federation.aggregator.jobs.List(jobs_pb2.ListJobsRequest(), timeout=10)).jobs) == 4
        assert (await federation.aggregator.get("half")).spec_json == '{"version":1,'
        await federation.mallory.enroll()
        await federation.honest_complete()


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("Get", jobs_pb2.GetJobRequest(job="requests", history_after=2**64 - 1)),
        ("Get", jobs_pb2.GetJobRequest(job="requests", history_before=2**64 - 1)),
        ("Get", jobs_pb2.GetJobRequest(job="requests", history_last=2**64 - 1)),
        ("Cancel", jobs_pb2.CancelJobRequest(job="requests", reason="x" * 501)),
        ("Cancel", jobs_pb2.CancelJobRequest(job="requests", reason="\x1b[2J")),
        ("Pause", jobs_pb2.PauseJobRequest(job="requests", reason="x" * 100_000)),
        ("Get", jobs_pb2.GetJobRequest(job="../requests")),
    ],
)
async def test_requests_are_bounded(fresh_redis_url: str, method: str, request_: object) -> None:
    async with attacked(fresh_redis_url, "requests", rounds={"total": 1}) as federation:
        call: grpc.aio.UnaryUnaryCall = getattr(federation.aggregator.jobs, method)(request_, timeout=10)
        assert (await refused(call))[0] is ErrorCode.INVALID_ARGUMENT
        await federation.honest_complete()
