"""Which rows of a factor a client trains and sends: chosen before training, scored in every round.

A client whose plan has density s < 1 keeps ceil(s * rows) rows of B (and columns of A). The transient gradient of
every row is there anyway, so *every* row is scored in *every* round, and a share of the budget goes to the rows
longest unsent. Without both, a mask locks itself in: rows never trained would never look important.

    score_t[d] = m * score_{t-1}[d] + (1 - m) * |gradient of row d|^2       m: mask.smoothing
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedhft import seeds
from fedhft.adapter import Float64, RowIndex
from fedhft.errors import ErrorCode, FedhftError
from fedhft.methods import MaskRule

NEVER = 0
"""`last_sent` of a row that was never sent; rounds count from 1."""


@dataclass(frozen=True, eq=False)
class RowState:
    """What a client remembers of the rows of one matrix.

    score: float64 (rows,), smoothed importance. last_sent: int64 (rows,), round in which a row was last sent.
    Raises FedhftError(WRONG_SHAPE) when their lengths differ.
    """

    score: Float64
    last_sent: NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.score.ndim != 1 or self.score.shape != self.last_sent.shape:
            raise FedhftError(
                ErrorCode.WRONG_SHAPE,
                f"row state: {self.score.shape} scores, {self.last_sent.shape} rounds; one of each per row is needed",
            )

    @classmethod
    def fresh(cls, rows: int) -> RowState:
        """Nothing seen, nothing sent."""
        return cls(np.zeros(rows, np.float64), np.full(rows, NEVER, np.int64))

    @property
    def rows(self) -> int:
        """Number of rows of the matrix."""
        return len(self.score)

    def observed(self, importance: Float64, smoothing: float) -> RowState:
        """After a round in which row d scored importance[d] (float64 (rows,), >= 0; squared gradient or delta norm).

        A row whose importance is not finite keeps its score. Raises FedhftError(WRONG_SHAPE).
        """
        fresh = np.asarray(importance, np.float64)
        if fresh.shape != self.score.shape:
            raise FedhftError(
                ErrorCode.WRONG_SHAPE,
                f"row state: {fresh.shape} importances for {self.rows} rows; score every row in every round",
            )
        finite = np.isfinite(fresh)
        blended = smoothing * self.score + (1.0 - smoothing) * np.where(finite, fresh, 0.0)
        return RowState(np.where(finite, blended, self.score), self.last_sent)

    def sent(self, index: RowIndex, round_number: int) -> RowState:
        """After the rows `index` were sent in `round_number` (1-based)."""
        last_sent = self.last_sent.copy()
        last_sent[index] = round_number
        return RowState(self.score, last_sent)


def select_rows(state: RowState, keep: int, exploration: float, rule: MaskRule, seed: int) -> RowIndex:
    """The `keep` rows to train and send: int32, strictly increasing.

    The best by score fill (1 - exploration) of the budget, the rows longest unsent the rest; at least one row is
    explored when the budget is two or more. Ties are broken by the generator stream `seed`, so equal arguments give
    equal rows. `random` takes the rows with the smallest values of that stream: with
    seed = seed_of("rows", s, name, part) these are wire.rows.seeded_rows(s, ...), which travel as a seed.
    Raises FedhftError(INVALID_ARGUMENT): keep outside 1..rows, exploration outside [0, 1), rule `none` with keep
    below rows.
    """
    rows = state.rows
    if not 1 <= keep <= rows:
        raise FedhftError.field(ErrorCode.INVALID_ARGUMENT, "keep", keep, f"is not in 1..{rows}", "keep 1 to all rows")
    if not 0.0 <= exploration < 1.0:
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, "mask.exploration", exploration, "is not in [0, 1)", "use 0.1"
        )
    if keep == rows:
        return np.arange(rows, dtype=np.int32)
    if rule is MaskRule.NONE:
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT,
            "method.mask",
            rule.value,
            f"keeps every row, the plan asks for {keep} of {rows}",
            "give the plan density 1 or choose another mask",
        )
    tie_break = seeds.integers(seed, rows)
    if rule is MaskRule.RANDOM:
        return _ascending(np.argsort(tie_break, kind="stable")[:keep])
    explored = min(keep - 1, math.ceil(exploration * keep - 1e-9))
    by_score = np.lexsort((tie_break, -state.score))
    chosen, rest = by_score[: keep - explored], by_score[keep - explored :]
    longest_unsent = rest[np.lexsort((tie_break[rest], state.last_sent[rest]))]
    return _ascending(np.concatenate([chosen, longest_unsent[:explored]]))


def _ascending(rows: NDArray[np.int64]) -> RowIndex:
    return np.sort(rows).astype(np.int32)
