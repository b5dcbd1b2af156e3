"""The trimmed mean of Yin et al. 2018 (arXiv 1803.01498), weighted and masked: no client alone moves a coordinate far.

Of coordinate (d, c) of a tensor, x_(1) <= x_(2) <= ... are the values of the clients that sent row d, w_(k) = q p_j
their weights and W_(k) = w_(1) + ... + w_(k), W in all:

    cut_(k)  = the part of the interval [W_(k-1), W_(k)] outside [trim W, (1 - trim) W]
    mean_j   = sum_k (w_(k) - cut_(k)) x_(k) / sum_k (w_(k) - cut_(k))
    step_j   = mean_j W / max(W, tau sum_{i sent x} w_ij)                       tau damps rows as in the plain mean

With n equal weights, and trim times n a whole number, this is Yin's: that many of the smallest and of the largest
values are left out. In general the client on the boundary is cut in part. Where those who deviate weigh at most trim W,
the mean lies between the others' smallest and largest value.

Values of all clients have to stand side by side, so there are no partial sums. Every pass over the updates collects the
coordinates for which there is room, in wire order, and the next pass goes on from there. Each coordinate is worked out
by itself, in the order of its values and then of client ids: the bits depend neither on the room nor on the passes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fedhft.adapter import AdapterSchema, Float32, Float64, MaskedMatrix, TensorKey
from fedhft.aggregation.rules import ClientUpdate, FoldRules, check_tensor, checked_weights, scopes_of
from fedhft.aggregation.sums import (
    RowStep,
    RowSums,
    Steps,
)
from fedhft.errors import ErrorCode, FedhftError

MEMORY_BYTES = 64 << 20
"""Memory of one pass beside its result: three quarters for what it collects, a quarter to sort in. Holds for rounds of
up to a hundred thousand clients; beyond that even a single coordinate of all of them takes more."""
_BYTES_COLLECTED = 5
"""Per coordinate and client: the value in float32, and whether it was sent."""
_BYTES_SORTED = 64
"""Per coordinate and client while its mean is worked out."""
_NEGLIGIBLE = 1e-12
"""What is left of a weight after cutting is rounding, not weight, below this share of all."""


class Rereadable(Protocol):
    """A round's updates, in ascending order of client id, the same ones each time they are read."""

    def __iter__(self) -> Iterator[ClientUpdate]:
        """Read them once more."""

    def __len__(self) -> int:
        """How many there are at most."""


@dataclass(frozen=True, eq=False)
class Trimmed:
    """Trimmed means of a round, with sum_i q_i p_ij per cluster and the number of updates."""

    steps: Steps
    mass: Float64
    clients: int


