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


def inconsistent(kind: str, sums: Sequence[float], rows: int, most_places: int) -> str:
    """Why sums cannot be those of `rows` rows, in words; empty where they can be.

    A share that is pooled weighs by its sums, so they must not count more than its rows have. most_places: targets that
    a row can have. Tasks of other packages have no sums.
    """
    if not sums:
        return ""
    if not rows:
        return "are of no rows"
    if kind == "regression":
        n, x, y, xx, yy, xy, absolute, squared = sums
        if n != rows:
            return f"are of {n:g} rows"
        known = min(xx, yy, absolute, squared) >= 0
        # Cauchy and Schwarz, up to rounding.
        known = known and all(
            product**2 <= one * other * (1 + _ROUNDING) + _ROUNDING
            for product, one, other in ((x, n, xx), (y, n, yy), (xy, xx, yy), (absolute, n, squared))
        )
        return "" if known else "are not sums of squares and products of any numbers"
    if kind == "causal-lm":
        tokens, loss, right, counted, exact = sums
        if counted != rows:
            return f"are of {counted:g} rows"
        whole = 0 <= tokens <= rows * most_places and 0 <= right <= tokens and 0 <= exact <= rows and loss >= 0
        return "" if whole else "count more tokens or hits than the rows have"
    units, exact, *counts = sums
    if kind == "token-classification":
        if not 0 <= units <= rows * most_places:
            return f"count {units:g} words in {rows} rows"
    elif units != rows:
        return f"are of {units:g} rows"
    hits, answered, actual = _thirds(counts)
    fits = all(0 <= h <= min(p, t) and max(p, t) <= units for h, p, t in zip(hits, answered, actual, strict=True))
    return "" if fits and 0 <= exact <= units else "count more hits or answers than there are targets"


def _thirds(counts: Sequence[float]) -> tuple[Sequence[float], Sequence[float], Sequence[float]]:
    third = len(counts) // 3
    return counts[:third], counts[third : 2 * third], counts[2 * third :]


_ROUNDING = 1e-6
_TALLIES: Mapping[str, Callable[[Sequence[float] | Float64], Tally]] = {
    "classification": Confusion.from_sums,
    "multi-label": Confusion.from_sums,
    "token-classification": Confusion.from_sums,
    "regression": Moments.from_sums,
    "causal-lm": Likelihood.from_sums,
}
