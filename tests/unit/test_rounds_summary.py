"""A round's figures from what its clients reported."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhft.plan import AdapterPlan
from fedhft.records import Participant, Phase, RoundRecord, Traffic, UpdateRecord
from fedhft.rounds.reports import write_report
from fedhft.rounds.summary import ClientReport, pooled, readable_reports, results_of, summarise
from fedhft.v1 import federation_pb2 as pb

PLAN = AdapterPlan(tier="small", depth=2, density=0.5, epochs=1.0, max_steps=0, train_a=True, train_b=True)
Score = pb.Score
PERSONAL, SHARED = Score.SPLIT_PERSONAL, Score.SPLIT_SHARED
BEFORE, AFTER = Score.MOMENT_BEFORE, Score.MOMENT_AFTER
OWN, MASS = Score.VIEW_OWN, Score.VIEW_MASS_WEIGHTED


def score(
    split: Any, moment: Any, value: float, rows: int = 10, view: Any = OWN, majority: float = 0.0, loss: float = 0.0
) -> pb.Score:
    return pb.Score(split=split, moment=moment, view=view, value=value, rows=rows, majority=majority, loss=loss)


def report(
    client: str,
    *scores: pb.Score,
    samples: int = 10,
    shard: int | None = 0,
    tier: str = "small",
    size: int = 0,
    **figures: Any,
) -> ClientReport:
    part = Participant(samples=samples, plan=replace(PLAN, tier=tier), memberships=(0.25, 0.75), shard=shard)
    return ClientReport(client, samples, part, scores, pb.Measurements(**figures), (), size)


def current(*clients: str) -> RoundRecord:
    part = Participant(samples=10, plan=PLAN, memberships=(0.25, 0.75))
    return RoundRecord(
        number=3, phase=Phase.FOLDING, base_version=2, membership_version=4, clusters=2, opened_ms=1_000,
        deadline_ms=9_000, target=2, quorum=1, participants=dict.fromkeys(clients, part),
    )  # fmt: skip


def summed(*reports: ClientReport, before: dict[str, Traffic] | None = None) -> Any:
    return summarise(current("a", "b", "c"), reports, before or {}, 3_500)


def test_a_summary_says_how_many_were_asked_how_many_came_and_how_long_it_took() -> None:
    summary = summed(report("a"), report("b"))
    assert (summary.round, summary.asked, summary.accepted, summary.seconds) == (3, 3, 2, 2.5)
    assert (summary.membership_version, list(summary.cluster_sizes)) == (4, [0, 3])


def test_bytes_are_those_since_the_last_report() -> None:
    counted = report(
        "a", socket_bytes_sent=100, socket_bytes_received=200, payload_bytes_sent=30, payload_bytes_received=40
    )
    summary = summed(counted, before={"a": (60, 150, 10, 15)})
    assert (summary.socket_bytes_up, summary.socket_bytes_down) == (40, 50)
    assert (summary.payload_bytes_up, summary.payload_bytes_down) == (20, 25)


@pytest.mark.parametrize("before", [(60, 0, 0, 0), (0, 60, 0, 0), (0, 0, 60, 0), (0, 0, 0, 60)])
def test_counters_that_fell_belong_to_an_agent_that_restarted_and_count_from_zero(before: Traffic) -> None:
    counted = report(
        "a", socket_bytes_sent=50, socket_bytes_received=50, payload_bytes_sent=50, payload_bytes_received=50
    )
    summary = summed(counted, before={"a": before})
    assert (summary.socket_bytes_up, summary.socket_bytes_down) == (50, 50)
    assert (summary.payload_bytes_up, summary.payload_bytes_down) == (50, 50)


def test_memory_and_time_are_means_and_the_largest() -> None:
    summary = summed(
        report("a", peak_rss_bytes=100, train_seconds=1.0, evaluate_seconds=0.5),
        report("b", peak_rss_bytes=300, train_seconds=2.0, evaluate_seconds=1.5),
    )
    assert (summary.peak_rss_bytes_max, summary.peak_rss_bytes_mean) == (300, 200.0)
    assert (summary.train_seconds_mean, summary.evaluate_seconds_mean) == (1.5, 1.0)


def test_shards_of_the_shared_split_are_pooled_by_rows() -> None:
    summary = summed(
        report("a", score(SHARED, BEFORE, 0.75, rows=4), score(SHARED, BEFORE, 0.5, rows=1, view=MASS)),
        report("b", score(SHARED, BEFORE, 1 / 3, rows=3), score(SHARED, AFTER, 0.75, rows=4)),
    )
    assert summary.shared_before == pytest.approx(4 / 7)
    assert summary.shared_after == pytest.approx(0.75)
    assert summary.shared_mass_weighted == pytest.approx(0.5)


def test_whoever_claims_to_have_scored_a_billion_rows_counts_like_one_client() -> None:
    honest = [report(name, score(SHARED, BEFORE, 0.5, rows=rows)) for name, rows in (("a", 7), ("b", 7), ("c", 6))]
    summary = summed(*honest, report("z", score(SHARED, BEFORE, 1.0, rows=10**9)))
    assert summary.shared_before == pytest.approx((0.5 * 20 + 8) / 28)


@given(st.integers(1, 40), st.integers(1, 400), st.data())
def test_honest_shards_of_any_split_are_pooled_exactly(count: int, rows: int, data: st.DataObject) -> None:
    right = data.draw(st.lists(st.booleans(), min_size=rows, max_size=rows))
    shards = [right[index::count] for index in range(count)]
    scores = [score(SHARED, BEFORE, sum(shard) / len(shard), rows=len(shard)) for shard in shards if shard]
    assert pooled(scores) == pytest.approx(sum(right) / rows)


@given(st.lists(st.integers(5, 6), min_size=2, max_size=30), st.integers(0, 2**40))
def test_one_report_moves_a_pooled_score_by_two_shares_at_most(rows: list[int], claimed: int) -> None:
    honest = [score(SHARED, BEFORE, 0.0, rows=count) for count in rows]
    moved = pooled([*honest, score(SHARED, BEFORE, 1.0, rows=claimed)])
    assert moved is not None
    assert moved <= 2 / (len(rows) + 1)


def test_scores_of_rows_that_a_client_was_not_dealt_are_not_pooled() -> None:
    summary = summed(
        report("a", score(SHARED, BEFORE, 0.5, rows=4)), report("z", score(SHARED, BEFORE, 1.0, rows=4), shard=None)
    )
    assert summary.shared_before == 0.5


def test_personal_scores_are_spread_over_clients_whatever_their_rows() -> None:
    reports = [report(f"c{i:02}", score(PERSONAL, BEFORE, i / 20, rows=1 + i)) for i in range(20)]
    summary = summarise(current("a"), reports, {}, 0)
    assert summary.personal_before_mean == pytest.approx(9.5 / 20)
    assert summary.personal_before_worst_tenth == pytest.approx(0.5 / 20)
    assert summary.personal_before_worst == 0.0
    assert not summary.HasField("personal_after_mean")


def test_what_nobody_measured_is_absent_and_not_zero() -> None:
    summary = summed(report("a", score(SHARED, BEFORE, 0.0, rows=0)))
    assert not summary.HasField("shared_before")
    assert not summary.HasField("personal_before_mean")
    assert pooled([None, None]) is None


def test_final_figures_of_a_client_are_its_own() -> None:
    scores = (
        score(PERSONAL, BEFORE, 0.6, majority=0.4),
        score(PERSONAL, AFTER, 0.7),
        score(SHARED, BEFORE, 0.5),
        score(SHARED, BEFORE, 0.1, view=MASS),
    )
    (result,) = results_of([report("a", *scores, samples=77, peak_rss_bytes=9, socket_bytes_sent=8)])
    assert (result.client, result.tier, result.samples, result.majority) == ("a", "small", 77, 0.4)
    assert (result.personal_before, result.personal_after, result.shared_before) == (0.6, 0.7, 0.5)
    assert not result.HasField("shared_after")
    assert (result.peak_rss_bytes, result.socket_bytes_sent) == (9, 8)
    assert list(result.memberships) == [0.25, 0.75]


def test_a_report_is_read_back_as_it_was_written() -> None:
    figures = pb.Measurements(steps=3, train_seconds=0.5)
    text = write_report([score(PERSONAL, BEFORE, 0.5)], figures, (0.6, -0.8))
    record = UpdateRecord(client="b", round=3, base_version=2, digest="", size=0, samples=4, report=text)
    (found,), unreadable = readable_reports(current("a", "b"), {"b": record})
    assert unreadable == {}
    assert (found.client, found.samples, found.measurements) == ("b", 4, figures)
    assert found.score(PERSONAL, BEFORE) == score(PERSONAL, BEFORE, 0.5)
    assert found.signature == pytest.approx((0.6, -0.8))


def test_the_majority_class_baseline_is_the_mean_over_those_who_scored_their_rows() -> None:
    summary = summed(
        report("a", score(PERSONAL, BEFORE, 0.9, majority=0.5)),
        report("b", score(PERSONAL, BEFORE, 0.9, majority=0.0)),
        report("c"),
    )
    assert summary.personal_majority_mean == 0.25
    numbers = summed(report("a", score(PERSONAL, BEFORE, 0.9)))
    assert not numbers.HasField("personal_majority_mean")


def test_one_absurd_loss_does_not_move_the_loss_that_people_are_shown() -> None:
    reports = [
        report(name, score(PERSONAL, BEFORE, 0.5, loss=loss))
        for name, loss in zip("abc", (0.5, 0.7, 3e38), strict=True)
    ]
    summary = summed(*reports)
    assert summary.personal_loss_before_median == 0.7
    assert not summary.HasField("personal_loss_after_median")


def test_memory_and_bytes_before_and_after_coding_are_told_by_tier() -> None:
    summary = summed(
        report("a", tier="small", size=100, raw_bytes_sent=800, peak_rss_bytes=10),
        report("b", tier="large", size=500, raw_bytes_sent=2000, peak_rss_bytes=50),
        report("c", tier="small", size=0, raw_bytes_sent=9, peak_rss_bytes=30),
    )
    assert (summary.update_bytes, summary.update_raw_bytes) == (600, 2800)
    large, small = summary.tiers
    assert (large.tier, large.clients, large.update_bytes, large.peak_rss_bytes_max) == ("large", 1, 500, 50)
    assert (small.tier, small.clients, small.update_bytes, small.update_raw_bytes) == ("small", 2, 100, 800)
    assert (small.peak_rss_bytes_max, small.peak_rss_bytes_mean) == (30, 20.0)
