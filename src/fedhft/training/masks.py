"""Which rows a plan trains this round, and what the round taught about rows (DESIGN 4.1)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fedhft import seeds
from fedhft.adapter import Float64, MaskedDelta, Part, RowIndex, TensorKey
from fedhft.job import JobSpec
from fedhft.masking.rows import RowState, select_rows
from fedhft.methods import MaskRule, Start
from fedhft.plan import AdapterPlan
from fedhft.training.importance import Importance
from fedhft.training.network import Network

PROBE_BATCHES = 4
"""Mini-batches whose gradients are looked at before the first mask is chosen."""


def masked_keys(network: Network, plan: AdapterPlan) -> tuple[TensorKey, ...]:
    """Trained tensors of which the plan keeps only a part."""
    return tuple(
        key
        for key in network.trained_keys(plan)
        if plan.rows_allowed(key, network.schema) < network.schema.shape(key)[0]
    )


def choose_rows(
    memory: Mapping[TensorKey, RowState], network: Network, plan: AdapterPlan, spec: JobSpec, seed: int
) -> dict[TensorKey, RowIndex | None]:
    """Rows to train, by tensor; None where all are."""
    masks: dict[TensorKey, RowIndex | None] = dict.fromkeys(network.trained_keys(plan))
    for key in masked_keys(network, plan):
        rows, _ = network.schema.shape(key)
        known = memory.get(key) or RowState.fresh(rows)
        stream = seeds.seed_of("mask", seed, key.name, key.part.value)
        masks[key] = select_rows(
            known, plan.rows_allowed(key, network.schema), spec.mask.exploration, spec.method.mask, stream
        )
    return masks


def unscored(memory: Mapping[TensorKey, RowState], network: Network, plan: AdapterPlan, spec: JobSpec) -> bool:
    """Whether a mask is about to be chosen by gradients nobody has seen yet."""
    return spec.method.mask is MaskRule.GRADIENT and any(
        key not in memory or not memory[key].score.any()
        for key in masked_keys(network, plan)
        if key.part is Part.B  # columns of A have no gradient while B = 0, so probing them first would show nothing
    )


def importances(
    importance: Importance, delta: MaskedDelta, memory: Mapping[TensorKey, RowState], network: Network, spec: JobSpec
) -> dict[TensorKey, Float64]:
    """What this round says about every row: squared gradients, or squared deltas where a row was trained.

    On restart the gradient of B is divided by |A|^2 (Frobenius), because A is redrawn every round.
    """
    if spec.method.mask is MaskRule.GRADIENT:
        return importance.means(gradient_divisors(network, spec))
    if spec.method.mask is not MaskRule.DELTA_NORM:
        return {}
    seen: dict[TensorKey, Float64] = {}
    for key, matrix in delta:
        if key.part in (Part.A, Part.B):
            known = memory.get(key)
            rows = np.zeros(matrix.rows, np.float64) if known is None else known.score.copy()
            rows[matrix.kept_rows] = np.square(matrix.values, dtype=np.float64).sum(1)
            seen[key] = rows
    return seen


def gradient_divisors(network: Network, spec: JobSpec) -> dict[TensorKey, float]:
    """|A|^2 for each B of a restart method; empty otherwise."""
    if spec.method.start is not Start.RESTART:
        return {}
    return {
        TensorKey(slot.name, Part.B): float(
            np.square(network.value(TensorKey(slot.name, Part.A)), dtype=np.float64).sum()
        )
        for slot in network.slots()
    }


def remembered(
    memory: Mapping[TensorKey, RowState],
    seen: Mapping[TensorKey, Float64],
    masks: Mapping[TensorKey, RowIndex | None],
    smoothing: float,
    round_number: int,
) -> dict[TensorKey, RowState]:
    """Row memory after a round: scores of every row that was looked at, and which rows were sent.

    The first look at a tensor counts in full; later ones are smoothed.
    """
    after = dict(memory)
    for key, importance in seen.items():
        known = after.get(key)
        weight = smoothing if known is not None and known.score.any() else 0.0
        after[key] = (known or RowState.fresh(len(importance))).observed(importance, weight)
    for key, index in masks.items():
        if key in after:
            sent = np.arange(after[key].rows, dtype=np.int32) if index is None else index
            after[key] = after[key].sent(sent, round_number)
    return after
