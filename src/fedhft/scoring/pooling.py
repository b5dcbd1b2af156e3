"""Metrics of a whole split from the sums of its shares; which sums a kind of task has, and how many."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from fedhft.adapter import Float64
from fedhft.scoring.confusion import Confusion
from fedhft.scoring.likelihood import Likelihood
from fedhft.scoring.metrics import metric
from fedhft.scoring.moments import Moments
from fedhft.scoring.spans import entity_types


class Tally(Protocol):
    """What was counted over scored rows, and what follows from it."""

    @property
    def sums(self) -> Float64:
        """Figures that add up over disjoint rows; empty where there are none."""

    def metric(self, name: str) -> float:
        """A metric of the rows that were summed."""


def sums_of(kind: str, labels: Sequence[str], metrics: Sequence[str]) -> int:
    """How many sums a score of a common split carries; 0 where the mean over rows is right for every metric."""
    if all(not metric(name).pooled_by_sums or name == "accuracy" for name in metrics):
        return 0
    if kind in ("classification", "multi-label"):
        return 2 + 3 * len(labels)
    if kind == "token-classification":
        return 2 + 3 * len(entity_types(labels))
    return {"regression": 8, "causal-lm": 5}.get(kind, 0)


def tally_of(kind: str, sums: Sequence[float] | Float64) -> Tally:
    """What a vector of sums says. Raises KeyError for a kind of task that has none."""
    return _TALLIES[kind](sums)


_TALLIES: Mapping[str, Callable[[Sequence[float] | Float64], Tally]] = {
    "classification": Confusion.from_sums,
    "multi-label": Confusion.from_sums,
    "token-classification": Confusion.from_sums,
    "regression": Moments.from_sums,
    "causal-lm": Likelihood.from_sums,
}
