"""Which rows a plan trains this round, and what the round revealed about rows."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fedhft import seeds
from fedhft.adapter import Float64, MaskedDelta, Part, RowIndex, TensorKey
from fedhft.job import JobSpec
from fedhft.masking.rows import RowState, select_rows
from fedhft.methods import MaskRule, Start
from fedhft.plan import AdapterPlan
from fedhft.training.batches import EncodedRows
from fedhft.training.importance import Importance
from fedhft.training.learner import probe
from fedhft.training.network import Network

PROBE_BATCHES = 4
"""Mini-batches whose gradients are measured before the first mask is chosen."""


def masked_keys(network: Network, plan: AdapterPlan) -> tuple[TensorKey, ...]:
    """Trained tensors of which the plan keeps only some rows."""
    return tuple(
        key
        for key in network.trained_keys(plan)
        if plan.rows_allowed(key, network.schema) < network.schema.shape(key)[0]
    )


def probed(
    known: Mapping[TensorKey, RowState],
    network: Network,
    rows: EncodedRows,
    plan: AdapterPlan,
    spec: JobSpec,
    seed: int,
) -> Mapping[TensorKey, RowState]:
    """Row states to choose masks by: the known ones, or, where masks depend on gradients not measured yet, those after
    probing a few mini-batches at the network's current values.
    """
    if not _unscored(known, network, plan, spec):
        return known
    seen = Importance()
    probe(network, rows, plan, spec.training, seed=seed, importance=seen, batches=PROBE_BATCHES)
    return remembered(known, seen.means(_gradient_divisors(network, spec)), {}, 0.0, 0)


def choose_rows(
    known: Mapping[TensorKey, RowState], network: Network, plan: AdapterPlan, spec: JobSpec, seed: int
) -> dict[TensorKey, RowIndex | None]:
    """Rows to train, by tensor; None means all."""
    masks: dict[TensorKey, RowIndex | None] = dict.fromkeys(network.trained_keys(plan))
    for key in masked_keys(network, plan):
        rows, _ = network.schema.shape(key)
        stream = seeds.seed_of("mask", seed, key.name, key.part.value)
        masks[key] = select_rows(
            known.get(key) or RowState.fresh(rows),
            plan.rows_allowed(key, network.schema),
            spec.mask.exploration,
            spec.method.mask,
            stream,
        )
    return masks


def _unscored(known: Mapping[TensorKey, RowState], network: Network, plan: AdapterPlan, spec: JobSpec) -> bool:
    return spec.method.mask is MaskRule.GRADIENT and any(
        key not in known or not known[key].score.any()
        for key in masked_keys(network, plan)
        if key.part is Part.B  # columns of A have zero gradient while B = 0, so probing them first would show nothing
    )


def importances(
    importance: Importance, delta: MaskedDelta, known: Mapping[TensorKey, RowState], network: Network, spec: JobSpec
) -> dict[TensorKey, Float64]:
    """Importance of every row in this round: squared gradients, or squared deltas of the rows that were trained.

    With restart the gradient of B is divided by |A|^2 (Frobenius), because A is redrawn every round.
    """
    if spec.method.mask is MaskRule.GRADIENT:
        return importance.means(_gradient_divisors(network, spec))
    if spec.method.mask is not MaskRule.DELTA_NORM:
        return {}
    seen: dict[TensorKey, Float64] = {}
    for key, matrix in delta:
        if key.part in (Part.A, Part.B):
            scores = known[key].score.copy() if key in known else np.zeros(matrix.rows, np.float64)
            scores[matrix.kept_rows] = np.square(matrix.values, dtype=np.float64).sum(1)
            seen[key] = scores
    return seen


def _gradient_divisors(network: Network, spec: JobSpec) -> dict[TensorKey, float]:
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
    known: Mapping[TensorKey, RowState],
    seen: Mapping[TensorKey, Float64],
    masks: Mapping[TensorKey, RowIndex | None],
    smoothing: float,
    round_number: int,
) -> dict[TensorKey, RowState]:
    """Row states after a round: scores of every row measured, and which rows were sent.

    A tensor's first scores count in full; later ones are smoothed.
    """
    after = dict(known)
    for key, importance in seen.items():
        before = after.get(key) or RowState.fresh(len(importance))
        after[key] = before.observed(importance, smoothing if before.score.any() else 0.0)
    for key, index in masks.items():
        if key in after:
            sent = np.arange(after[key].rows, dtype=np.int32) if index is None else index
            after[key] = after[key].sent(sent, round_number)
    return after
