"""What is refused of an update before its bytes are read, after they were, and what is recorded of it."""

from __future__ import annotations

import math
from typing import Any

import pytest

from fedhft.errors import ErrorCode, FedhftError
from fedhft.job import JobSpec
from fedhft.records import ClientRecord, JobRecord, JobStatus, RoundRecord
from fedhft.rounds.acceptance import (
    Awaited,
    check_blob,
    check_evaluation,
    check_header,
    evaluation_record,
    largest_update,
    update_record,
)
from fedhft.rounds.opening import open_round
from fedhft.v1 import adapter_pb2, federation_pb2
from fedhft.v1 import federation_pb2 as pb
from fedhft.wire.codec import encode
from tests.light import light_delta, light_job, light_schema

SCHEMA = light_schema()
OWN = pb.Score(split=1, moment=1, view=1, value=0.5, loss=0.7, rows=4)
SPEC = light_job("j", tiers={"standard": {"density": 0.5}})


def opened(spec: JobSpec = SPEC, number: int = 2, evaluation: bool = False) -> RoundRecord:
    clients = {n: ClientRecord(client=n, tier="standard", samples=7, data_digest="", joined_ms=0) for n in ("a", "b")}
    return open_round(
        spec, SCHEMA, number=number, evaluation=evaluation, base_version=number - 1, memberships=None,
        clients=clients, asked=("a", "b"), now_ms=0,
    )  # fmt: skip


def job(status: JobStatus = JobStatus.RUNNING) -> JobRecord:
    return JobRecord(job="j", spec_json="", status=status, reason="", created_ms=0)


def blob_of(spec: JobSpec = SPEC, version: int = 1, value: float = 0.0) -> bytes:
    plan = opened(spec).participants["a"].plan
    delta = light_delta(spec, SCHEMA, plan, seed=1)
    if value:
        next(iter(delta.tensors.values())).values[0, 0] = value
    return encode(
        delta, SCHEMA, kind=adapter_pb2.BLOB_KIND_UPDATE,
        encoding="fp32", version=version,
    )  # fmt: skip


def header(**changes: Any) -> federation_pb2.UpdateHeader:
    fields: dict[str, Any] = {"round": 2, "base_version": 1, "digest": b"d" * 32, "size": 100}
    return federation_pb2.UpdateHeader(**{**fields, **changes})


def checked(sent: federation_pb2.UpdateHeader, client: str = "a", **changes: Any) -> Awaited:
    given: dict[str, Any] = {"job": job(), "spec": SPEC, "schema": SCHEMA, "current": opened(), **changes}
    return check_header(client=client, header=sent, **given)


def refusal(sent: federation_pb2.UpdateHeader, client: str = "a", **changes: Any) -> ErrorCode:
    with pytest.raises(FedhftError) as caught:
        checked(sent, client, **changes)
    return caught.value.code


def test_a_header_as_asked_says_what_is_awaited() -> None:
    awaited = checked(header())
    assert (awaited.base_version, awaited.part.samples, awaited.plan.density) == (1, 7, 0.5)


@pytest.mark.parametrize(
    ("changes", "situation", "code"),
    [
        ({}, {"job": job(JobStatus.CANCELLED)}, ErrorCode.JOB_NOT_RUNNING),
        ({}, {"current": None}, ErrorCode.ROUND_CLOSED),
        ({}, {"schema": None}, ErrorCode.ROUND_CLOSED),
        ({"round": 1}, {}, ErrorCode.ROUND_CLOSED),
        ({"round": 3}, {}, ErrorCode.ROUND_CLOSED),
        ({}, {"current": opened(evaluation=True)}, ErrorCode.ROUND_CLOSED),
        ({"base_version": 0}, {}, ErrorCode.STALE_VERSION),
        ({"digest": b"d" * 31}, {}, ErrorCode.MALFORMED_UPDATE),
        ({"digest": b""}, {}, ErrorCode.MALFORMED_UPDATE),
        ({"size": 0}, {}, ErrorCode.MALFORMED_UPDATE),
        ({"size": 0, "digest": b""}, {}, ErrorCode.MALFORMED_UPDATE),
        ({"size": 10**6}, {}, ErrorCode.UPDATE_TOO_LARGE),
    ],
)
def test_a_header_that_does_not_fit_the_open_round_is_refused(changes: Any, situation: Any, code: ErrorCode) -> None:
    assert refusal(header(**changes), **situation) is code


