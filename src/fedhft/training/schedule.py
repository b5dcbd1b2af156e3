"""The learning rate inside one local training, and the pull back to where it began."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from fedhft.job_sections import TrainingSpec


def share_of_rate(settings: TrainingSpec, step: int, steps: int) -> float:
    """Factor on the learning rate at `step` of `steps` (0-based), in (0, 1].

    With w = ceil(training.warmup steps): (step + 1) / w while step < w; then, with p = (step - w) / (steps - w),

        constant  1          linear  1 - p          cosine  (1 + cos(pi p)) / 2
    """
    warming = math.ceil(settings.warmup * steps)
    if step < warming:
        return (step + 1) / warming
    progress = (step - warming) / max(1, steps - warming)
    if settings.schedule == "linear":
        return 1.0 - progress
    if settings.schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * progress))
    return 1.0


class Proximal:
    """FedProx (Li et al. 2020, arXiv 1812.06127): the objective gains mu/2 |w - w_start|^2, w being what is trained."""

    def __init__(self, parameters: Sequence[torch.nn.Parameter], mu: float) -> None:
        """Remember where the parameters are; nothing for mu = 0."""
        self._mu = mu
        self._starts = [(one, one.detach().clone()) for one in parameters] if mu else []

    def add_gradients(self) -> None:
        """Add mu (w - w_start) to the gradients, after the backward pass and before they are clipped."""
        for parameter, start in self._starts:
            if parameter.grad is not None:
                parameter.grad.add_(parameter.detach() - start, alpha=self._mu)
