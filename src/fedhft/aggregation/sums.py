"""Partial sums over clients: accumulate, merge, finish, all in float64. FedHFT's masked mean (arXiv 2510.14054).

With q_i the weight of client i (its samples, capped), p_ij its membership in cluster j as pinned when the round opened,
w_ij = q_i p_ij:

    rows      mean_j[d] = sum_{i sent d} w_ij x_i[d] / max( sum_{i sent d} w_ij , tau sum_{i sent x} w_ij )
    products  mean_j[d] = sum_{i sent d} w_ij (W B_i A_i)[d] / (the same divisor),   W = alpha / r of the job's adapter

An update that was clipped comes as x_i times its scale; its weight stays. Tensors that all clusters share weigh q_i
instead of w_ij. A row nobody sent is absent from the mean, not zero. tau damps rows that few of the clients holding the
tensor sent; a tensor below a client's depth is not held by it. The row divisor acts on the left factor, so a mean of
products stays low-rank. Clients whose plans have fewer columns of A and B: see `unequal_ranks`.

Partials can be computed anywhere and merged; equal bits need merging over a fixed tree (`fold.fold`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from fedhft.adapter import (
    Float64,
    MaskedMatrix,
    Part,
    RowIndex,
    TensorKey,
)
from fedhft.aggregation.lowrank import Product
from fedhft.aggregation.rules import ClientUpdate, FoldRules, check_tensor, checked_weights, scopes_of
from fedhft.aggregation.unequal_ranks import moved, padded, redistributed
from fedhft.aggregation.versions import smaller_dense
from fedhft.methods import Combine


@dataclass(frozen=True, eq=False)
class RowStep:
    """Mean difference of the rows that somebody sent; values float64 (kept x cols), index None when all rows were."""

    rows: int
    cols: int
    index: RowIndex | None
    values: Float64


@dataclass(frozen=True, eq=False)
class ProductStep:
    """Mean product delta of a slot; rows outside `index` (None: no such row) were sent by nobody and are zero."""

    index: RowIndex | None
    value: Product


Steps = Mapping[str, Mapping[TensorKey, RowStep | ProductStep]]
"""Scope -> key -> mean. A product slot stands under its PRODUCT key."""


@dataclass(eq=False)
class RowSums:
    """Sums of one tensor: numerator (scopes x rows x cols), row_mass (scopes x rows), total (scopes,)."""

    numerator: Float64
    row_mass: Float64
    total: Float64

    @classmethod
    def zero(cls, scopes: int, rows: int, cols: int) -> RowSums:
        """Nothing added yet."""
        return cls(np.zeros((scopes, rows, cols)), np.zeros((scopes, rows)), np.zeros(scopes))

    def add(self, weights: tuple[float, ...], matrix: MaskedMatrix, scale: float = 1.0) -> None:
        """Add one client's rows, times `scale`, with one weight per scope."""
        values = matrix.values.astype(np.float64)
        for scope, weight in enumerate(weights):
            if weight == 0.0:
                continue
            self.total[scope] += weight
            if matrix.index is None:
                self.numerator[scope] += (weight * scale) * values
                self.row_mass[scope] += weight
            else:
                self.numerator[scope][matrix.index] += (weight * scale) * values
                self.row_mass[scope][matrix.index] += weight

    def absorb(self, other: RowSums) -> None:
        """Add another client group's sums."""
        self.numerator += other.numerator
        self.row_mass += other.row_mass
        self.total += other.total

    def divisor(self, scope: int, tau: float) -> Float64:
        """max(row mass, tau * total) per row; float64 (rows,)."""
        divisor: Float64 = np.maximum(self.row_mass[scope], tau * self.total[scope])
        return divisor


