"""Statistics over a round's clients."""

from __future__ import annotations

from typing import Any

import pytest

from fedhft.plan import AdapterPlan
from fedhft.records import Participant, Phase, RoundRecord
from fedhft.rounds.statistics import figures_of
from fedhft.rounds.summary import ClientReport, summarise
from fedhft.v1 import federation_pb2 as pb

PLAN = AdapterPlan(tier="small", depth=2, density=0.5, epochs=1.0, max_steps=0, train_a=True, train_b=True)
PERSONAL, SHARED = pb.Score.SPLIT_PERSONAL, pb.Score.SPLIT_SHARED
BEFORE, AFTER = pb.Score.MOMENT_BEFORE, pb.Score.MOMENT_AFTER


def score(split: Any, moment: Any, value: float, loss: float, rows: int = 10) -> pb.Score:
    view = pb.Score.VIEW_OWN
    return pb.Score(split=split, moment=moment, view=view, value=value, loss=loss, rows=rows)


def report(
    client: str, *scores: pb.Score, tier: str = "small", shard: int | None = None, peak: int = 0
) -> ClientReport:
    part = Participant(samples=10, plan=PLAN, memberships=(1.0,), shard=shard)
    return ClientReport(client, 10, part, scores, pb.Measurements(), ())


def by_name(*reports: ClientReport) -> dict[tuple[str, str, str], tuple[float, float]]:
    part = Participant(samples=10, plan=PLAN, memberships=(1.0,))
    current = RoundRecord(
        number=1, phase=Phase.FOLDING, base_version=0, membership_version=0, clusters=1, opened_ms=0, deadline_ms=1,
        target=1, quorum=1, participants={one.client: part for one in reports},
    )  # fmt: skip
    summary = summarise(current, reports, {}, 1)
    return {(f.split, f.moment, f.statistic): (f.score, f.loss) for f in figures_of(reports, summary)}


def test_of_personal_rows_there_are_mean_median_and_worst_tenth_over_clients() -> None:
    values = [(0.1, 4.0), (0.2, 1.0), (0.9, 0.5)]
    reports = [report(f"c{i}", score(PERSONAL, AFTER, value, loss)) for i, (value, loss) in enumerate(values)]
    assert by_name(*reports) == {
        ("personal", "after", "mean"): (pytest.approx(0.4), pytest.approx(5.5 / 3)),
        ("personal", "after", "median"): (0.2, 1.0),
        ("personal", "after", "worst_decile"): (0.1, 4.0),
    }


def test_of_shared_rows_there_is_the_mean_over_rows_of_clients_that_were_dealt_some() -> None:
    dealt = report("a", score(SHARED, BEFORE, 0.5, 1.0, rows=10), shard=0)
    other = report("b", score(SHARED, BEFORE, 0.8, 0.4, rows=11), shard=1)
    stranger = report("c", score(SHARED, BEFORE, 1.0, 0.0, rows=99))
    assert by_name(dealt, other, stranger) == {
        ("shared", "before", "mean"): (pytest.approx(13.8 / 21), pytest.approx(14.4 / 21))
    }


def test_without_scores_there_are_no_figures() -> None:
    assert by_name(report("a")) == {}
