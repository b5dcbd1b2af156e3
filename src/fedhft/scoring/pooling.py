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

MOST_SUMS = 4096
"""Most sums of a score, 32 KiB: they travel with every report."""
_COUNTED_BY_CLASS = frozenset({"classification", "multi-label", "token-classification"})


class Tally(Protocol):
    """What was counted over scored rows, and what follows from it."""

    @property
    def sums(self) -> Float64:
        """Figures that add up over disjoint rows; empty where there are none."""

    def metric(self, name: str) -> float:
        """A metric of the rows that were summed."""


def sums_of(kind: str, labels: Sequence[str], metrics: Sequence[str]) -> int:
    """How many sums a score of a common split carries; 0 where the mean over rows is right for every metric.

    Also 0 where there would be more than MOST_SUMS: then the mean over rows has to do.
    """
    if all(not metric(name).pooled_by_sums or name == "accuracy" for name in metrics):
        return 0
    classes = entity_types(labels) if kind == "token-classification" else labels
    size = 2 + 3 * len(classes) if kind in _COUNTED_BY_CLASS else {"regression": 8, "causal-lm": 5}.get(kind, 0)
    return size if size <= MOST_SUMS else 0


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
