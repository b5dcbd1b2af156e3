"""Statistics over a round's clients, from their reports: scores and losses by split and moment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from fedhft.rounds.summary import ClientReport, spread
from fedhft.v1 import federation_pb2, jobs_pb2

SPLITS = {"personal": federation_pb2.Score.SPLIT_PERSONAL, "shared": federation_pb2.Score.SPLIT_SHARED}
MOMENTS = {"before": federation_pb2.Score.MOMENT_BEFORE, "after": federation_pb2.Score.MOMENT_AFTER}


@dataclass(frozen=True)
class Figure:
    """One statistic of one kind of score."""

    split: str
    moment: str
    statistic: str
    score: float
    loss: float


def figures_of(reports: Sequence[ClientReport], summary: jobs_pb2.RoundSummary) -> tuple[Figure, ...]:
    """Every statistic that the reports allow. Of shared rows there is only one, called mean: what the summary says of
    all shares together.
    """
    found: list[Figure] = []
    told: Any = summary  # whose optional fields the types name one by one
    for moment, wanted in MOMENTS.items():
        own = [score for report in reports if (score := report.score(SPLITS["personal"], wanted)) is not None]
        if own:
            values, losses = [score.value for score in own], [score.loss for score in own]
            for name, statistic in _STATISTICS.items():
                # The worst loss is the highest, so the same statistics are taken of what it falls short of zero.
                loss = -statistic([-value for value in losses])
                found.append(Figure("personal", moment, name, statistic(values), loss))
        value_field, loss_field = f"shared_{moment}", f"shared_loss_{moment}"
        if told.HasField(value_field) and told.HasField(loss_field):
            found.append(Figure("shared", moment, "mean", getattr(told, value_field), getattr(told, loss_field)))
    return tuple(found)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _worst_decile(values: Sequence[float]) -> float:
    found = spread(values)
    return found[1] if found else 0.0


_STATISTICS: dict[str, Callable[[Sequence[float]], float]] = {
    "mean": _mean,
    "median": median,
    "worst_decile": _worst_decile,
}
