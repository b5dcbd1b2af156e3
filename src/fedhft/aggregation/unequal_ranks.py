"""Factors of unequal ranks: client i holds the first r_i columns of A (in x r) and B (out x r), per adapted module.

    padded   s_i = |B_i A_i^T|,   A = sum_i s_i [A_i 0] / sum_i s_i,   B likewise       HetLoRA, Cho et al. 2024
                                                                                        (arXiv 2401.06432)
    svd      U S V^T = sum_i w_i B_i A_i^T / sum_i w_i,   B = U_r S_r,   A = V_r        FlexLoRA, Bai et al. 2024
                                                                                        (arXiv 2402.11505)

A is held transposed, so that B A^T is the product. Norms are Frobenius norms, w_i = q_i p_ij as in `sums`. Where the
sum has fewer directions than r, svd leaves the columns of A beyond them as they were, and those of B zero: where both
are zero neither has a gradient. How a client of `padded` gives up columns: `training.pruning`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fedhft.adapter import Float64, MaskedMatrix, Part, TensorKey
from fedhft.aggregation.lowrank import Product
from fedhft.aggregation.rules import ClientUpdate, FoldRules
from fedhft.errors import ErrorCode, FedhftError


def moved(update: ClientUpdate, key: TensorKey, rules: FoldRules, cols: int | None = None) -> Float64:
    """A factor as a client had it after training, float64: its columns of where the round began, plus the difference.

    cols: columns of the client's other factor. Raises FedhftError(WRONG_SHAPE) where they differ.
    """
    matrix = update.delta.tensors.get(key)
    if matrix is not None and cols is not None and matrix.cols != cols:
        raise FedhftError(
            ErrorCode.WRONG_SHAPE,
            f"update of {update.client}: {key.part}:{key.name} has {matrix.cols} columns, the other factor {cols}; "
            "send as many of both",
        )
    start = rules.start(key.name, key.part)[:, : cols if matrix is None else matrix.cols]
    if matrix is None:
        return start
    return start + (matrix.dense() if update.scale == 1.0 else update.scale * matrix.dense().astype(np.float64))


def padded(update: ClientUpdate, slot: str, rules: FoldRules) -> tuple[float, Mapping[TensorKey, MaskedMatrix]]:
    """A client's weight in a slot, and how far its factors, padded with zeros, are from where the round began.

    Columns beyond the client's are zero, which is minus the start away. Nothing for a slot below the client's depth.
    """
    keys = [TensorKey(slot, part) for part in (Part.A, Part.B)]
    sent = [update.delta.tensors[key] for key in keys if key in update.delta.tensors]
    if not sent:
        return 0.0, {}
    factors = [moved(update, key, rules, sent[0].cols) for key in keys]
    differences = {}
    for key, factor in zip(keys, factors, strict=True):
        start = rules.start(slot, key.part)
        difference = -start
        difference[:, : factor.shape[1]] += factor
        differences[key] = MaskedMatrix.full(difference.astype(np.float32))
    return update.memberships[0] * product_norm(*factors), differences


def product_norm(a: Float64, b: Float64) -> float:
    """Frobenius norm of b @ a.T, of factors (in x k) and (out x k)."""
    return float(np.sqrt(max(0.0, float(((b.T @ b) * (a.T @ a)).sum()))))


def redistributed(mean: Product, a: Float64) -> tuple[Float64, Float64]:
    """The factors A (in x r) and B (out x r) of the best approximation of a mean product of their rank r.

    a: the factor A before (in x r). Columns are in descending order of singular values, so that the first k are the
    best approximation of rank k.
    """
    rank = a.shape[1]
    left, right = mean.truncated(rank)
    roots = np.linalg.norm(right, axis=0)  # both factors carry the root of the singular value
    found = len(roots)
    new_a, new_b = a.copy(), np.zeros((len(left), rank))
    new_a[:, :found] = right / roots
    new_b[:, :found] = left * roots
    return new_a, new_b