@dataclass(eq=False)
class ProductSums:
    """Sums of one product slot. Columns of many clients are kept as they came, until the dense sum is smaller.

    left (out x k) has no weight in it, weights (scopes x k) do, so all clusters share the columns. `rows` keeps the row
    masses; its numerator has no columns.
    """

    rows: RowSums
    left: list[Float64] = field(default_factory=list)
    right: list[Float64] = field(default_factory=list)
    weights: list[Float64] = field(default_factory=list)
    dense: Float64 | None = None

    def add(self, weights: Float64, left: Float64, right: Float64) -> None:
        """Add left @ right.T with one weight per scope and column, weights (scopes x k)."""
        self.left.append(left)
        self.right.append(right)
        self.weights.append(weights)
        self._settle()

    def absorb(self, other: ProductSums) -> None:
        """Add another client group's sums."""
        self.rows.absorb(other.rows)
        if other.dense is not None:
            self.dense = other.dense if self.dense is None else self.dense + other.dense
        self.left += other.left
        self.right += other.right
        self.weights += other.weights
        self._settle()

    def product(self, scope: int) -> Product:
        """Numerator of one scope."""
        scaled = [left * weights[scope] for left, weights in zip(self.left, self.weights, strict=True)]
        outs, ins = self.rows.row_mass.shape[1], len(self.right[0]) if self.right else 0
        if self.dense is not None:
            ins = self.dense.shape[2]
            kept = Product.of_dense(self.dense[scope])
            return kept if not scaled else kept + Product(np.hstack(scaled), np.hstack(self.right))
        if not scaled:
            return Product.zero(outs, ins)
        return Product.of(np.hstack(scaled), np.hstack(self.right))

    def _settle(self) -> None:
        outs = self.rows.row_mass.shape[1]
        columns = sum(left.shape[1] for left in self.left)
        if not columns or not smaller_dense(outs, len(self.right[0]), columns):
            return
        left, right, weights = np.hstack(self.left), np.hstack(self.right), np.hstack(self.weights)
        sums = np.stack([(left * per_column) @ right.T for per_column in weights])
        self.dense = sums if self.dense is None else self.dense + sums
        self.left, self.right, self.weights = [], [], []


@dataclass(eq=False)
class Partial:
    """Sums over some clients; what they hold is private to this module.

    clients, samples: how many, and sum q_i. mass: sum_i q_i p_ij per cluster, float64 (clusters,).
    """

    mass: Float64
    clients: int = 0
    samples: float = 0.0
    rows: dict[TensorKey, RowSums] = field(default_factory=dict)
    products: dict[str, ProductSums] = field(default_factory=dict)

    @classmethod
    def empty(cls, rules: FoldRules) -> Partial:
        """No client yet."""
        return cls(np.zeros(rules.clusters))


def accumulate(partial: Partial, update: ClientUpdate, rules: FoldRules) -> Partial:
    """Add one client; `partial` is used up and returned, as a copy per client would cost more than the sum.

    Raises FedhftError: INVALID_ARGUMENT for weights that are negative or not finite, OUTSIDE_PLAN for a tensor the
    method does not send, WRONG_SHAPE for one that does not fit the schema.
    """
    memberships = checked_weights(update, rules.clusters)
    per_cluster = tuple(update.samples * p for p in memberships)
    partial.clients += 1
    partial.samples += update.samples
    partial.mass += np.asarray(per_cluster, np.float64)
    for key, matrix in update.delta:
        check_tensor(key, matrix, rules, update.client)
        if rules.combine.takes_ranks and key.part in (Part.A, Part.B):
            continue
        weights = (update.samples,) if rules.is_shared(key) else per_cluster
        sums = partial.rows.get(key)
        if sums is None:
            sums = partial.rows[key] = RowSums.zero(len(weights), matrix.rows, matrix.cols)
        sums.add(weights, matrix, update.scale)
    if rules.combine is Combine.PADDED:
        _accumulate_padded(partial, update, rules)
    elif rules.combine.takes_ranks:
        _accumulate_products(partial, update, per_cluster, rules)
    return partial


def merge(first: Partial, second: Partial) -> Partial:
    """Sums over both groups of clients; both arguments are used up."""
    first.clients += second.clients
    first.samples += second.samples
    first.mass += second.mass
    for key, sums in second.rows.items():
        if key in first.rows:
            first.rows[key].absorb(sums)
        else:
            first.rows[key] = sums
    for slot, products in second.products.items():
        if slot in first.products:
            first.products[slot].absorb(products)
        else:
            first.products[slot] = products
    return first


