"""One number per text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fedhft.adapter import Float32, Float64
from fedhft.training.tasks.interface import ErrorsOf, Targets
from fedhft.training.tasks.sequence import SequenceTask, contrast, varies

if TYPE_CHECKING:
    import torch


class Regression(SequenceTask):
    """Squared error and Pearson correlation. Encoded targets: float64 (n,)."""

    split_by_class = False
    problem_type = "regression"
    outputs = 1

    def target(self, value: object) -> float:
        """A finite number, or one written as text."""
        try:
            number = math.nan if value is None or isinstance(value, bool) else float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            raise ValueError("is not a finite number; regression needs one")
        return number

    def encode(self, targets: Sequence[float]) -> Targets:
        """The numbers, float64 (n,)."""
        return np.array(targets, np.float64)

    def loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean squared error."""
        from torch.nn import functional

        return functional.mse_loss(logits.squeeze(-1), targets.to(logits.dtype))

    def score(self, logits: Float32, targets: Targets) -> float:
        """Pearson correlation."""
        return pearson(logits[:, 0].astype(np.float64), targets)

    def baseline(self, train_targets: Targets, targets: Targets) -> float:
        """0: a constant answer correlates with nothing."""
        return 0.0

    def signature_errors(self, targets: Targets) -> ErrorsOf:
        """Distance from the mean, equal weights; zeros if all targets are equal."""
        column: Float64 = targets[:, None]
        weights = np.full(len(targets), 1.0 / len(targets))
        errors = contrast(column, weights) if varies(column) else np.zeros_like(column)
        return lambda rows, logits: errors[rows]

    def labels_line(self) -> str:
        """There are none, because the target is a number."""
        return "none (regression)"


def pearson(predicted: Float64, wanted: Float64) -> float:
    """Pearson correlation; 0 where one side does not vary (or there are fewer than two rows)."""
    if len(wanted) < 2:
        return 0.0
    a, b = predicted - predicted.mean(), wanted - wanted.mean()
    scale = float(np.sqrt(np.sum(a * a) * np.sum(b * b)))
    return float(np.sum(a * b)) / scale if scale > 0 and np.isfinite(scale) else 0.0
