"""Counts per class, from which accuracy, F1 and the correlation coefficient of a whole split follow.

F1 of a class        2 TP / (answered + actual)
macro F1             mean over the classes that were answered or actual at least once
micro F1             2 sum TP / (sum answered + sum actual)
MCC                  (s c - sum p t) / sqrt((s^2 - sum p^2) (s^2 - sum t^2)), s rows, c right, p answered, t actual
                     (Gorodkin 2004, for any number of classes)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedhft.adapter import Float64


@dataclass(frozen=True)
class Confusion:
    """What was answered, what was actual and what was both, per class, and how many units were exactly right.

    units: what `accuracy` is a share of: rows, or tokens where they are tagged. hits, answered, actual: float64 (K,).
    """

    units: float
    exact: float
    hits: Float64
    answered: Float64
    actual: Float64

    @classmethod
    def of_classes(cls, answers: NDArray[np.int64], actual: NDArray[np.int64], classes: int) -> Confusion:
        """One class per unit: answers and actual are class indices, (n,)."""
        same = answers == actual
        counts = (np.bincount(x, minlength=classes).astype(np.float64) for x in (actual[same], answers, actual))
        return cls(float(len(actual)), float(same.sum()), *counts)

    @classmethod
    def of_sets(cls, answers: NDArray[np.bool_], actual: NDArray[np.bool_]) -> Confusion:
        """Any number of classes per unit: answers and actual are (n x K)."""
        counts = (x.sum(0).astype(np.float64) for x in (answers & actual, answers, actual))
        return cls(float(len(actual)), float((answers == actual).all(1).sum()), *counts)

    @classmethod
    def from_sums(cls, sums: Sequence[float] | Float64) -> Confusion:
        """Inverse of `sums`."""
        counts = np.asarray(sums[2:], np.float64).reshape(3, -1)
        return cls(float(sums[0]), float(sums[1]), *counts)

    @property
    def sums(self) -> Float64:
        """Everything as one vector that adds up over disjoint rows: units, exact, hits, answered, actual."""
        return np.concatenate([[self.units, self.exact], self.hits, self.answered, self.actual])

    def metric(self, name: str) -> float:
        """accuracy, macro_f1, micro_f1 or mcc; 0 where there is nothing to compute it from."""
        return {"accuracy": self._accuracy, "macro_f1": self._macro, "micro_f1": self._micro, "mcc": self._mcc}[name]()

    def _accuracy(self) -> float:
        return self.exact / self.units if self.units else 0.0

    def _macro(self) -> float:
        seen = self.answered + self.actual
        present = seen > 0
        return float(np.mean(2 * self.hits[present] / seen[present])) if present.any() else 0.0

    def _micro(self) -> float:
        seen = float(self.answered.sum() + self.actual.sum())
        return 2 * float(self.hits.sum()) / seen if seen else 0.0

    def _mcc(self) -> float:
        total = self.units
        spread = (total**2 - float(self.answered @ self.answered)) * (total**2 - float(self.actual @ self.actual))
        if spread <= 0:
            return 0.0
        return float((total * self.hits.sum() - self.answered @ self.actual) / np.sqrt(spread))