def trimmed(updates: Rereadable, rules: FoldRules, memory_bytes: int) -> Trimmed:
    """The trimmed mean of every scope that somebody contributed to.

    memory_bytes: how much a pass may take beside the result; less means more passes and the same bits.
    Raises FedhftError(INVALID_ARGUMENT) when a later pass reads other clients than the first, and what `accumulate`
    raises.
    """
    means = _Means(rules)
    left = [_Stretch.whole(key, rules.schema) for key in rules.schema.keys if key.part in rules.sent]
    most = len(updates)
    while left and most:
        now, left = _cut(left, max(1, memory_bytes * 3 // 4 // (_BYTES_COLLECTED * most)))
        collected = _Collected.of(now, most)
        passed: list[str] = []
        for update in updates:
            if len(passed) == most:
                raise _other_clients(update.client)
            passed.append(update.client)
            if means.clients is None:
                means.count(update)
            collected.put(len(passed) - 1, update)
        if means.clients is None:
            means.clients = passed
        elif passed != means.clients:
            raise _other_clients(", ".join(sorted(set(passed) ^ set(means.clients))[:3]))
        collected.work_out(means, memory_bytes // 4)
        most = len(passed)
        left = [stretch for stretch in left if stretch.key in means.sums]
    return means.result()


def trimmed_mean(ordered: Float64, weights: Float64, trim: float) -> Float64:
    """The equation above for some coordinates; float64 (coordinates,), 0 where nobody has a weight.

    ordered (clients x coordinates): values, ascending down each column. weights: theirs, >= 0, in the same places.
    """
    upto = np.cumsum(weights, axis=0)  # running sums throughout: np.sum adds in another order for other shapes
    total = upto[-1].copy()
    cut = trim * total
    kept = weights - np.clip(cut - (upto - weights), 0.0, weights)
    upto -= total - cut
    kept -= np.clip(upto, 0.0, weights, out=upto)
    kept[kept < _NEGLIGIBLE * total] = 0.0
    divisor = np.cumsum(kept, axis=0, out=upto)[-1].copy()
    kept *= ordered
    numerator = np.cumsum(kept, axis=0, out=upto)[-1]
    mean: Float64 = np.divide(numerator, divisor, out=np.zeros_like(total), where=total > 0.0)
    return mean


@dataclass(frozen=True)
class _Stretch:
    """Coordinates begin <= k < end of a tensor, row by row; column c of row d is d * cols + c."""

    key: TensorKey
    begin: int
    end: int

    @classmethod
    def whole(cls, key: TensorKey, schema: AdapterSchema) -> _Stretch:
        rows, cols = schema.shape(key)
        return cls(key, 0, rows * cols)

    @property
    def size(self) -> int:
        return self.end - self.begin

    def of(self, matrix: MaskedMatrix) -> tuple[Float32, NDArray[np.bool_] | bool]:
        """Its values in an update, and which of them were sent."""
        here = slice(self.begin, self.end)
        if matrix.index is None:
            return matrix.values.reshape(-1)[here], True
        rows = np.zeros(matrix.rows, np.bool_)
        rows[matrix.index] = True
        return matrix.dense().reshape(-1)[here], np.repeat(rows, matrix.cols)[here]


def _cut(left: Sequence[_Stretch], room: int) -> tuple[list[_Stretch], list[_Stretch]]:
    """The first `room` coordinates, and the others."""
    now, later = [], []
    for stretch in left:
        between = stretch.begin + min(room, stretch.size)
        room -= between - stretch.begin
        if between > stretch.begin:
            now.append(replace(stretch, end=between))
        if between < stretch.end:
            later.append(replace(stretch, begin=between))
    return now, later


@dataclass(eq=False)
class _Means:
    """What the passes have in common: who took part, how much every row weighs, and the means so far."""

    rules: FoldRules
    clients: list[str] | None = None
    """Who was read in the first pass, once that is over."""
    samples: list[float] = field(default_factory=list)
    scales: list[float] = field(default_factory=list)
    memberships: list[tuple[float, ...]] = field(default_factory=list)
    sums: dict[TensorKey, RowSums] = field(default_factory=dict)
    """Weights of the rows of every tensor that somebody sent; the numerators have no columns."""
    values: dict[TensorKey, Float64] = field(default_factory=dict)
    """(scopes x coordinates)."""

    def count(self, update: ClientUpdate) -> None:
        """Check an update of the first pass, and add its weight to that of its rows."""
        memberships = checked_weights(update, self.rules.clusters)
        self.samples.append(update.samples)
        self.scales.append(update.scale)
        self.memberships.append(memberships)
        for key, matrix in update.delta:
            check_tensor(key, matrix, self.rules, update.client)
            shares = (1.0,) if self.rules.is_shared(key) else memberships
            if key not in self.sums:
                self.sums[key] = RowSums.zero(len(shares), matrix.rows, 0)
            rows = MaskedMatrix(matrix.rows, 0, matrix.index, matrix.values[:, :0])
            self.sums[key].add(tuple(update.samples * share for share in shares), rows)

    def weights_of(self, key: TensorKey) -> Float64:
        """Weights in the scopes of a tensor, (clients x scopes)."""
        samples = np.asarray(self.samples, np.float64)[:, None]
        return samples if self.rules.is_shared(key) else samples * np.asarray(self.memberships, np.float64)

    def room_for(self, key: TensorKey) -> Float64:
        """Where the means of a tensor go, (scopes x coordinates)."""
        if key not in self.values:
            rows, cols = self.rules.schema.shape(key)
            self.values[key] = np.zeros((len(scopes_of(key, self.rules)), rows * cols))
        return self.values[key]

    def result(self) -> Trimmed:
        """Steps of the rows that somebody sent, damped."""
        steps: dict[str, dict[TensorKey, RowStep]] = {}
        for key in self.rules.schema.keys:
            if key in self.sums:
                for scope, name in enumerate(scopes_of(key, self.rules)):
                    step = self._step(key, scope)
                    if step is not None:
                        steps.setdefault(name, {})[key] = step
        mass = np.zeros(self.rules.clusters)
        for samples, memberships in zip(self.samples, self.memberships, strict=True):
            mass += samples * np.asarray(memberships, np.float64)
        return Trimmed(steps, mass, len(self.samples))

    def _step(self, key: TensorKey, scope: int) -> RowStep | None:
        rows, cols = self.rules.schema.shape(key)
        mass = self.sums[key].row_mass[scope]
        sent = mass > 0.0
        if not sent.any():
            return None
        damping = np.divide(mass, self.sums[key].divisor(scope, self.rules.tau), out=np.zeros(rows), where=sent)
        values = self.values[key][scope].reshape(rows, cols)
        values *= damping[:, None]
        if sent.all():
            return RowStep(rows, cols, None, values)
        index = np.flatnonzero(sent).astype(np.int32)
        return RowStep(rows, cols, index, values[index])


@dataclass(frozen=True, eq=False)
class _Collected:
    """Values of some stretches, of all clients side by side: (clients x coordinates), stretch after stretch."""

    stretches: Sequence[_Stretch]
    values: Float32
    sent: NDArray[np.bool_]

    @classmethod
    def of(cls, stretches: Sequence[_Stretch], clients: int) -> _Collected:
        shape = (clients, sum(stretch.size for stretch in stretches))
        return cls(stretches, np.zeros(shape, np.float32), np.zeros(shape, np.bool_))

    def _placed(self) -> Iterator[tuple[_Stretch, int]]:
        first = 0
        for stretch in self.stretches:
            yield stretch, first
            first += stretch.size

    def put(self, place: int, update: ClientUpdate) -> None:
        """The values of client number `place`."""
        for stretch, first in self._placed():
            matrix = update.delta.tensors.get(stretch.key)
            if matrix is not None:
                here = slice(first, first + stretch.size)
                self.values[place, here], self.sent[place, here] = stretch.of(matrix)

    def work_out(self, means: _Means, memory_bytes: int) -> None:
        """The means of all that was collected, a few coordinates at a time."""
        clients = len(means.samples)
        at_once = max(1, memory_bytes // (_BYTES_SORTED * max(1, clients)))
        scales = np.asarray(means.scales, np.float64)[:, None]
        for stretch, first in self._placed():
            if stretch.key not in means.sums:
                continue
            weights = means.weights_of(stretch.key)
            room = means.room_for(stretch.key)
            for begin in range(0, stretch.size, at_once):
                end = min(begin + at_once, stretch.size)
                here = slice(first + begin, first + end)
                values = self.values[:clients, here] * scales
                order = np.argsort(values, axis=0, kind="stable")
                values = np.take_along_axis(values, order, axis=0)
                sent = np.take_along_axis(self.sent[:clients, here], order, axis=0)
                for scope in range(len(room)):
                    there = slice(stretch.begin + begin, stretch.begin + end)
                    room[scope, there] = trimmed_mean(values, weights[order, scope] * sent, means.rules.trim)


def _other_clients(who: str) -> FedhftError:
    return FedhftError.field(
        ErrorCode.INVALID_ARGUMENT,
        "updates",
        who,
        "was not in every pass",
        "pass updates that can be read again and again, each time the same ones",
    )
