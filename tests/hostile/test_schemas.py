"""A participant whose schema is absurd, or another than the honest clients', presented before theirs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fedhft.errors import ErrorCode
from tests.hostile.federation import attacked
from tests.light import light_schema

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
