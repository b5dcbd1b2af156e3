"""Sums over predicted tokens, from which perplexity and accuracies of a whole split follow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedhft.adapter import Float32, Float64
from fedhft.scoring.metrics import MOST_FIGURE

_AT_ONCE = 128


@dataclass(frozen=True)
class Likelihood:
    """sums: tokens, their summed negative log-likelihood (nats), tokens right, rows, rows right in every token."""

    sums: Float64

    @classmethod
    def of(cls, logits: Float32, targets: NDArray[np.int64], sizes: NDArray[np.int64]) -> Likelihood:
        """logits: (m x vocabulary); targets: token ids (m,); sizes: tokens of each row, in order, sum m."""
        losses = np.zeros(len(targets))
        right = np.zeros(len(targets), np.bool_)
        for start in range(0, len(targets), _AT_ONCE):  # a vocabulary of logits per token: few copies at a time
            part, wanted = logits[start : start + _AT_ONCE], targets[start : start + _AT_ONCE]
            highest = part.max(1, keepdims=True)
            log_sum = np.log(np.exp(part - highest).sum(1, dtype=np.float64)) + highest[:, 0]
            losses[start : start + _AT_ONCE] = log_sum - part[np.arange(len(wanted)), wanted]
            right[start : start + _AT_ONCE] = part.argmax(1) == wanted
        return cls.of_tokens(losses, right, sizes)

    @classmethod
    def of_tokens(cls, losses: Float64, right: NDArray[np.bool_], sizes: NDArray[np.int64]) -> Likelihood:
        """From each token's negative log-likelihood and whether the likeliest token was the right one."""
        rows = np.split(right, np.cumsum(sizes)[:-1]) if len(sizes) else []
        exact = sum(bool(row.all()) for row in rows)
        return cls(np.array([len(right), losses.sum(), right.sum(), len(sizes), exact], np.float64))

    @classmethod
    def from_sums(cls, sums: Sequence[float] | Float64) -> Likelihood:
        """Inverse of `sums`."""
        return cls(np.asarray(sums, np.float64))

    def metric(self, name: str) -> float:
        """perplexity (at most MOST_FIGURE), token_accuracy or exact_match."""
        tokens, loss, right, rows, exact = (float(value) for value in self.sums)
        if name == "exact_match":
            return exact / rows if rows else 0.0
        if name == "token_accuracy":
            return right / tokens if tokens else 0.0
        mean = loss / tokens if tokens else 0.0
        return math.exp(mean) if mean < math.log(MOST_FIGURE) else MOST_FIGURE
