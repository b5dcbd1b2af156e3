"""Metrics of a round: shares of the common split pooled as the whole split, and what is let in at the door."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhft.errors import ErrorCode, FedhftError
from fedhft.job_task import TaskSpec
from fedhft.plan import AdapterPlan
from fedhft.records import Participant
from fedhft.rounds.metric_figures import metric_figures, metrics_of_client, tell_metrics
from fedhft.rounds.reports import MOST_SUM, check_report
from fedhft.rounds.summary import ClientReport
from fedhft.scoring.confusion import Confusion
from fedhft.scoring.metrics import MOST_FIGURE
from fedhft.v1 import federation_pb2 as pb
from fedhft.v1 import jobs_pb2
from tests.light import light_job

PLAN = AdapterPlan("t", 1, 1.0, 1.0, 0, True, True)
LABELS = ("a", "b", "c")
TASK = TaskSpec(labels=LABELS)
LOOSE = st.floats() | st.sampled_from([MOST_SUM, -MOST_SUM, MOST_FIGURE, 0.0, 1.0, -1.0, 1e-300])


def of(client: str, *scores: pb.Score, shard: int | None = 0) -> ClientReport:
    part = Participant(samples=10, plan=PLAN, memberships=(1.0,), shard=shard)
    return ClientReport(client, 10, part, scores, pb.Measurements(), ())


def counted(answers: Any, actual: Any, split: int = 2, moment: int = 1, view: int = 1) -> pb.Score:
    """A score as an agent sends it."""
    found = Confusion.of_classes(np.array(answers), np.array(actual), len(LABELS))
    return pb.Score(
        split=split,  # type: ignore[arg-type]
        moment=moment,  # type: ignore[arg-type]
        view=view,  # type: ignore[arg-type]
        value=found.metric("accuracy"),
        rows=len(actual),
        metrics=[
            pb.Metric(name="accuracy", value=found.metric("accuracy"), floor=0.25),
            pb.Metric(name="macro_f1", value=found.metric("macro_f1"), floor=0.125),
        ],
        sums=found.sums if split == 2 else (),
    )


def test_shares_of_the_common_split_are_pooled_as_if_they_were_one() -> None:
    generator = np.random.default_rng(3)
    actual, answers = generator.integers(0, 3, 60), generator.integers(0, 3, 60)
    shares = [of(f"c{i}", counted(answers[i::4], actual[i::4])) for i in range(4)]
    accuracy, macro = metric_figures(TASK, shares)
    whole = Confusion.of_classes(answers, actual, 3)
    assert accuracy.shared_before == pytest.approx(whole.metric("accuracy"))
    assert macro.shared_before == pytest.approx(whole.metric("macro_f1"))
    mean = np.mean([metrics_of_client(share, TASK)[1].shared_before for share in shares])
    assert abs(mean - whole.metric("macro_f1")) > 1e-3  # which the mean of shares is not
    assert not macro.HasField("shared_after")
    assert not macro.HasField("personal_before")


def test_a_score_that_is_no_mean_is_told_as_that_of_all_shares_together() -> None:
    actual, answers = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 0, 1, 0, 0, 0])
    task = TaskSpec(labels=LABELS, metrics=("macro_f1", "accuracy"))
    shares = []
    for part in (slice(0, 3), slice(3, 6)):
        score = counted(answers[part], actual[part])
        score.value = score.metrics[1].value
        shares.append(of(str(part), score))
    summary = jobs_pb2.RoundSummary(shared_before=float(np.mean([share.scores[0].value for share in shares])))
    tell_metrics(summary, task, shares)
    whole = Confusion.of_classes(answers, actual, 3).metric("macro_f1")
    assert summary.shared_before == pytest.approx(whole)
    assert [one.name for one in summary.metrics] == ["macro_f1", "accuracy"]


def test_on_own_rows_the_mean_over_clients_is_shown_beside_the_floor() -> None:
    reports = [
        of("a", counted([0, 0], [0, 0], split=1), counted([0, 1], [0, 0], split=1, moment=2)),
        of("b", counted([0, 1], [0, 0], split=1)),
    ]
    accuracy, macro = metric_figures(TASK, reports)
    assert accuracy.personal_before == 0.75
    assert accuracy.personal_after == 0.5
    assert (accuracy.floor, macro.floor) == (0.25, 0.125)


def test_a_share_that_claims_more_rows_than_the_others_weighs_like_one() -> None:
    honest = [of(f"c{i}", counted([0, 1, 2, 0], [0, 1, 2, 0])) for i in range(3)]
    liar = counted([1] * 4, [0] * 4)
    liar.rows = 10**6
    liar.sums[:] = [value * 10**6 / 4 for value in liar.sums]
    macro = metric_figures(TASK, [*honest, of("liar", liar)])[1]
    assert macro.shared_before > 0.5


def test_nobody_who_was_dealt_no_share_is_heard() -> None:
    silent = of("a", counted([0], [0]), shard=None)
    assert not metric_figures(TASK, [silent])[0].HasField("shared_before")


def test_agents_of_earlier_releases_report_no_metrics_and_their_shares_count_where_means_are_right() -> None:
    old = pb.Score(split=2, moment=1, view=1, value=0.5, rows=10)
    new = counted([0, 1], [0, 1])
    found = metric_figures(TASK, [of("old", old), of("new", new)])
    assert [one.name for one in found] == ["accuracy", "macro_f1"]
    assert found[1].shared_before == pytest.approx(1.0)
    assert metric_figures(TASK, [of("old", old)]) == []


def test_a_rank_correlation_of_shares_is_their_mean_over_rows() -> None:
    task = TaskSpec(kind="regression", metrics=("spearman",))
    shares = [
        pb.Score(split=2, moment=1, view=1, value=v, rows=n, metrics=[pb.Metric(name="spearman", value=v)])
        for v, n in ((0.5, 10), (0.8, 11))
    ]
    (found,) = metric_figures(task, [of("a", shares[0]), of("b", shares[1])])
    assert found.shared_before == pytest.approx((5 + 8.8) / 21)


JOBS = {
    "classification": light_job("j"),
    "regression": light_job("j", task={"kind": "regression", "labels": []}),
    "causal-lm": light_job("j", task={"kind": "causal-lm", "labels": []}),
}


@pytest.mark.parametrize(
    ("kind", "changes", "said"),
    [
        ("classification", {"metrics": [pb.Metric(name="mcc", value=0.5)]}, r"metrics\[0\].name = 'mcc'"),
        ("classification", {"metrics": [pb.Metric(name="accuracy", value=1.5)]}, "value = 1.5: is not between"),
        ("classification", {"metrics": [pb.Metric(name="accuracy", value=math.nan)]}, "is not finite"),
        ("classification", {"metrics": [pb.Metric(name="accuracy", floor=-0.5)]}, "floor = -0.5"),
        ("classification", {"metrics": [pb.Metric(name="accuracy")] * 2}, "is not one more of the job's metrics"),
        ("classification", {"sums": [1.0] * 3}, "sums = '3 numbers'"),
        ("classification", {"sums": [math.inf] * 8}, r"sums\[0\] = inf: is not finite"),
        ("regression", {"metrics": [pb.Metric(name="rmse", value=-1.0)]}, "value = -1"),
        ("regression", {"sums": [2 * MOST_SUM] * 8}, "is not between"),
        ("causal-lm", {"metrics": [pb.Metric(name="perplexity", value=2 * MOST_FIGURE)]}, "is not between"),
    ],
)
def test_what_is_not_a_metric_of_the_job_is_refused_by_field(kind: str, changes: dict[str, Any], said: str) -> None:
    score = pb.Score(split=2, moment=1, view=1, value=0.5, rows=4, **changes)
    with pytest.raises(FedhftError, match=said) as caught:
        check_report(JOBS[kind], [score], pb.Measurements())
    assert caught.value.code in (ErrorCode.INVALID_ARGUMENT, ErrorCode.NON_FINITE)


@given(
    st.sampled_from(sorted(JOBS)),
    st.lists(st.tuples(st.lists(LOOSE, min_size=8, max_size=8), LOOSE, st.integers(0, 10**7)), min_size=1, max_size=4),
)
def test_whatever_was_let_in_gives_figures_in_their_ranges(kind: str, told: list[Any]) -> None:
    spec = JOBS[kind]
    reports = []
    for place, (sums, value, rows) in enumerate(told):
        score = pb.Score(
            split=2, moment=1, view=1, value=0.5, rows=rows, sums=sums[: spec.task.sums],
            metrics=[pb.Metric(name=name, value=value) for name in spec.task.measured],
        )  # fmt: skip
        with suppress(FedhftError):
            check_report(spec, [score], pb.Measurements())
            reports.append(of(f"c{place}", score))
    for figures in metric_figures(spec.task, reports):
        if figures.HasField("shared_before"):
            assert math.isfinite(figures.shared_before)
            assert abs(figures.shared_before) <= MOST_FIGURE


def test_of_a_packages_own_task_the_metrics_that_most_report_are_told() -> None:
    task = TaskSpec.model_construct(kind="own", labels=(), metrics=())
    ours = [pb.Score(split=1, moment=1, view=1, rows=3, metrics=[pb.Metric(name="stars", value=0.5)]) for _ in range(3)]
    odd = pb.Score(split=1, moment=1, view=1, rows=3, metrics=[pb.Metric(name=f"n{i}", value=1.0) for i in range(8)])
    reports = [*(of(f"c{i}", score) for i, score in enumerate(ours)), of("odd", odd)]
    found = metric_figures(task, reports)
    assert found[0].name == "stars"
    assert len(found) == 8
