"""Reports of clients: what is accepted can be summarised, whatever it says; the rest is refused by field."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fedhft.errors import ErrorCode, FedhftError
from fedhft.plan import AdapterPlan
from fedhft.records import Participant, Phase, RoundRecord, UpdateRecord
from fedhft.rounds.reports import MOST_COUNT, MOST_LOSS, MOST_SECONDS, check_report, read_report, write_report
from fedhft.rounds.summary import readable_reports, results_of, summarise
from fedhft.v1 import federation_pb2 as pb
from tests.light import light_job, light_signature

SPEC = light_job("j")
REGRESSION = light_job("j", task={"kind": "regression", "labels": []})
FLOAT_MAX = 1.7976931348623157e308
FLOATS = st.floats() | st.floats(0, 1) | st.sampled_from([FLOAT_MAX, -FLOAT_MAX, MOST_LOSS, 1.0, -1.0, 5e-324])
COUNTS = st.integers(0, 2**64 - 1) | st.integers(0, MOST_COUNT) | st.sampled_from([MOST_COUNT, 2**53, 2**63])
ENUMS = st.integers(0, 3) | st.sampled_from([-1, 2**31 - 1])
SCORES = st.builds(
    pb.Score, split=ENUMS, moment=ENUMS, view=ENUMS, value=FLOATS, loss=FLOATS, rows=COUNTS, majority=FLOATS
)
FIGURES = st.builds(
    pb.Measurements, train_seconds=FLOATS, evaluate_seconds=FLOATS, steps=COUNTS, peak_rss_bytes=COUNTS,
    socket_bytes_sent=COUNTS, socket_bytes_received=COUNTS, payload_bytes_sent=COUNTS, payload_bytes_received=COUNTS,
    raw_bytes_sent=COUNTS,
)  # fmt: skip
CLIENTS = tuple("abcdef")
PLAN = AdapterPlan("standard", 1, 1.0, 1.0, 0, True, True)


def opened() -> RoundRecord:
    part = Participant(samples=10, plan=PLAN, memberships=(1.0,))
    return RoundRecord(
        number=1, phase=Phase.FOLDING, base_version=0, membership_version=0, clusters=1, opened_ms=0, deadline_ms=1,
        target=1, quorum=1, participants=dict.fromkeys(CLIENTS, part),
    )  # fmt: skip


def own(**changes: Any) -> pb.Score:
    fields: dict[str, Any] = {"split": 1, "moment": 1, "view": 1, "value": 0.5, "loss": 0.7, "rows": 4, "majority": 0.4}
    return pb.Score(**{**fields, **changes})


def largest() -> tuple[list[pb.Score], pb.Measurements]:
    fields = pb.Measurements.DESCRIPTOR.fields
    counts: Any = {field.name: MOST_COUNT for field in fields if field.cpp_type == field.CPPTYPE_UINT64}
    figures = pb.Measurements(train_seconds=MOST_SECONDS, evaluate_seconds=MOST_SECONDS, **counts)
    return [own(value=1.0, loss=MOST_LOSS, rows=SPEC.limits.samples)], figures


REPORTS = st.lists(st.tuples(st.lists(SCORES, max_size=3), FIGURES), max_size=len(CLIENTS))


@given(REPORTS, st.sampled_from([SPEC, REGRESSION]))
@example([largest()] * len(CLIENTS), SPEC)
def test_whatever_was_accepted_can_be_summarised(reports: list[Any], spec: Any) -> None:
    accepted: dict[str, UpdateRecord] = {}
    for client, (scores, figures) in zip(CLIENTS, reports, strict=False):
        with suppress(FedhftError):
            check_report(spec, scores, figures)
            accepted[client] = UpdateRecord(
                client=client, round=1, base_version=0, digest="", size=0, samples=10,
                report=write_report(scores, figures),
            )  # fmt: skip
    found, unreadable = readable_reports(opened(), accepted)
    assert unreadable == {}
    summary = summarise(opened(), found, {}, 1000)
    results = results_of(found)
    numbers = [value for _, value in summary.ListFields() if isinstance(value, float)]
    numbers += [value for result in results for _, value in result.ListFields() if isinstance(value, float)]
    assert all(math.isfinite(number) for number in numbers)
    assert all(
        -1.0 - 1e-6 <= value <= 1.0 + 1e-6
        for field, value in summary.ListFields()
        if field.name.startswith(("shared", "personal")) and "_loss_" not in field.name
    )


def test_sums_over_a_hundred_thousand_clients_fit_their_message() -> None:
    assert 100_000 * MOST_COUNT < 2**64


@pytest.mark.parametrize(
    ("scores", "figures", "field"),
    [
        ([own(value=1.1)], {}, "scores[0].value"),
        ([own(value=-0.1)], {}, "scores[0].value"),
        ([own(value=FLOAT_MAX)], {}, "scores[0].value"),
        ([own(loss=-1.0)], {}, "scores[0].loss"),
        ([own(loss=FLOAT_MAX)], {}, "scores[0].loss"),
        ([own(majority=1.5)], {}, "scores[0].majority"),
        ([own(rows=10**12)], {}, "scores[0].rows"),
        ([own(), own(moment=2, split=0)], {}, "scores[1].split"),
        ([own(split=7)], {}, "scores[0].split"),
        ([own(moment=0)], {}, "scores[0].moment"),
        ([own(view=3)], {}, "scores[0].view"),
        ([own(), own(value=0.6)], {}, "scores[1]"),
        ([own()] * 9, {}, "scores"),
        ([], {"steps": 2**60}, "measurements.steps"),
        ([], {"socket_bytes_received": 2**64 - 1}, "measurements.socket_bytes_received"),
        ([], {"train_seconds": -1.0}, "measurements.train_seconds"),
        ([], {"evaluate_seconds": FLOAT_MAX}, "measurements.evaluate_seconds"),
    ],
)
def test_a_figure_out_of_its_range_is_refused_by_name(scores: Any, figures: Any, field: str) -> None:
    with pytest.raises(FedhftError) as caught:
        check_report(SPEC, scores, pb.Measurements(**figures))
    assert (caught.value.code, caught.value.message.split(" = ")[0]) == (ErrorCode.INVALID_ARGUMENT, field)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("field", ["value", "loss", "majority"])
def test_a_score_that_is_not_finite_is_refused_by_name(field: str, number: float) -> None:
    with pytest.raises(FedhftError, match=rf"^scores\[1\]\.{field} = ") as caught:
        check_report(SPEC, [own(), own(moment=2, **{field: number})], pb.Measurements())
    assert caught.value.code is ErrorCode.NON_FINITE


def test_a_regression_may_score_below_zero_and_no_lower_than_minus_one() -> None:
    check_report(REGRESSION, [own(value=-1.0, majority=0.0)], pb.Measurements())
    with pytest.raises(FedhftError):
        check_report(REGRESSION, [own(value=-1.1)], pb.Measurements())


@pytest.mark.parametrize("signature", [(1.0,), (3.4e38, *light_signature()[1:]), (math.nan,) * 256, (0.5,) * 256])
def test_a_signature_that_no_projection_makes_is_refused(signature: tuple[float, ...]) -> None:
    check_report(SPEC, [], pb.Measurements(), light_signature(3))
    with pytest.raises(FedhftError):
        check_report(SPEC, [], pb.Measurements(), signature)


def test_a_report_is_kept_as_the_bytes_that_were_accepted() -> None:
    figures = pb.Measurements(steps=3, train_seconds=0.1)
    record = UpdateRecord(
        client="a", round=1, base_version=0, digest="", size=0, samples=1, report=write_report([own()], figures)
    )
    again = UpdateRecord.model_validate_json(record.model_dump_json())
    assert again == record
    assert read_report(again.report).measurements == figures


def test_a_report_in_the_form_of_earlier_releases_is_read() -> None:
    text = '{"client":"a","round":1,"base_version":0,"digest":"","size":0,"samples":1,'
    text += '"report":"{\\"scores\\":[{\\"split\\":\\"SPLIT_PERSONAL\\",\\"value\\":0.5}],\\"signature\\":[1.0]}"}'
    header = read_report(UpdateRecord.model_validate_json(text).report)
    assert (header.scores[0].split, header.scores[0].value, list(header.signature)) == (1, 0.5, [1.0])


@pytest.mark.parametrize("data", [b"\xff\xff", b"{", b'{"scores": 7}', b'{"signature": ["x"]}', b'{"a":' * 5000])
def test_a_damaged_report_is_refused_with_a_code_of_its_own(data: bytes) -> None:
    with pytest.raises(FedhftError) as caught:
        read_report(data)
    assert caught.value.code is ErrorCode.DAMAGED_RECORD
