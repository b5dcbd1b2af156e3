"""What all tasks with one answer per text share: a transformers model for sequence classification."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from fedhft.adapter import Float64
from fedhft.errors import ErrorCode, FedhftError
from fedhft.training.tasks.interface import Task

if TYPE_CHECKING:
    import torch


class SequenceTask(Task):
    """A task that reads logits (n x outputs) off a whole text, or a pair of texts."""

    auto_class = "AutoModelForSequenceClassification"
    pipeline_tag = "text-classification"
    peft_task_type = "SEQ_CLS"

    @property
    @abstractmethod
    def problem_type(self) -> str:
        """Name of the task in the transformers configuration."""

    def configure(self, config: Any) -> None:
        """Width of the head and kind of problem."""
        config.num_labels = self.outputs
        config.problem_type = self.problem_type

    def head(self, model: torch.nn.Module, new_parameters: frozenset[str]) -> tuple[str, ...]:
        """Every parameter outside the base network, and those inside it that are not in the files (a pooler, say)."""
        prefix = str(getattr(model, "base_model_prefix", "")) + "."
        names = tuple(
            name for name, _ in model.named_parameters() if not name.startswith(prefix) or name in new_parameters
        )
        if not names:
            raise FedhftError(ErrorCode.INVALID_MODEL, f"{type(model).__name__}: has no task head to train")
        return names

    @property
    def auto_arguments(self) -> Mapping[str, Any]:
        """The width of the head."""
        return {"num_labels": self.outputs}


def contrast(targets: Float64, weights: Float64) -> Float64:
    """Errors e_i = w_i (m - y_i), m = sum_i w_i y_i, with respect to the logits; independent of the logits.

    targets: y, (n x outputs); weights: w, (n,), sum 1.
    """
    weighted: Float64 = weights[:, None] * (weights @ targets - targets)
    return weighted


def varies(targets: Float64) -> bool:
    """Whether any two of the rows (n x outputs) differ."""
    return bool(np.any(targets != targets[0]))