def test_a_client_that_was_not_asked_is_refused() -> None:
    assert refusal(header(), client="c") is ErrorCode.NOT_PARTICIPANT


def test_the_largest_size_is_fine_and_one_byte_more_is_not() -> None:
    bound = largest_update(SPEC, SCHEMA, opened().participants["a"].plan)
    checked(header(size=bound))
    assert refusal(header(size=bound + 1)) is ErrorCode.UPDATE_TOO_LARGE


def test_a_method_that_shares_nothing_takes_empty_updates_alone() -> None:
    local = light_job("j", method="local")
    situation = {"spec": local, "current": opened(local)}
    checked(header(size=0, digest=b""), **situation)
    assert largest_update(local, SCHEMA, opened(local).participants["a"].plan) == 0
    assert refusal(header(), **situation) is ErrorCode.UPDATE_TOO_LARGE


def test_a_blob_as_planned_is_decoded() -> None:
    delta = check_blob(checked(header()), blob_of())
    assert all(matrix.kept == 8 for key, matrix in delta if key.part == "B")  # half of 16 rows


def test_a_blob_of_another_version_than_its_header_says_is_refused() -> None:
    with pytest.raises(FedhftError, match="version of the blob = 0") as caught:
        check_blob(checked(header()), blob_of(version=0))
    assert caught.value.code is ErrorCode.MALFORMED_UPDATE


def test_a_blob_of_a_larger_plan_is_refused_before_it_is_decoded_whole() -> None:
    whole = light_job("j", tiers={"standard": {"density": 1.0}})
    with pytest.raises(FedhftError) as caught:
        check_blob(checked(header()), blob_of(whole))
    assert caught.value.code is ErrorCode.UPDATE_TOO_LARGE


def test_a_norm_beyond_the_jobs_limit_is_refused() -> None:
    limited = light_job("j", limits={"update_norm": 0.001}, tiers={"standard": {"density": 0.5}})
    with pytest.raises(FedhftError) as caught:
        check_blob(checked(header(), spec=limited), blob_of())
    assert caught.value.code is ErrorCode.NORM_TOO_LARGE


@pytest.mark.parametrize("value", [1e37, -3.4e38, 2e6])
def test_values_that_no_adapter_has_are_refused_whatever_the_job_allows(value: float) -> None:
    for limit in (0.0, 1e30):
        generous = light_job("j", limits={"update_norm": limit}, tiers={"standard": {"density": 0.5}})
        with pytest.raises(FedhftError) as caught:
            check_blob(checked(header(), spec=generous), blob_of(value=value))
        assert caught.value.code is ErrorCode.NORM_TOO_LARGE


def test_an_update_weighs_what_was_pinned_with_its_plan() -> None:
    part = opened().participants["a"]
    record = update_record("a", header(), part)
    assert (record.samples, record.round, record.base_version, record.size) == (7, 2, 1, 100)
    assert record.digest == (b"d" * 32).hex()


def test_scores_are_taken_for_the_open_final_evaluation_alone() -> None:
    report = pb.ReportEvaluationRequest(round=2, version=1, scores=[OWN])
    check_evaluation(SPEC, opened(evaluation=True), report)
    for current in (None, opened(), opened(number=3, evaluation=True)):
        with pytest.raises(FedhftError) as caught:
            check_evaluation(SPEC, current, report)
        assert caught.value.code is ErrorCode.ROUND_CLOSED
    wrong = pb.ReportEvaluationRequest(
        round=2, version=1, scores=[pb.Score(split=1, moment=1, view=1, value=math.nan, rows=4)]
    )
    with pytest.raises(FedhftError) as caught:
        check_evaluation(SPEC, opened(evaluation=True), wrong)
    assert caught.value.code is ErrorCode.NON_FINITE
    record = evaluation_record("a", report, opened().participants["a"])
    assert (record.digest, record.size, record.samples, record.base_version) == ("", 0, 7, 1)
    assert evaluation_record("c", report, None).samples == 0
