"""Which version is the best, and when a job that gets no better stops: as functions of summaries."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhft.errors import ErrorCode, FedhftError
from fedhft.job import JobSpec, parse_job
from fedhft.rounds.best import best_after, reason_to_stop
from fedhft.v1.jobs_pb2 import BestVersion, MetricFigures, RoundSummary


def spec(task: dict[str, Any] | None = None, evaluation: dict[str, Any] | None = None, **stopping: Any) -> JobSpec:
    return parse_job(
        {
            "name": "job",
            "model": {"name": "base"},
            "task": task or {"labels": ["a", "b"]},
            "evaluation": evaluation or {},
            "stopping": stopping,
        }
    )


def after(job: JobSpec, scores: list[float | None]) -> list[BestVersion | None]:
    """The best version after each round; round t scores version t - 1."""
    best, found = None, []
    for number, score in enumerate(scores, start=1):
        summary = RoundSummary(round=number)
        if score is not None:
            summary.personal_before_mean = score
        best = best_after(job, best, summary, number - 1)
        found.append(best)
    return found


@given(st.lists(st.none() | st.floats(0, 1), max_size=30))
def test_the_best_version_is_the_first_of_the_largest_scores_however_many_rounds_score_nothing(
    scores: list[float | None],
) -> None:
    found = after(spec(), scores)
    for place in range(len(scores)):
        known = [(value, -version) for version, value in enumerate(scores[: place + 1]) if value is not None]
        best = found[place]
        assert (best is None) == (not known)
        if best is not None:
            value, version = max(known)
            assert (best.score, best.version, best.round) == (value, -version, -version + 1)
            assert best.waited == sum(later is not None for later in scores[-version + 1 : place + 1])


def test_a_gain_that_is_not_more_than_min_delta_is_none() -> None:
    best = after(spec(min_delta=0.05), [0.5, 0.55, 0.54, 0.5625, 0.6])
    assert [(one.version, one.waited) for one in best if one is not None] == [(0, 0), (0, 1), (0, 2), (3, 0), (3, 1)]


@pytest.mark.parametrize(
    ("stopping", "better", "worse"),
    [
        ({}, {"personal_before_mean": 0.9}, {"personal_before_mean": 0.8}),
        ({"rows": "shared"}, {"shared_before": 0.9}, {"shared_before": 0.8}),
        ({"metric": "accuracy"}, {"personal_before_mean": 0.9}, {"personal_before_mean": 0.8}),
        ({"metric": "loss"}, {"personal_loss_before_median": 0.1}, {"personal_loss_before_median": 0.2}),
        ({"metric": "loss", "rows": "shared"}, {"shared_loss_before": 0.1}, {"shared_loss_before": 0.2}),
        (
            {"metric": "macro_f1"},
            {"metrics": [MetricFigures(name="macro_f1", personal_before=0.9)]},
            {"metrics": [MetricFigures(name="macro_f1", personal_before=0.8)]},
        ),
        (
            {"metric": "macro_f1", "rows": "shared"},
            {"metrics": [MetricFigures(name="macro_f1", shared_before=0.9)]},
            {"metrics": [MetricFigures(name="macro_f1", shared_before=0.8)]},
        ),
    ],
)
def test_versions_are_compared_by_what_the_job_names(
    stopping: dict[str, Any], better: dict[str, Any], worse: dict[str, Any]
) -> None:
    job = spec(**stopping)
    first = best_after(job, None, RoundSummary(round=1, **worse), 0)
    second = best_after(job, first, RoundSummary(round=2, **better), 1)
    assert first is not None
    assert second is not None
    assert (first.version, second.version) == (0, 1)
    assert best_after(job, second, RoundSummary(round=3, **worse), 2).version == 1  # type: ignore[union-attr]
    assert best_after(job, second, RoundSummary(round=3, personal_after_mean=1.0), 2) == second, "not measured"
    expected = f"{stopping.get('metric', 'accuracy')} ({stopping.get('rows', 'personal')})"
    assert first.by == expected


def test_of_an_error_less_is_better() -> None:
    job = spec({"kind": "regression"}, metric="rmse")
    best = None
    for number, error in enumerate((2.0, 1.0, 3.0), start=1):
        summary = RoundSummary(round=number, metrics=[MetricFigures(name="rmse", personal_before=error)])
        best = best_after(job, best, summary, number - 1)
    assert best is not None
    assert (best.version, best.score, best.waited) == (1, 1.0, 1)


@pytest.mark.parametrize(("patience", "stops"), [(0, [False] * 5), (1, [0, 0, 1, 1, 1]), (2, [0, 0, 0, 0, 1])])
def test_a_job_stops_after_as_many_scored_rounds_without_a_better_version_as_it_has_patience(
    patience: int, stops: list[bool]
) -> None:
    job = spec(patience=patience)
    reasons = [reason_to_stop(job, best) for best in after(job, [0.5, 0.6, 0.6, None, 0.5])]
    assert [bool(reason) for reason in reasons] == stops
    if patience:
        assert "a version better than 1, accuracy (personal) 0.6" in reasons[-1]


@pytest.mark.parametrize(
    ("job", "said"),
    [
        ({"metric": "rmse"}, "stopping.metric = 'rmse': not measured; choose one of accuracy, macro_f1, loss"),
        ({"patience": 2, "evaluation": {"every": 0}}, "stopping.patience = 2"),
        ({"rows": "both"}, "stopping.rows = 'both'"),
        ({"min_delta": -0.1}, "stopping.min_delta"),
    ],
)
def test_a_job_that_could_never_be_stopped_as_it_says_is_refused(job: dict[str, Any], said: str) -> None:
    with pytest.raises(FedhftError) as refusal:
        spec(**job)
    assert refusal.value.code is ErrorCode.INVALID_JOB
    assert said in refusal.value.message
