"""Who may join a job, with what, and what is recorded of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fedhft.adapter import Parameter, Slot
from fedhft.clustering.signature import DIMENSIONS
from fedhft.errors import ErrorCode, FedhftError
from fedhft.job import JobSpec
from fedhft.records import ClientRecord
from fedhft.rounds.joining import (
    MOST_MEMORY_BYTES,
    Application,
    check_anchor_signature,
    check_application,
    check_authorised,
    check_enrolment,
    check_same_schema,
    client_record,
)
from tests.light import light_job, light_schema, light_signature

SCHEMA = light_schema()
UNIT = light_signature()
CLUSTERED = {"method": {"clusters": "auto"}}


def application(**changes: Any) -> Application:
    fields: dict[str, Any] = {
        "client": "a", "memory_bytes": 0, "tier": "", "schema": SCHEMA, "samples": 10, "data_digest": "d" * 64,
        "signature": (), "has_shared_validation": True,
    }  # fmt: skip
    return Application(**{**fields, **changes})


def refusal(spec: JobSpec, presented: Application) -> FedhftError:
    with pytest.raises(FedhftError) as caught:
        check_application(spec, presented)
    return caught.value


def test_a_client_that_fits_the_job_may_join() -> None:
    check_application(light_job("j"), application())
    check_application(light_job("j", clients=["a", "b"]), application())


@pytest.mark.parametrize("check", [lambda spec: check_authorised(spec, "eve"), None])
def test_a_client_that_the_job_does_not_name_may_not(check: Any) -> None:
    spec = light_job("j", clients=["a", "b"])
    check = check or (lambda spec: check_application(spec, application(client="eve", samples=0)))
    with pytest.raises(FedhftError, match="client eve is not among") as caught:
        check(spec)
    assert caught.value.code is ErrorCode.NOT_AUTHORISED


def test_a_client_without_rows_may_not() -> None:
    assert refusal(light_job("j"), application(samples=0)).code is ErrorCode.INVALID_DATA
    check_application(light_job("j"), application(samples=1))


@pytest.mark.parametrize(
    ("job", "schema", "field"),
    [
        ({"model": {"digest": "f" * 64}}, SCHEMA, "model.digest"),
        ({}, replace(SCHEMA, labels=("b", "a")), "labels"),
        ({}, replace(SCHEMA, head=()), "head"),
        ({}, replace(SCHEMA, slots=()), "slots"),
        ({}, replace(SCHEMA, weights=(Parameter("w", (2, 2)),)), "slots"),
        ({}, replace(SCHEMA, slots=(*SCHEMA.slots[:1], Slot("layer.1.query", 1, 16, 16, 8))), "slots.rank"),
        ({"method": "full"}, SCHEMA, "weights"),
        ({"method": "full"}, replace(SCHEMA, slots=()), "weights"),
    ],
)
def test_a_schema_that_does_not_fit_the_job_is_refused_by_field(job: Any, schema: Any, field: str) -> None:
    error = refusal(light_job("j", **job), application(schema=schema))
    assert (error.code, error.message.split(" = ")[0]) == (ErrorCode.SCHEMA_MISMATCH, field)


def test_a_schema_that_the_job_pins_or_that_trains_all_weights_is_fine() -> None:
    check_application(light_job("j", model={"digest": "0" * 64}), application())
    whole = replace(SCHEMA, slots=(), weights=(Parameter("w", (2, 2)),))
    check_application(light_job("j", method="full"), application(schema=whole))


@pytest.mark.parametrize(
    ("signature", "code"),
    [
        ((), ErrorCode.INVALID_ARGUMENT),
        ((1.0,), ErrorCode.INVALID_ARGUMENT),
        ((0.0,) * (DIMENSIONS + 1), ErrorCode.INVALID_ARGUMENT),
        ((1.0,) * DIMENSIONS, ErrorCode.INVALID_ARGUMENT),
        ((3.4e38, *UNIT[1:]), ErrorCode.INVALID_ARGUMENT),
        ((1.01, *UNIT[1:]), ErrorCode.INVALID_ARGUMENT),
        ((float("nan"), *UNIT[1:]), ErrorCode.NON_FINITE),
        ((float("inf"), *UNIT[1:]), ErrorCode.NON_FINITE),
    ],
)
def test_a_job_that_clusters_by_anchors_refuses_a_signature_it_cannot_use(
    signature: tuple[float, ...], code: ErrorCode
) -> None:
    assert refusal(light_job("j", **CLUSTERED), application(signature=signature)).code is code


def test_a_signature_is_of_norm_one_or_zero_and_a_job_of_one_cluster_asks_for_none() -> None:
    check_anchor_signature(light_job("j", **CLUSTERED), UNIT, ())
    check_anchor_signature(light_job("j", **CLUSTERED), (0.0,) * DIMENSIONS, ())
    check_anchor_signature(light_job("j"), (float("nan"),), (1.0,))


@pytest.mark.parametrize(
    ("halves", "named"),
    [
        ((1.0,), "signature_halves"),
        (UNIT, "signature_halves"),
        ((*UNIT, *UNIT, 0.0), "signature_halves"),
        ((*UNIT, 1.5, *UNIT[1:]), "second half"),
        ((float("nan"), *UNIT[1:], *UNIT), "first half"),
    ],
)
def test_halves_are_two_signatures_or_none(halves: tuple[float, ...], named: str) -> None:
    spec = light_job("j", **CLUSTERED)
    assert named in refusal(spec, application(signature=UNIT, halves=halves)).message
    check_application(spec, application(signature=UNIT, halves=(*UNIT, *UNIT)))
    check_application(spec, application(signature=UNIT, halves=(*UNIT, *(0.0,) * DIMENSIONS)))


def test_halves_are_kept_where_the_job_clusters_by_anchors() -> None:
    presented = application(signature=UNIT, halves=(*UNIT, *UNIT))
    assert client_record(light_job("j", **CLUSTERED), presented, None, 1).halves == (*UNIT, *UNIT)
    assert client_record(light_job("j"), presented, None, 1).halves == ()


def test_samples_are_bounded_by_the_job() -> None:
    check_application(light_job("j"), application(samples=10_000_000))
    assert "limits.samples is 10000000" in refusal(light_job("j"), application(samples=10_000_001)).message
    small = light_job("j", limits={"samples": 50})
    assert refusal(small, application(samples=10**12)).code is ErrorCode.INVALID_DATA


@pytest.mark.parametrize("digest", ["d", "D" * 64, "0" * 65, "x" * 10**6])
def test_a_data_digest_is_a_sha_256_or_absent(digest: str) -> None:
    check_application(light_job("j"), application(data_digest=""))
    assert refusal(light_job("j"), application(data_digest=digest)).code is ErrorCode.INVALID_ARGUMENT


def test_a_schema_whose_fold_would_not_fit_is_refused_with_the_figures() -> None:
    wide = replace(SCHEMA, slots=(Slot("layer.0.query", 0, 1 << 20, 1 << 20, 4),))
    error = refusal(light_job("j", limits={"fold_memory": "64MiB"}), application(schema=wide))
    assert error.code is ErrorCode.FOLD_TOO_LARGE
    assert f"limits.fold_memory allows {64 << 20}" in error.message


@pytest.mark.parametrize(
    ("memory_bytes", "version", "token"),
    [(MOST_MEMORY_BYTES + 1, "1.0", ""), (0, "x" * 65, ""), (0, "1\n2", ""), (0, "1.0", "t" * 129)],
)
def test_what_an_agent_says_of_itself_is_bounded(memory_bytes: int, version: str, token: str) -> None:
    check_enrolment(MOST_MEMORY_BYTES, "1.0", "t" * 64)
    with pytest.raises(FedhftError) as caught:
        check_enrolment(memory_bytes, version, token)
    assert caught.value.code is ErrorCode.INVALID_ARGUMENT


def test_a_tier_that_does_not_exist_is_refused_before_anything_is_recorded() -> None:
    assert refusal(light_job("j"), application(tier="huge")).code is ErrorCode.INVALID_ARGUMENT


def test_a_second_schema_must_be_the_first_one() -> None:
    check_same_schema(SCHEMA, light_schema())
    with pytest.raises(FedhftError, match="differs from the job's") as caught:
        check_same_schema(SCHEMA, light_schema(layers=3))
    assert caught.value.code is ErrorCode.SCHEMA_MISMATCH


def test_the_record_of_a_new_client_is_what_it_presented() -> None:
    spec = light_job("j", **CLUSTERED)
    record = client_record(spec, application(signature=(0.6, 0.8)), None, 77)
    assert record == ClientRecord(
        client="a", tier="standard", samples=10, data_digest="d" * 64, signature=(0.6, 0.8), has_shared_validation=True,
        joined_ms=77,
    )  # fmt: skip


def test_a_client_that_joins_again_keeps_its_first_join_and_replaces_the_rest() -> None:
    spec = light_job("j", **CLUSTERED)
    first = client_record(spec, application(signature=(0.6, 0.8)), None, 77)
    again = client_record(spec, application(samples=99, signature=(1.0, 0.0)), first, 500)
    assert (again.joined_ms, again.samples, again.signature) == (77, 99, (1.0, 0.0))


def test_an_update_signature_outlives_a_second_join_and_an_unwanted_one_is_not_kept() -> None:
    spec = light_job("j", method={"preset": "fedhft-paper", "clusters": 2})
    known = client_record(spec, application(signature=(9.0,)), None, 1)
    assert known.signature == ()
    later = known.model_copy(update={"signature": (0.0, 1.0)})  # set when an update of the client was folded
    assert client_record(spec, application(), later, 2).signature == (0.0, 1.0)
