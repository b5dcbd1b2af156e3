"""Any number of labels per text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedhft.adapter import Float32
from fedhft.datasets.examples import Label
from fedhft.scoring.confusion import Confusion
from fedhft.training.tasks.classification import name_labels
from fedhft.training.tasks.interface import ErrorsOf, Tally, Targets
from fedhft.training.tasks.labels import class_of
from fedhft.training.tasks.sequence import SequenceTask, contrast, varies

if TYPE_CHECKING:
    import torch

SEPARATOR = "|"
"""Between labels in one field of a CSV file, where a list cannot be written."""


class MultiLabel(SequenceTask):
    """Binary cross entropy per label. Encoded targets: float64 (n x labels) of 0 and 1; a label is answered when its
    logit is positive.
    """

    split_by_class = False
    problem_type = "multi_label_classification"

    @property
    def outputs(self) -> int:
        """A logit per label."""
        return len(self.spec.labels)

    def target(self, value: object) -> Label:
        """Indices of a list of labels, ascending; in a file without lists, of names with `|` between them."""
        if isinstance(value, str):
            items: Sequence[object] = [part for part in value.split(SEPARATOR) if part.strip()]
        elif isinstance(value, list | tuple):
            items = value
        else:
            raise ValueError(f"is not a list of labels; write a list, or in CSV names with {SEPARATOR} between them")
        found = [class_of(item, self.spec.labels) for item in items]
        if len(set(found)) != len(found):
            raise ValueError("names a label twice; write each once")
        return tuple(sorted(found))

    def configure(self, config: Any) -> None:
        """As for every sequence task, and the names of the labels."""
        super().configure(config)
        name_labels(config, self.spec.labels)

    def encode(self, labels: Sequence[Label]) -> Targets:
        """A column per label, float64 (n x labels)."""
        found = np.zeros((len(labels), self.outputs))
        for place, label in enumerate(labels):
            found[place, list(label) if isinstance(label, tuple) else [int(label)]] = 1.0
        return found

    def loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Binary cross entropy, mean over rows and labels, in nats."""
        from torch.nn import functional

        return functional.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype))

    def tally(self, logits: Float32, targets: Targets, sizes: NDArray[np.int64]) -> Tally:
        """Counts per label; a row is exactly right when all its labels are."""
        return Confusion.of_sets(logits > 0, targets > 0)

    def floor(self, train_targets: Targets, targets: Targets) -> Mapping[str, float]:
        """Of always answering the labels that at least half of the training rows have (at least the commonest one)."""
        shares = train_targets.mean(0)
        always = (shares >= 0.5) | ((shares == shares.max()) & (shares > 0))
        counted = Confusion.of_sets(np.broadcast_to(always, targets.shape), targets > 0)
        return {name: counted.metric(name) for name in self.metrics}

    @property
    def blank(self) -> object:
        """No label."""
        return []

    def answers(self, logits: Float32, sizes: NDArray[np.int64]) -> list[dict[str, Any]]:
        """The labels with positive logits."""
        return [{"labels": [self.spec.labels[label] for label in np.flatnonzero(row > 0)]} for row in logits]

    def signature_errors(self, targets: Targets) -> ErrorsOf:
        """Every label's distance from its mean, equal weights; zeros if all rows have the same labels."""
        weights = np.full(len(targets), 1.0 / len(targets))
        errors = contrast(targets, weights) if varies(targets) else np.zeros_like(targets)
        return lambda rows, logits: errors[rows]

    def labels_line(self) -> str:
        """The names, in class order."""
        return ", ".join(self.spec.labels) + " (any number of them)"
