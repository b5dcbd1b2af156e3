"""Every metric of a job's task over a round's clients, from their reports.

On own rows: the mean over clients. On the shared split, whose shares are disjoint: what follows from the sum of their
sums, because the mean of two halves' F1, correlation or perplexity is not that of the whole; for metrics that are means
over rows (accuracy), and those no sum yields (rank correlation, metrics of a package's own task), the mean over rows.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import median_low

import numpy as np

from fedhft.job_task import TaskSpec
from fedhft.rounds.reports import MOST_METRICS
from fedhft.rounds.summary import ClientReport, pooled
from fedhft.scoring.metrics import metric
from fedhft.v1 import federation_pb2, jobs_pb2

_SCORE = federation_pb2.Score
_SHARED = (
    ("shared_before", _SCORE.MOMENT_BEFORE, _SCORE.VIEW_OWN),
    ("shared_after", _SCORE.MOMENT_AFTER, _SCORE.VIEW_OWN),
    ("shared_mass_weighted", _SCORE.MOMENT_BEFORE, _SCORE.VIEW_MASS_WEIGHTED),
)
_PERSONAL = (("personal_before", _SCORE.MOMENT_BEFORE), ("personal_after", _SCORE.MOMENT_AFTER))


def metric_figures(task: TaskSpec, reports: Sequence[ClientReport]) -> list[jobs_pb2.MetricFigures]:
    """A message per metric that somebody reported, in the job's order (of a package's own, in that of the reports)."""
    dealt = [report for report in reports if report.participant.shard is not None]
    found = []
    for name in _names(task, reports):
        figures = jobs_pb2.MetricFigures(name=name)
        for field, moment in _PERSONAL:
            own = [report.score(_SCORE.SPLIT_PERSONAL, moment) for report in reports]
            _set(figures, field, _mean(_value(score, name) for score in own))
            if moment == _SCORE.MOMENT_BEFORE:
                _set(figures, "floor", _mean(_floor(score, name) for score in own))
        for field, moment, view in _SHARED:
            shares = [report.score(_SCORE.SPLIT_SHARED, moment, view) for report in dealt]
            _set(figures, field, _pooled(task, name, [score for score in shares if score is not None]))
        found.append(figures)
    return found


def tell_metrics(summary: jobs_pb2.RoundSummary, task: TaskSpec, reports: Sequence[ClientReport]) -> None:
    """Add every metric to a round's summary; the score on the shared split is then that of all its shares together."""
    summary.metrics.extend(metric_figures(task, reports))
    for figures in summary.metrics[:1]:
        if figures.name == next(iter(task.measured), figures.name):
            for field, _, _ in _SHARED:
                if figures.HasField(field) and summary.HasField(field):  # type: ignore[arg-type]
                    setattr(summary, field, getattr(figures, field))


def metrics_of_client(report: ClientReport, task: TaskSpec) -> list[jobs_pb2.MetricFigures]:
    """The same of one client alone."""
    found = []
    for name in _names(task, [report]):
        figures = jobs_pb2.MetricFigures(name=name)
        for field, moment in _PERSONAL:
            _set(figures, field, _value(report.score(_SCORE.SPLIT_PERSONAL, moment), name))
        _set(figures, "floor", _floor(report.score(_SCORE.SPLIT_PERSONAL, _SCORE.MOMENT_BEFORE), name))
        for field, moment, view in _SHARED[:2]:
            _set(figures, field, _value(report.score(_SCORE.SPLIT_SHARED, moment, view), name))
        found.append(figures)
    return found


def _names(task: TaskSpec, reports: Iterable[ClientReport]) -> tuple[str, ...]:
    reported = Counter(one.name for report in reports for score in report.scores for one in score.metrics)
    # A package's own task names its metrics in its reports; whoever reports others than everybody is not heard.
    usual = task.measured or tuple(name for name, _ in reported.most_common(MOST_METRICS))
    return tuple(name for name in usual if name in reported)


def _pooled(task: TaskSpec, name: str, shares: Sequence[federation_pb2.Score]) -> float | None:
    known = [score for score in shares if _value(score, name) is not None]
    size = task.sums
    summed = [score for score in known if size and len(score.sums) == size]
    if not metric(name).pooled_by_sums or not summed:
        return pooled(known, lambda score: _value(score, name) or 0.0)
    # As in `pooled`: a report of more rows than its share weighs no more than that.
    most = median_low(score.rows for score in summed) + 1
    total = np.sum([np.asarray(score.sums) * (min(score.rows, most) / score.rows) for score in summed], axis=0)
    value = task.tally(total).metric(name)
    bounds = metric(name)
    return min(max(value, bounds.least), bounds.most) if math.isfinite(value) else None


def _value(score: federation_pb2.Score | None, name: str) -> float | None:
    return next((one.value for one in score.metrics if one.name == name), None) if score is not None else None


def _floor(score: federation_pb2.Score | None, name: str) -> float | None:
    return next((one.floor for one in score.metrics if one.name == name), None) if score is not None else None


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def _set(figures: jobs_pb2.MetricFigures, field: str, value: float | None) -> None:
    if value is not None:
        setattr(figures, field, value)
