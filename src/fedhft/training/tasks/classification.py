"""One of several labels per text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedhft.adapter import Float32, Float64
from fedhft.datasets.examples import Label
from fedhft.scoring.confusion import Confusion
from fedhft.training.tasks.interface import ErrorsOf, Tally, Targets
from fedhft.training.tasks.labels import class_of
from fedhft.training.tasks.sequence import SequenceTask, class_errors, varies

if TYPE_CHECKING:
    import torch


class Classification(SequenceTask):
    """Cross entropy over the job's labels. Encoded targets: class indices, int64 (n,)."""

    split_by_class = True
    problem_type = "single_label_classification"

    @property
    def outputs(self) -> int:
        """A logit per label."""
        return len(self.spec.labels)

    def target(self, value: object) -> Label:
        """Index of a label (see `labels`)."""
        return float(class_of(value, self.spec.labels))

    def configure(self, config: Any) -> None:
        """As for every sequence task, and the names of the labels."""
        super().configure(config)
        name_labels(config, self.spec.labels)

    def encode(self, labels: Sequence[Label]) -> Targets:
        """Class indices, int64 (n,)."""
        return np.array(labels, np.float64).astype(np.int64)

    def loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Cross entropy in nats."""
        from torch.nn import functional

        return functional.cross_entropy(logits, targets)

    def tally(self, logits: Float32, targets: Targets, sizes: NDArray[np.int64]) -> Tally:
        """Counts per class."""
        return Confusion.of_classes(logits.argmax(1), targets, self.outputs)

    def floor(self, train_targets: Targets, targets: Targets) -> Mapping[str, float]:
        """Of always answering the most frequent training label (ties: the lowest): the majority-class baseline."""
        labels, counts = np.unique(train_targets, return_counts=True)
        always = np.full(len(targets), labels[counts.argmax()])
        counted = Confusion.of_classes(always, targets, self.outputs)
        return {name: counted.metric(name) for name in self.metrics}

    @property
    def blank(self) -> object:
        """Any label."""
        return self.spec.labels[0]

    def answers(self, logits: Float32, sizes: NDArray[np.int64]) -> list[dict[str, Any]]:
        """The likeliest label and its probability."""
        shifted = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
        likeliest = logits.argmax(1)
        shares = shifted[np.arange(len(logits)), likeliest] / shifted.sum(1)
        return [
            {"label": self.spec.labels[label], "probability": float(share)}
            for label, share in zip(likeliest, shares, strict=True)
        ]

    def signature_errors(self, targets: Targets) -> ErrorsOf:
        """Errors of the class-balanced loss. With a single class all there is to learn is that these texts have this
        label, so softmax minus target.
        """
        one_hot: Float64 = np.eye(self.outputs)[targets]
        if not varies(one_hot):
            return lambda rows, logits: _plain(logits) - one_hot[rows]
        errors = class_errors(one_hot)
        return lambda rows, logits: errors[rows]

    def labels_line(self) -> str:
        """The names, in class order."""
        return ", ".join(self.spec.labels)


def name_labels(config: Any, labels: Sequence[str]) -> None:
    """Put the names of the labels into a transformers configuration."""
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: index for index, label in enumerate(labels)}


def _plain(logits: torch.Tensor) -> NDArray[np.float32]:
    probabilities: NDArray[np.float32] = logits.softmax(1).cpu().numpy()
    return probabilities
