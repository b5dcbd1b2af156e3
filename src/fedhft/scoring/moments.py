"""Sums of numbers, their squares and products, from which correlation and errors of a whole split follow.

Pearson's correlation is computed from sums about a fixed centre, which the job states (its targets' mean): with
float64 sums the result is that of all rows together to about nine digits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedhft.adapter import Float64


@dataclass(frozen=True)
class Moments:
    """Of n pairs (answer x, target y), both standardised by the job's figures; errors in units of the data.

    sums: n, sum x, sum y, sum x^2, sum y^2, sum x y, sum |error|, sum error^2; float64 (8,).
    """

    sums: Float64

    @classmethod
    def of(cls, answers: Float64, targets: Float64, scale: float) -> Moments:
        """answers, targets: standardised, (n,). scale: standard deviation that the targets were divided by."""
        error = (answers - targets) * scale
        return cls(
            np.array(
                [
                    len(answers), answers.sum(), targets.sum(), answers @ answers, targets @ targets, answers @ targets,
                    np.abs(error).sum(), error @ error,
                ],
                np.float64,
            )
        )  # fmt: skip

    @classmethod
    def from_sums(cls, sums: Sequence[float] | Float64) -> Moments:
        """Inverse of `sums`."""
        return cls(np.asarray(sums, np.float64))

    def metric(self, name: str) -> float:
        """pearson, rmse or mae; a correlation of 0 where one side does not vary."""
        n, x, y, xx, yy, xy, absolute, squared = (float(value) for value in self.sums)
        if n <= 0:
            return 0.0
        if name == "mae":
            return absolute / n
        if name == "rmse":
            return float(np.sqrt(max(0.0, squared) / n))
        spread = (xx - x * x / n) * (yy - y * y / n)
        negligible = 1e-20 * xx * yy
        return float((xy - x * y / n) / np.sqrt(spread)) if spread > negligible and np.isfinite(spread) else 0.0


def spearman(answers: Float64, targets: Float64) -> float:
    """Rank correlation, equal numbers sharing their mean rank; 0 where one side does not vary. No sum yields it."""
    ranks = _ranks(answers), _ranks(targets)
    if not len(answers):
        return 0.0
    return Moments.of(ranks[0] - ranks[0].mean(), ranks[1] - ranks[1].mean(), 1.0).metric("pearson")


def _ranks(values: Float64) -> Float64:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts).astype(np.float64)
    return np.asarray((last - (counts - 1) / 2)[place], np.float64)