def finish(partial: Partial, rules: FoldRules) -> Steps:
    """The mean step of every scope that somebody contributed to; `partial` is used up (sums are divided in place)."""
    steps: dict[str, dict[TensorKey, RowStep | ProductStep]] = {}
    for key in rules.schema.keys:
        row_sums = partial.rows.pop(key, None)
        if row_sums is not None:
            for scope, name in enumerate(scopes_of(key, rules)):
                row_step = _row_step(row_sums, scope, rules.tau)
                if row_step is not None:
                    steps.setdefault(name, {})[key] = row_step
        products = partial.products.pop(key.name, None) if key.part is Part.PRODUCT else None
        if products is not None:
            for scope, name in enumerate(scopes_of(key, rules)):
                product_step = _product_step(products, scope, rules.tau)
                if product_step is not None and rules.combine is Combine.SVD:
                    steps.setdefault(name, {}).update(_factor_steps(key.name, product_step, rules))
                elif product_step is not None:
                    steps.setdefault(name, {})[key] = product_step
    return steps


def _row_step(sums: RowSums, scope: int, tau: float) -> RowStep | None:
    rows, cols = sums.numerator.shape[1:]
    sent = sums.row_mass[scope] > 0.0
    if not sent.any():
        return None
    divisor = sums.divisor(scope, tau)
    if sent.all():
        values = sums.numerator[scope]
        values /= divisor[:, None]
        return RowStep(rows, cols, None, values)
    index = np.flatnonzero(sent).astype(np.int32)
    return RowStep(rows, cols, index, sums.numerator[scope][index] / divisor[index, None])


def _product_step(sums: ProductSums, scope: int, tau: float) -> ProductStep | None:
    sent = sums.rows.row_mass[scope] > 0.0
    if not sent.any():
        return None
    normaliser = np.zeros(len(sent))
    np.divide(1.0, sums.rows.divisor(scope, tau), out=normaliser, where=sent)
    index = None if sent.all() else np.flatnonzero(sent).astype(np.int32)
    return ProductStep(index, sums.product(scope).scaled(normaliser))


def _accumulate_products(
    partial: Partial, update: ClientUpdate, per_cluster: tuple[float, ...], rules: FoldRules
) -> None:
    delta = update.delta
    for key, matrix in delta:
        if key.part is not Part.B:
            continue  # B comes with every A; with B = 0 at the start of a restart round, A alone moves nothing
        slot = rules.schema.slot(key.name)
        sums = partial.products.get(key.name)
        if sums is None:
            sums = partial.products[key.name] = ProductSums(RowSums.zero(rules.clusters, matrix.rows, 0))
        if rules.combine is Combine.SVD:  # a row that did not travel is where it was, and counts
            sums.rows.add(per_cluster, MaskedMatrix.full(matrix.dense()[:, :0]))
            left = moved(update, key, rules)
        else:
            sums.rows.add(per_cluster, MaskedMatrix(matrix.rows, 0, matrix.index, matrix.values[:, :0]))
            left = (update.scale * rules.alpha_of(slot.rank) / slot.rank) * matrix.dense().astype(np.float64)
        right = moved(update, TensorKey(key.name, Part.A), rules, matrix.cols)
        weights = np.repeat(np.asarray(per_cluster, np.float64)[:, None], left.shape[1], axis=1)
        sums.add(weights, left, right)


def _accumulate_padded(partial: Partial, update: ClientUpdate, rules: FoldRules) -> None:
    for slot in rules.schema.slots:
        weight, differences = padded(update, slot.name, rules)
        for key, matrix in differences.items():
            sums = partial.rows.get(key)
            if sums is None:
                sums = partial.rows[key] = RowSums.zero(1, matrix.rows, matrix.cols)
            sums.add((weight,), matrix)


def _factor_steps(slot: str, mean: ProductStep, rules: FoldRules) -> dict[TensorKey, RowStep]:
    a, b = rules.start(slot, Part.A), rules.start(slot, Part.B)
    new_a, new_b = redistributed(mean.value, a)
    rank = a.shape[1]
    return {
        TensorKey(slot, Part.A): RowStep(len(a), rank, None, new_a - a),
        TensorKey(slot, Part.B): RowStep(len(b), rank, None, new_b - b),
    }
