"""What the sums need to know: an accepted update with its weights, and the rules of a job and a round."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from fedhft.adapter import (
    SHARED,
    AdapterSchema,
    AdapterState,
    Float32,
    Float64,
    MaskedDelta,
    MaskedMatrix,
    Part,
    TensorKey,
    cluster_scope,
)
from fedhft.errors import ErrorCode, FedhftError
from fedhft.job import JobSpec
from fedhft.methods import Combine
from fedhft.plan import sent_parts


@dataclass(frozen=True, eq=False)
class ClientUpdate:
    """One accepted update.

    samples: q_i, training rows (capped), >= 0. memberships: p_ij as pinned, one weight >= 0 per cluster.
    delta: masked differences from where the client's round began.
    """

    client: str
    samples: float
    memberships: tuple[float, ...]
    delta: MaskedDelta
    scale: float = 1.0
    """Factor in (0, 1] on the differences, not on the weight: how far the update was clipped."""


@dataclass(frozen=True, eq=False)
class FoldRules:
    """What the sums need to know of a job and a round."""

    schema: AdapterSchema
    combine: Combine
    share_a: bool
    clusters: int
    tau: float
    alpha_of: Callable[[int], float]
    """Rank -> LoRA alpha; products carry W = alpha / rank."""
    seed: int
    round_number: int
    """1-based; restart methods redraw A for it."""
    sent: tuple[Part, ...] = (Part.A, Part.B, Part.HEAD)
    """Parts that travel in updates."""
    trim: float = 0.0
    """Share of the weight that a trimmed mean cuts off at either end."""
    begun: Mapping[TensorKey, Float32] = field(default_factory=dict)
    """The factors that the round began with, as differences from the job's start, where means are of whole factors."""

    @classmethod
    def of(
        cls,
        spec: JobSpec,
        schema: AdapterSchema,
        clusters: int,
        round_number: int,
        state: AdapterState | None = None,
    ) -> FoldRules:
        """Rules of round `round_number` with `clusters` clusters. state: that it began with; None: the job's start."""
        method = spec.method
        whole = method.combine in (Combine.PADDED, Combine.SVD) and state is not None
        return cls(
            schema,
            method.combine,
            method.share_a,
            clusters,
            spec.mask.tau,
            spec.adapter.alpha_of,
            spec.seed,
            round_number,
            sent_parts(method),
            spec.server.trim,
            state.scope(cluster_scope(0)) if whole and state is not None else {},
        )

    @cached_property
    def _starts(self) -> dict[TensorKey, Float64]:
        return {}

    def start(self, slot: str, part: Part) -> Float64:
        """A or B of a slot as the round began with it, all columns, float64; A is drawn anew where products travel."""
        key = TensorKey(slot, part)
        if key not in self._starts:
            drawn = self.round_number if self.combine is Combine.PRODUCTS else 0
            start, moved = self.schema.start_of(self.seed, key, drawn), self.begun.get(key)
            self._starts[key] = (start if moved is None else start + moved).astype(np.float64)
        return self._starts[key]

    def is_shared(self, key: TensorKey) -> bool:
        """Whether one tensor serves all clusters."""
        return self.share_a and key.part is Part.A and self.combine is not Combine.PRODUCTS


def scopes_of(key: TensorKey, rules: FoldRules) -> tuple[str, ...]:
    """Scopes in which a tensor stands."""
    if rules.is_shared(key):
        return (SHARED,)
    return tuple(cluster_scope(j) for j in range(rules.clusters))


def checked_weights(update: ClientUpdate, clusters: int) -> tuple[float, ...]:
    """The memberships of an update. Raises INVALID_ARGUMENT for weights that are negative or not finite."""
    weights = (update.samples, *update.memberships)
    if len(update.memberships) != clusters or not all(np.isfinite(w) and w >= 0.0 for w in weights):
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT,
            f"weights of {update.client}",
            weights,
            f"need a sample count and {clusters} memberships, finite and >= 0",
            "pin the memberships when the round opens",
        )
    return update.memberships


def check_tensor(key: TensorKey, matrix: MaskedMatrix, rules: FoldRules, client: str) -> None:
    """Check that a tensor may travel. Raises OUTSIDE_PLAN, WRONG_SHAPE."""
    if key.part not in rules.sent:
        raise FedhftError(
            ErrorCode.OUTSIDE_PLAN,
            f"update of {client}: {key.part}:{key.name} does not travel with combine = {rules.combine.value}; "
            "agent and server must run the same job",
        )
    rows, cols = rules.schema.shape(key)
    fewer = rules.combine.takes_ranks and key.part in (Part.A, Part.B) and 1 <= matrix.cols <= cols
    if matrix.rows != rows or not (matrix.cols == cols or fewer):
        raise FedhftError(
            ErrorCode.WRONG_SHAPE,
            f"update of {client}: {key.part}:{key.name} is {matrix.rows} x {matrix.cols}, the job has {(rows, cols)}",
        )
