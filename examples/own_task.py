"""A task of your own: ordered stars, with a loss and metrics in the style of `transformers.Trainer`.

A package brings it by two lines in its pyproject.toml; then a job says `kind = "stars"`:

    [project.entry-points."fedhft.tasks"]
    stars = "own_task:Stars"
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from fedhft.training.tasks.classification import Classification


def compute_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Squared distance between distributions over ordered classes (earth mover's distance)."""
    wanted = torch.nn.functional.one_hot(labels, logits.shape[1]).to(logits.dtype)
    return (logits.softmax(1).cumsum(1) - wanted.cumsum(1)).square().sum(1).mean()


def compute_metrics(predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The first one is the score: more is better, at most 1."""
    distance = np.abs(predictions.argmax(1) - labels)
    return {"within_one": float((distance <= 1).mean()), "mean_distance": float(distance.mean())}


@dataclass(frozen=True)
class Counted:
    """What was measured; without sums, shares of a common split are pooled by their rows."""

    measured: Mapping[str, float]
    sums: np.ndarray

    def metric(self, name: str) -> float:
        """A metric of the rows counted."""
        return self.measured[name]


class Stars(Classification):
    """Labels in ascending order, read and encoded as classification reads them."""

    metrics = ("within_one", "mean_distance")
    loss = staticmethod(compute_loss)

    def tally(self, logits: np.ndarray, targets: np.ndarray, sizes: np.ndarray) -> Counted:
        """Both metrics."""
        return Counted(compute_metrics(logits, targets), np.zeros(0))

    def floor(self, train_targets: np.ndarray, targets: np.ndarray) -> Mapping[str, float]:
        """Of always answering the middle label of the training rows."""
        always = np.eye(self.outputs)[np.full(len(targets), int(np.median(train_targets)))]
        return compute_metrics(always, targets)
