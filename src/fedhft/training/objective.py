"""What local training minimises: the task's loss, or a cross entropy with weights of classes and smoothed labels.

    L = 1/m sum_i w[y_i] ((1 - eps) l_i[y_i] + eps/K sum_c l_i[c])        l_i[c] = -log softmax(z_i)[c], in nats

over the m targets of a batch, K classes; eps = training.label_smoothing (Szegedy et al. 2016, arXiv 1512.00567). The
weights w come from the client's own training rows (`class_weights`): nothing of them is sent. Scores keep the task's
own loss, so that those of jobs with and without can be compared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch.nn import functional

from fedhft.adapter import Float32
from fedhft.job_sections import TrainingSpec
from fedhft.training.tasks import Task
from fedhft.training.tasks.interface import Targets, flat

Objective = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(logits, float32 (m x outputs); targets, encoded, on the same device) -> what is minimised, a scalar."""


def objective_of(task: Task, settings: TrainingSpec, targets: Targets) -> Objective:
    """The objective of a client. targets: those of its training rows, as the task encodes them."""
    smoothing = settings.label_smoothing
    if settings.class_weights == "none" and not smoothing:
        return task.loss
    weights = torch.from_numpy(class_weights(settings.class_weights, task.spec.labels, targets))

    def objective(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        if not len(wanted):
            return logits.sum() * 0.0
        losses = functional.cross_entropy(logits, wanted, reduction="none", label_smoothing=smoothing)
        if len(weights):
            losses = losses * weights.to(logits.device)[wanted]
        return losses.mean()

    return objective


def class_weights(chosen: str | Mapping[str, float], labels: Sequence[str], targets: Targets) -> Float32:
    """What a target of each label counts at a client, (labels,), its mean over the client's targets 1; (0,) for "none".

    With n_c of the client's n targets being c, K labels being present, and a_c the weight that the job gives:

        balanced   w_c = n / (K n_c)              a table   w_c = a_c n / sum_c' a_c' n_c'

    A batch without a rare class is not scaled up in return, as it would be if each batch were divided by its own sum of
    weights; so the weights also mean something where batches are small. A label that is absent here weighs nothing.
    """
    if chosen == "none":
        return np.zeros(0, np.float32)
    counts = np.bincount(flat(targets).astype(np.int64), minlength=len(labels)).astype(np.float64)
    present = counts > 0
    wanted = np.ones(len(labels))
    if isinstance(chosen, Mapping):
        wanted = np.array([chosen.get(label, 1.0) for label in labels])
    else:
        wanted[present] = 1.0 / counts[present]
    mass = float(counts @ wanted)
    return np.where(present, wanted * (counts.sum() / mass if mass else 1.0), 0.0).astype(np.float32)
