"""Statistics over a round's clients, from their reports: scores and losses by split and moment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from fedhft.rounds.summary import ClientReport, pooled, spread
from fedhft.v1 import federation_pb2

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


def figures_of(reports: Sequence[ClientReport]) -> tuple[Figure, ...]:
    """Every statistic that the reports allow. Of shared rows there is only the mean, over rows: each client scores its
    own share of them.
    """
    found: list[Figure] = []
    dealt = [report for report in reports if report.participant.shard is not None]
    for moment, wanted in MOMENTS.items():
        own = [score for report in reports if (score := report.score(SPLITS["personal"], wanted)) is not None]
        if own:
            values, losses = [score.value for score in own], [score.loss for score in own]
            for name, statistic in _STATISTICS.items():
                # The worst loss is the highest, so the same statistics are taken of what it falls short of zero.
                loss = -statistic([-value for value in losses])
                found.append(Figure("personal", moment, name, statistic(values), loss))
        scores = [report.score(SPLITS["shared"], wanted) for report in dealt]
        value, loss_of_rows = pooled(scores), pooled(scores, lambda score: score.loss)
        if value is not None and loss_of_rows is not None:
            found.append(Figure("shared", moment, "mean", value, loss_of_rows))
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
