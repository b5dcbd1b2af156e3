"""A participant whose schema is absurd, or another than the honest clients', presented before theirs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fedhft.errors import ErrorCode
from fedhft.v1 import jobs_pb2
from tests.aggregator import refused
from tests.hostile.federation import attacked
from tests.light import light_job, light_schema

SCHEMA = json.loads(light_schema().to_json())
ABSURD: dict[str, tuple[str, ErrorCode]] = {
    "nested 10^5 deep": ("[" * 100_000, ErrorCode.SCHEMA_MISMATCH),
    "objects nested 10^5 deep": ('{"slots":' * 100_000, ErrorCode.SCHEMA_MISMATCH),
    "infinitely many layers": (json.dumps({**SCHEMA, "layers": float("inf")}), ErrorCode.SCHEMA_MISMATCH),
    "a truth for a number": (json.dumps({**SCHEMA, "layers": True}), ErrorCode.SCHEMA_MISMATCH),
    "a key given twice": (json.dumps(SCHEMA)[:-1] + ', "layers": 1}', ErrorCode.SCHEMA_MISMATCH),
    "half of a surrogate pair": (json.dumps({**SCHEMA, "architecture": "\ud800"}), ErrorCode.SCHEMA_MISMATCH),
    "an integer of 5,000 digits": (json.dumps(SCHEMA)[:-1] + ', "x": ' + "9" * 5000 + "}", ErrorCode.SCHEMA_MISMATCH),
    "shapes below zero": (
        json.dumps({**SCHEMA, "head": [{"name": "h", "shape": [-1, 4]}]}), ErrorCode.SCHEMA_MISMATCH
    ),
    "a layer beyond the last": (
        json.dumps({**SCHEMA, "slots": [{**SCHEMA["slots"][0], "layer": 99}]}), ErrorCode.SCHEMA_MISMATCH
    ),
    "a fold of petabytes": (
        json.dumps({**SCHEMA, "slots": [
            {"name": f"s{i}", "layer": 0, "in_features": 1 << 20, "out_features": 1 << 20, "rank": 4} for i in range(99)
        ]}), ErrorCode.FOLD_TOO_LARGE,
    ),
    "a head of 2^33 values": (
        json.dumps({**SCHEMA, "head": [{"name": "h", "shape": [1 << 17, 1 << 16]}]}), ErrorCode.FOLD_TOO_LARGE
    ),
}  # fmt: skip


async def test_an_absurd_schema_is_refused_and_does_not_become_the_jobs(fresh_redis_url: str) -> None:
    async with attacked(fresh_redis_url, "absurd", rounds={"total": 1}) as federation:
        mallory = federation.mallory
        await mallory.enroll()
        for what, (text, code) in ABSURD.items():
            assert await mallory.refused(mallory.join(schema_json=text)) is code, what
        await federation.honest_complete()


@pytest.mark.parametrize("preset", ["fedhft", "fedhft-paper"])
async def test_the_memory_of_a_fold_is_bounded_by_the_job_whatever_the_schema_says(
    fresh_redis_url: str, preset: str
) -> None:
    changes: dict[str, Any] = {"method": {"preset": preset, "clusters": 2}, "limits": {"fold_memory": "1MiB"}}
    changes["rounds"] = {"total": 1}
    async with attacked(fresh_redis_url, "wide", **changes) as federation:
        mallory = federation.mallory
        mallory.schema = light_schema(width=2048)
        await mallory.enroll()
        assert await mallory.refused(mallory.join(signature=[0.0] * 256)) is ErrorCode.FOLD_TOO_LARGE
        await federation.honest_complete(signature=[0.0] * 256)


async def test_a_hostile_first_joiner_cannot_change_the_width_of_a_pinned_schema(fresh_redis_url: str) -> None:
    pinned = light_schema()
    async with attacked(fresh_redis_url, "pinned", pinned=pinned, rounds={"total": 1}) as federation:
        assert (await federation.aggregator.get("pinned")).schema_pinned
        mallory = federation.mallory
        mallory.schema = light_schema(width=17)
        await mallory.enroll()
        assert await mallory.refused(mallory.join()) is ErrorCode.SCHEMA_MISMATCH
        await federation.honest_complete()


async def test_without_one_a_first_joiner_of_another_width_keeps_the_others_out_and_the_job_can_be_pinned_anew(
    fresh_redis_url: str,
) -> None:
    async with attacked(fresh_redis_url, "unpinned", rounds={"total": 1}) as federation:
        mallory, jobs = federation.mallory, federation.aggregator.jobs
        mallory.schema = light_schema(width=17)
        await mallory.enter()
        await federation.alice.enroll()
        assert await federation.alice.refused(federation.alice.join()) is ErrorCode.SCHEMA_MISMATCH
        assert not (await federation.aggregator.get("unpinned")).schema_pinned
        await jobs.Delete(jobs_pb2.DeleteJobRequest(job="unpinned", force=True), timeout=10)
        request = jobs_pb2.SubmitJobRequest(
            spec_json=federation.spec.canonical(), schema_json=federation.alice.schema.to_json()
        )
        assert (await jobs.Submit(request, timeout=10)).schema_pinned
        await federation.honest_complete()


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("[" * 100_000, ErrorCode.SCHEMA_MISMATCH),
        (light_schema(labels=("b", "a")).to_json(), ErrorCode.SCHEMA_MISMATCH),
        (light_schema(rank=8).to_json(), ErrorCode.SCHEMA_MISMATCH),
        (light_schema(layers=40, width=1 << 18).to_json(), ErrorCode.FOLD_TOO_LARGE),
    ],
)
async def test_a_schema_that_does_not_fit_the_job_is_not_pinned(
    fresh_redis_url: str, text: str, code: ErrorCode
) -> None:
    async with attacked(fresh_redis_url, "beside-unfit", rounds={"total": 1}) as federation:
        spec = light_job("unfit")
        request = jobs_pb2.SubmitJobRequest(spec_json=spec.canonical(), schema_json=text)
        assert (await refused(federation.aggregator.jobs.Submit(request, timeout=10)))[0] is code
        assert (await refused(federation.aggregator.get("unfit")))[0] is ErrorCode.UNKNOWN_JOB
        await federation.honest_complete()
