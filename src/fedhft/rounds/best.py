"""Which version is the best so far, and whether a job that gets no better should end.

A round scores the version that it starts from, before local training. With v_t what `stopping` names, measured in round
t of version b_t (for a loss or an error, minus that):

    v_t > v_best + min_delta or no best yet    best = b_t, waited = 0
    otherwise                                  waited = waited + 1
    waited >= patience > 0                     no more rounds open

Rounds that score nothing change nothing. The last version is measured by the final evaluation, or not at all. What is
best after a round follows from what was best before it and the round's summary alone, so a fold that is repeated finds
the same.
"""

from __future__ import annotations

from fedhft.job import JobSpec
from fedhft.scoring.metrics import metric
from fedhft.v1 import jobs_pb2


def best_after(
    spec: JobSpec, before: jobs_pb2.BestVersion | None, summary: jobs_pb2.RoundSummary, scored: int
) -> jobs_pb2.BestVersion | None:
    """The best version after a round. before: the best until then. scored: the version that the round starts from."""
    value = _measured(spec, summary)
    if value is None:
        return before
    sign = 1.0 if _more_is_better(spec) else -1.0
    if before is None or sign * value > sign * before.score + spec.stopping.min_delta:
        return jobs_pb2.BestVersion(version=scored, score=value, by=_by(spec), round=summary.round)
    later = jobs_pb2.BestVersion()
    later.CopyFrom(before)
    later.waited += 1
    return later


def reason_to_stop(spec: JobSpec, best: jobs_pb2.BestVersion | None) -> str:
    """Why no more rounds should open, for people; empty while they should."""
    patience = spec.stopping.patience
    if best is None or not patience or best.waited < patience:
        return ""
    return (
        f"ended early: {best.waited} scored round{'s' if best.waited > 1 else ''} without a version better than "
        f"{best.version}, {best.by} {best.score:.4g} (stopping.patience = {patience})"
    )


def _measured(spec: JobSpec, summary: jobs_pb2.RoundSummary) -> float | None:
    """What versions are compared by, in the unit of the metric; None where the round did not measure it."""
    name, rows = spec.stopping.metric, spec.stopping.rows
    if name == "loss":
        field = "personal_loss_before_median" if rows == "personal" else "shared_loss_before"
    elif name in ("", *spec.task.measured[:1]):
        field = "personal_before_mean" if rows == "personal" else "shared_before"
    else:
        figures = next((one for one in summary.metrics if one.name == name), None)
        field = f"{rows}_before"
        return getattr(figures, field) if figures is not None and figures.HasField(field) else None  # type: ignore[arg-type]
    return getattr(summary, field) if summary.HasField(field) else None  # type: ignore[arg-type]


def _more_is_better(spec: JobSpec) -> bool:
    name = spec.stopping.metric
    return not name or (name != "loss" and metric(name).more_is_better)


def _by(spec: JobSpec) -> str:
    name = spec.stopping.metric or next(iter(spec.task.measured), "score")
    return f"{name} ({spec.stopping.rows})"
