"""Rank self-pruning (HetLoRA, Cho et al. 2024, arXiv 2401.06432): a client gives up last columns that it does without.

With r the client's rank and k = max(1, floor(gamma r)), gamma being training.rank_decay, the objective gains

    lambda sum_s |A_s[:, k:]| |B_s[:, k:]|                 over slots s; lambda = training.rank_penalty, Frobenius norms

and where that sum (without lambda) is smaller after a round's training than before it, the client keeps k columns, in
this round's update and from then on.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from fedhft.adapter import AdapterSchema, MaskedDelta, MaskedMatrix, Part, TensorKey
from fedhft.job_sections import TrainingSpec
from fedhft.plan import AdapterPlan
from fedhft.training.lora.attached import layer_of
from fedhft.training.network import Network


def kept_columns(settings: TrainingSpec, schema: AdapterSchema, plan: AdapterPlan) -> int:
    """Columns that are left once the last ones are given up; 0 where nothing is ever given up."""
    if settings.rank_decay == 1.0:
        return 0
    most = max(slot.rank for slot in schema.slots)
    return max(1, math.floor(settings.rank_decay * min(plan.rank or most, most) + 1e-9))


def tail_norm(network: Network, kept: int) -> float:
    """sum_s |A_s[:, kept:]| |B_s[:, kept:]| at the network's current values, over the slots inside its depth."""
    total = 0.0
    for slot in network.slots():
        a, b = (network.value(TensorKey(slot.name, part))[:, kept:].astype(np.float64) for part in (Part.A, Part.B))
        total += float(np.linalg.norm(a) * np.linalg.norm(b))
    return total


def first_columns(delta: MaskedDelta, rank: int) -> MaskedDelta:
    """An update of the first `rank` columns of A and B."""
    tensors = dict(delta.tensors)
    for key, matrix in delta:
        if key.part in (Part.A, Part.B) and matrix.cols > rank:
            values = np.ascontiguousarray(matrix.values[:, :rank])
            tensors[key] = MaskedMatrix(matrix.rows, rank, matrix.index, values)
    return MaskedDelta(tensors)


class TailPenalty:
    """lambda sum_s |A_s[:, k:]| |B_s[:, k:]| as a part of the objective; nothing for lambda = 0."""

    def __init__(self, network: Network, plan: AdapterPlan, settings: TrainingSpec) -> None:
        kept = kept_columns(settings, network.schema, plan) if settings.rank_penalty else 0
        self._weight = settings.rank_penalty
        self._kept = kept
        self._layers = [layer_of(network.model, slot) for slot in network.slots()] if kept else []

    def add_gradients(self) -> None:
        """Add its gradients to those of the loss, after the backward pass and before they are clipped."""
        tails = [(layer.lora_A.weight[self._kept :], layer.lora_B.weight[:, self._kept :]) for layer in self._layers]
        norms = [torch.linalg.matrix_norm(a) * torch.linalg.matrix_norm(b) for a, b in tails if a.numel()]
        if norms:
            (self._weight * torch.stack(norms).sum()).backward()
