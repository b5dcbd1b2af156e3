"""The metrics a job may name: what is possible, and which kinds of task have them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

MOST_FIGURE = 3.5e38
"""Bound of a figure that has none of its own: an error in float32 can be as large."""
KINDS = ("classification", "multi-label", "regression", "token-classification", "causal-lm")
"""The kinds of task that fedhft brings."""
KINDS_WITH_HEAD = frozenset(KINDS) - {"causal-lm"}
"""Kinds that train a head of their own beside the adapters."""
KINDS_WITH_PAIRS = frozenset({"classification", "multi-label", "regression"})
"""Kinds whose rows may be pairs of texts."""
_LABELLED = frozenset({"classification", "multi-label", "token-classification"})
_ONE_ANSWER = frozenset({"classification"})
_NUMBERS = frozenset({"regression"})
_TEXT = frozenset({"causal-lm"})


@dataclass(frozen=True)
class Metric:
    """One metric. least, most: its range. more_is_better: whether it can be a score; errors cannot.

    pooled_by_sums: whether shares of a split are pooled through their sums, so that the result is that of the whole
    split; the others (and those of tasks of your own) are means over rows.
    """

    name: str
    kinds: frozenset[str]
    least: float = 0.0
    most: float = 1.0
    more_is_better: bool = True
    pooled_by_sums: bool = True


METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("accuracy", _LABELLED),
        Metric("macro_f1", _LABELLED),
        Metric("micro_f1", _LABELLED),
        Metric("mcc", _ONE_ANSWER, least=-1.0),
        Metric("pearson", _NUMBERS, least=-1.0),
        Metric("spearman", _NUMBERS, least=-1.0, pooled_by_sums=False),
        Metric("rmse", _NUMBERS, most=MOST_FIGURE, more_is_better=False),
        Metric("mae", _NUMBERS, most=MOST_FIGURE, more_is_better=False),
        Metric("token_accuracy", _TEXT),
        Metric("exact_match", _TEXT),
        Metric("perplexity", _TEXT, most=MOST_FIGURE, more_is_better=False),
    )
}
"""Every metric of the kinds of task that fedhft brings, by name."""

DEFAULTS: Mapping[str, tuple[str, ...]] = {
    "classification": ("accuracy", "macro_f1"),
    "multi-label": ("micro_f1", "macro_f1", "accuracy"),
    "regression": ("pearson", "rmse", "mae"),
    "token-classification": ("micro_f1", "macro_f1", "accuracy"),
    "causal-lm": ("token_accuracy", "perplexity", "exact_match"),
}
"""What is measured where a job names no metrics; the first is the score."""


def metric(name: str) -> Metric:
    """The metric of this name; one of a task of your own has no bounds of its own and is pooled as a mean."""
    return METRICS.get(name) or Metric(name, frozenset(), -MOST_FIGURE, MOST_FIGURE, pooled_by_sums=False)


def names_for(kind: str) -> tuple[str, ...]:
    """The metrics that a kind of task has."""
    return tuple(name for name, known in METRICS.items() if kind in known.kinds)
