"""One of several labels per text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedhft.adapter import Float32, Float64
from fedhft.training.tasks.interface import ErrorsOf, Targets
from fedhft.training.tasks.sequence import SequenceTask, contrast, varies

if TYPE_CHECKING:
    import torch

_LONGEST_INDEX = 20
_NAMED = 12
"""Largest number of labels that a refusal lists."""


class Classification(SequenceTask):
    """Cross entropy and accuracy over the job's labels. Encoded targets: class indices, int64 (n,)."""

    split_by_class = True
    problem_type = "single_label_classification"

    @property
    def outputs(self) -> int:
        """A logit per label."""
        return len(self.spec.labels)

    def target(self, value: object) -> float:
        """Index of a label given as a name, or as an index (also as text, as in CSV)."""
        labels = self.spec.labels
        if isinstance(value, str):
            if value in labels:
                return float(labels.index(value))
            if len(value) < _LONGEST_INDEX and value.strip().isdecimal() and int(value) < len(labels):
                return float(int(value))
        elif isinstance(value, (int, float)) and not isinstance(value, bool) and value in range(len(labels)):
            return float(value)
        names = ", ".join(map(repr, labels[:_NAMED])) + (", ..." if len(labels) > _NAMED else "")
        raise ValueError(f"unknown label; use 0..{len(labels) - 1} or one of {names}")

    def configure(self, config: Any) -> None:
        """As for every sequence task, and the names of the labels."""
        super().configure(config)
        config.id2label = dict(enumerate(self.spec.labels))
        config.label2id = {label: index for index, label in enumerate(self.spec.labels)}

    def encode(self, targets: Sequence[float]) -> Targets:
        """Class indices, int64 (n,)."""
        return np.array(targets, np.float64).astype(np.int64)

    def loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Cross entropy in nats."""
        from torch.nn import functional

        return functional.cross_entropy(logits, targets)

    def score(self, logits: Float32, targets: Targets) -> float:
        """Accuracy."""
        return float(np.mean(logits.argmax(1) == targets))

    def baseline(self, train_targets: Targets, targets: Targets) -> float:
        """Majority-class baseline: accuracy of always answering the most frequent training label (ties: the lowest)."""
        labels, counts = np.unique(train_targets, return_counts=True)
        return float(np.mean(targets == labels[counts.argmax()]))

    def signature_errors(self, targets: Targets) -> ErrorsOf:
        """Errors of the class-balanced loss. With a single class all there is to learn is that these texts have this
        label, so softmax minus target.
        """
        one_hot: Float64 = np.eye(self.outputs)[targets]
        if not varies(one_hot):
            return lambda rows, logits: _plain(logits) - one_hot[rows]
        counts = one_hot.sum(0)
        errors = contrast(one_hot, 1.0 / (one_hot @ counts * np.count_nonzero(counts)))
        return lambda rows, logits: errors[rows]

    def labels_line(self) -> str:
        """The names, in class order."""
        return ", ".join(self.spec.labels)


def _plain(logits: torch.Tensor) -> NDArray[np.float32]:
    probabilities: NDArray[np.float32] = logits.softmax(1).cpu().numpy()
    return probabilities
