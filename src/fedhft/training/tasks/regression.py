"""One number per text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedhft.adapter import Float32, Float64
from fedhft.datasets.examples import Example, Label
from fedhft.scoring.moments import Moments, spearman
from fedhft.training.tasks.interface import ErrorsOf, Tally, Targets
from fedhft.training.tasks.sequence import SequenceTask, contrast, varies

if TYPE_CHECKING:
    import torch


class Regression(SequenceTask):
    """Squared error. Encoded targets: standardised by the job's target_mean and target_std, float64 (n,).

    The model answers standardised numbers; errors (rmse, mae) are given in units of the data.
    """

    split_by_class = False
    problem_type = "regression"
    outputs = 1

    def target(self, value: object) -> Label:
        """A finite number, or one written as text."""
        try:
            number = math.nan if value is None or isinstance(value, bool) else float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            raise ValueError("is not a finite number; regression needs one")
        return number

    def describe(self, rows: Sequence[Example]) -> str:
        """Their range."""
        targets = [row.class_index for row in rows]
        return f"targets from {min(targets):g} to {max(targets):g}"

    def encode(self, labels: Sequence[Label]) -> Targets:
        """The standardised numbers, float64 (n,)."""
        standardised: Float64 = (np.array(labels, np.float64) - self.spec.target_mean) / self.spec.target_std
        return standardised

    def loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean squared error of standardised numbers."""
        from torch.nn import functional

        return functional.mse_loss(logits.squeeze(-1), targets.to(logits.dtype))

    def tally(self, logits: Float32, targets: Targets, sizes: NDArray[np.int64]) -> Tally:
        """Moments, and the numbers themselves for rank correlation."""
        answers = logits[:, 0].astype(np.float64)
        return _Numbers(answers, targets, self.spec.target_std)

    def floor(self, train_targets: Targets, targets: Targets) -> Mapping[str, float]:
        """Of always answering the training targets' mean; a constant answer correlates with nothing."""
        always = np.full(len(targets), train_targets.mean() if len(train_targets) else 0.0)
        counted = _Numbers(always, targets, self.spec.target_std)
        return {name: counted.metric(name) for name in self.metrics}

    @property
    def blank(self) -> object:
        """Any number."""
        return 0.0

    def answers(self, logits: Float32, sizes: NDArray[np.int64]) -> list[dict[str, Any]]:
        """The number, in the target's own units."""
        numbers = logits[:, 0].astype(np.float64) * self.spec.target_std + self.spec.target_mean
        return [{"value": float(number)} for number in numbers]

    def signature_errors(self, targets: Targets) -> ErrorsOf:
        """Distance from the mean, equal weights; zeros if all targets are equal."""
        column: Float64 = targets[:, None]
        weights = np.full(len(targets), 1.0 / len(targets))
        errors = contrast(column, weights) if varies(column) else np.zeros_like(column)
        return lambda rows, logits: errors[rows]

    def labels_line(self) -> str:
        """There are none, because the target is a number."""
        spec = self.spec
        if (spec.target_mean, spec.target_std) == (0.0, 1.0):
            return "none (regression)"
        return f"none (regression; target = {spec.target_std:g} x output + {spec.target_mean:g})"


@dataclass(frozen=True)
class _Numbers:
    """Answers and targets, standardised, (n,)."""

    answers: Float64
    targets: Float64
    scale: float

    @property
    def sums(self) -> Float64:
        return Moments.of(self.answers, self.targets, self.scale).sums

    def metric(self, name: str) -> float:
        if name == "spearman":
            return spearman(self.answers, self.targets)
        return Moments.from_sums(self.sums).metric(name)
