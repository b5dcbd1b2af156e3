"""A participant that reports and sends what no round could be summed up or folded with; the others finish."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from fedhft.adapter import MaskedDelta, MaskedMatrix
from fedhft.clustering.signature import DIMENSIONS
from fedhft.errors import ErrorCode
from fedhft.plan import AdapterPlan
from fedhft.telemetry.registry import REGISTRY
from fedhft.v1 import adapter_pb2, federation_pb2
from fedhft.wire.codec import encode
from fedhft.wire.entropy import pack
from tests.hostile.federation import Attacked, attacked
from tests.light import light_delta, light_signature

FLOAT_MAX = 1.7976931348623157e308
FLOAT32_MAX = 3.4028234663852886e38
SCORE = {"split": 1, "moment": 1, "view": 1, "value": 0.5, "loss": 0.7, "rows": 4}
THREE = {"total": 1, "min_clients": 3}
"""A round that waits for all three to join."""
OTHERS = light_signature(1)


async def mallorys_task(federation: Attacked) -> federation_pb2.TrainTask:
    """Let the honest clients join too, and give the attacker its task. Their tokens stay valid."""
    await federation.mallory.enter()
    for client in (federation.alice, federation.bob):
        await client.enter()
    return await federation.mallory.train_task()


REPORTS: list[tuple[str, dict[str, Any], ErrorCode]] = [
    ("a score of float-max", {"score": {"value": FLOAT_MAX}}, ErrorCode.INVALID_ARGUMENT),
    ("a score that is not a number", {"score": {"value": math.nan}}, ErrorCode.NON_FINITE),
    ("an infinite loss", {"score": {"loss": math.inf}}, ErrorCode.NON_FINITE),
    ("a loss of float-max", {"score": {"loss": FLOAT_MAX}}, ErrorCode.INVALID_ARGUMENT),
    ("2^63 rows", {"score": {"rows": 2**63}}, ErrorCode.INVALID_ARGUMENT),
    ("sums of 10^9 rows", {"score": {"sums": [1e9, 1e9, 1e9, 0, 1e9, 0, 1e9, 0]}}, ErrorCode.INVALID_ARGUMENT),
    ("sums of no rows", {"score": {"rows": 0, "sums": [0.0] * 8}}, ErrorCode.INVALID_ARGUMENT),
    ("an unknown split", {"score": {"split": 9}}, ErrorCode.INVALID_ARGUMENT),
    ("a traffic of 2^64 bytes", {"figures": {"socket_bytes_sent": 2**64 - 1}}, ErrorCode.INVALID_ARGUMENT),
    ("seconds of float-max", {"figures": {"train_seconds": FLOAT_MAX}}, ErrorCode.INVALID_ARGUMENT),
    ("a signature of float-max", {"signature": [FLOAT32_MAX] * DIMENSIONS}, ErrorCode.INVALID_ARGUMENT),
    ("a signature that is too short", {"signature": [1.0]}, ErrorCode.INVALID_ARGUMENT),
    ("a signature of norm 16", {"signature": [1.0] * DIMENSIONS}, ErrorCode.INVALID_ARGUMENT),
    ("a signature of NaN", {"signature": [math.nan] * DIMENSIONS}, ErrorCode.NON_FINITE),
]


async def test_figures_that_would_end_every_round_are_refused(fresh_redis_url: str) -> None:
    async with attacked(fresh_redis_url, "poison", rounds=THREE) as federation:
        mallory = federation.mallory
        task = await mallorys_task(federation)
        blob = mallory.update(task)
        for what, report, code in REPORTS:
            header = mallory.header(task, blob)
            if "score" in report:
                header.scores.add(**{**SCORE, **report["score"]})
            for name, value in report.get("figures", {}).items():
                setattr(header.measurements, name, value)
            header.signature.extend(report.get("signature", ()))
            assert await mallory.refused(mallory.push(header, [(0, blob)])) is code, what
        for code in (ErrorCode.INVALID_ARGUMENT, ErrorCode.NON_FINITE):
            labels = {"federation": "poison", "code": code.value}
            expected = sum(refusal is code for _, _, refusal in REPORTS)
            assert REGISTRY.get_sample_value("fedhft_updates_refused_total", labels) == expected
        await federation.honest_complete()


@pytest.mark.parametrize("value", [1e37, -FLOAT32_MAX, 2e6])
async def test_values_that_no_adapter_has_are_refused(fresh_redis_url: str, value: float) -> None:
    wire = {"up": "fp32", "down": "fp16"}
    async with attacked(fresh_redis_url, "values", wire=wire, rounds=THREE) as federation:
        mallory = federation.mallory
        task = await mallorys_task(federation)
        delta = light_delta(federation.spec, mallory.schema, AdapterPlan.of(task.plan), "m")
        tensors = {key: dataclasses.replace(m, values=np.full_like(m.values, value)) for key, m in delta}
        blob = encode(MaskedDelta(tensors), mallory.schema, kind=adapter_pb2.BLOB_KIND_UPDATE, encoding="fp32")
        code = await mallory.refused(mallory.push(mallory.header(task, blob), [(0, blob)]))
        assert code is ErrorCode.NORM_TOO_LARGE
        await federation.honest_complete()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
async def test_values_that_are_not_finite_are_refused(fresh_redis_url: str, value: float) -> None:
    async with attacked(fresh_redis_url, "infinite", wire={"up": "fp32"}, rounds=THREE) as federation:
        mallory = federation.mallory
        task = await mallorys_task(federation)
        blob = _with_value(federation, task, value)
        code = await mallory.refused(mallory.push(mallory.header(task, blob), [(0, blob)]))
        assert code is ErrorCode.NON_FINITE
        await federation.honest_complete()


def _with_value(federation: Attacked, task: federation_pb2.TrainTask, value: float) -> bytes:
    """A blob of one value over and over, which our own encoder would refuse to write."""
    schema = federation.mallory.schema
    delta = light_delta(federation.spec, schema, AdapterPlan.of(task.plan), "m")
    ones = MaskedDelta({k: MaskedMatrix(m.rows, m.cols, m.index, np.ones_like(m.values)) for k, m in delta})
    message = adapter_pb2.AdapterBlob.FromString(
        encode(ones, schema, kind=adapter_pb2.BLOB_KIND_UPDATE, encoding="fp32")
    )
    bits = np.float32(value).view(np.uint32)
    rotated = int((bits << np.uint32(1)) | (bits >> np.uint32(31))).to_bytes(4, "big")
    del message.tensors.codes[:]
    message.tensors.codes.extend(pack(bytes((byte,)) * ones.values) for byte in rotated)
    return message.SerializeToString()


SIGNATURES: list[tuple[str, tuple[float, ...], ErrorCode]] = [
    ("float-max", (FLOAT32_MAX,) * DIMENSIONS, ErrorCode.INVALID_ARGUMENT),
    ("one value of float-max", (FLOAT32_MAX, *light_signature()[1:]), ErrorCode.INVALID_ARGUMENT),
    ("too short", (1.0, 0.0), ErrorCode.INVALID_ARGUMENT),
    ("too long", (*light_signature(), 0.0), ErrorCode.INVALID_ARGUMENT),
    ("none", (), ErrorCode.INVALID_ARGUMENT),
    ("of norm 1.5", (1.5, *light_signature()[1:]), ErrorCode.INVALID_ARGUMENT),
    ("not a number", (math.nan, *light_signature()[1:]), ErrorCode.NON_FINITE),
    ("infinite", (math.inf, *light_signature()[1:]), ErrorCode.NON_FINITE),
]


async def test_signatures_that_no_client_computes_are_refused_at_the_door(fresh_redis_url: str) -> None:
    clusters = {"clusters": 2}
    async with attacked(fresh_redis_url, "signed", method=clusters, rounds={"total": 1}) as federation:
        mallory = federation.mallory
        await mallory.enroll()
        for what, signature, code in SIGNATURES:
            assert await mallory.refused(mallory.join(signature=signature)) is code, what
        good = light_signature()
        for what, half, code in SIGNATURES:
            for halves in ((*half, *good), (*good, *half)):
                join = mallory.join(signature=good, signature_halves=halves)
                assert await mallory.refused(join) is code, f"half: {what}"
        job = await federation.honest_complete(signature=OTHERS)
        assert list(job.clients) == ["alice", "bob"]


async def test_a_client_states_no_more_samples_than_the_job_allows(fresh_redis_url: str) -> None:
    async with attacked(fresh_redis_url, "samples", rounds={"total": 1}, limits={"samples": 1000}) as federation:
        mallory = federation.mallory
        await mallory.enroll()
        for samples in (1001, 10**12, 2**64 - 1):
            assert await mallory.refused(mallory.join(samples=samples)) is ErrorCode.INVALID_DATA
        await federation.honest_complete(samples=1000)
