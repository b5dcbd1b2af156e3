"""What tasks with several answers per text share: outputs count at some places of a row and not at others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedhft.adapter import Float64
from fedhft.training.tasks.interface import ErrorsOf, Tally, Targets, Task, flat, sizes_of

if TYPE_CHECKING:
    import torch


class PlaceTask(Task):
    """A task whose targets are classes at places of a row. Encoded targets: object array (n,) of int32 arrays."""

    split_by_class = False
    counts_places = True

    def loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Cross entropy in nats, mean over the places of the batch; 0 for a batch without any."""
        from torch.nn import functional

        if not len(targets):
            return logits.sum() * 0.0
        return functional.cross_entropy(logits, targets)

    def summed(self, sums: Float64) -> Tally:
        """What the sums of several parts say."""
        return self.spec.tally(sums)

    def signature_errors(self, targets: Targets) -> ErrorsOf:
        """As for classes of whole texts, at every place: w_i (m - y_i), every class in use weighing alike.

        With a single class all there is to learn is that it is the one, so softmax minus target.
        """
        edges = np.concatenate([[0], np.cumsum(sizes_of(targets))])
        every = flat(targets)
        classes, counts = np.unique(every, return_counts=True)
        weight_of = np.zeros(int(every.max()) + 1 if len(every) else 1)
        if len(classes):
            weight_of[classes] = 1.0 / (counts * len(classes))

        def errors(rows: NDArray[np.int64], logits: torch.Tensor) -> NDArray[np.float32]:
            wanted = np.concatenate([every[edges[row] : edges[row + 1]] for row in rows]) if len(rows) else every[:0]
            at = np.arange(len(wanted))
            if len(classes) < 2:
                found: NDArray[np.float32] = logits.softmax(1).cpu().numpy()
                found[at, wanted] -= 1.0
                return found
            weights = weight_of[wanted].astype(np.float32)
            found = np.zeros(tuple(logits.shape), np.float32)
            found[:, classes] = weights[:, None] / np.float32(len(classes))  # m: every class has the same mass
            found[at, wanted] -= weights
            return found

        return errors
