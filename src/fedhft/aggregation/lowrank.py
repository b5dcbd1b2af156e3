"""Sums of products in float64: in factors while that is smaller, dense otherwise.

A product delta is left @ right.T, (out x k) times (in x k) transposed. Adding appends columns; a row normaliser acts on
the left factor alone, so a masked mean of products stays low-rank. Truncation is the SVD of left @ right.T, computed
from the QR of both factors and the SVD of a small core; for a dense matrix from the eigenvectors of its Gram matrix,
an orthogonal projection of the same quality for everything worth publishing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fedhft.adapter import Float32, Float64, Part, TensorKey
from fedhft.aggregation.versions import smaller_dense

_NEGLIGIBLE = 1e-12
"""Singular values below this share of the largest are rounding, not content."""


@dataclass(frozen=True, eq=False)
class Product:
    """An (out x in) float64 matrix: left (out x k) @ right (in x k).T when `dense` is None, else `dense`.

    k may be 0: the zero matrix.
    """

    left: Float64
    right: Float64
    dense: Float64 | None = None

    @classmethod
    def of(cls, left: Float64, right: Float64) -> Product:
        """left @ right.T in whichever form is smaller."""
        if smaller_dense(len(left), len(right), left.shape[1]):
            return cls.of_dense(left @ right.T)
        return cls(left, right)

    @classmethod
    def of_dense(cls, dense: Float64) -> Product:
        """A dense matrix."""
        return cls(np.zeros((dense.shape[0], 0)), np.zeros((dense.shape[1], 0)), dense)

    @classmethod
    def zero(cls, out_features: int, in_features: int) -> Product:
        """The zero matrix."""
        return cls(np.zeros((out_features, 0)), np.zeros((in_features, 0)))

    @classmethod
    def held(cls, tensors: Mapping[TensorKey, Float32], name: str, out_features: int, in_features: int) -> Product:
        """The product of slot `name` among stored tensors, zero when there is none."""
        dense = tensors.get(TensorKey(name, Part.PRODUCT))
        if dense is not None:
            return cls.of_dense(dense.astype(np.float64))
        left, right = tensors.get(TensorKey(name, Part.LEFT)), tensors.get(TensorKey(name, Part.RIGHT))
        if left is None or right is None:
            return cls.zero(out_features, in_features)
        return cls(left.astype(np.float64), right.astype(np.float64))

    def tensors(self, name: str) -> dict[TensorKey, Float32]:
        """This product rounded to float32, under its slot's keys; nothing when it is zero by form."""
        if self.dense is not None:
            return {TensorKey(name, Part.PRODUCT): self.dense.astype(np.float32)}
        if self.columns == 0:
            return {}
        return {
            TensorKey(name, Part.LEFT): self.left.astype(np.float32),
            TensorKey(name, Part.RIGHT): self.right.astype(np.float32),
        }

    @property
    def columns(self) -> int:
        """Columns of the factors; 0 when dense."""
        return int(self.left.shape[1])

    def value(self) -> Float64:
        """The dense (out x in) matrix."""
        return self.left @ self.right.T if self.dense is None else self.dense

    def __add__(self, other: Product) -> Product:
        if self.dense is None and other.dense is None:
            return Product.of(np.hstack([self.left, other.left]), np.hstack([self.right, other.right]))
        return Product.of_dense(self.value() + other.value())

    def scaled(self, rows: Float64) -> Product:
        """Row d times rows[d]; float64 (out,)."""
        if self.dense is not None:
            return Product.of_dense(self.dense * rows[:, None])
        return Product(self.left * rows[:, None], self.right)

    def energy(self) -> float:
        """Squared Frobenius norm."""
        if self.dense is not None:
            return float(np.square(self.dense).sum())
        return max(0.0, float(((self.left.T @ self.left) * (self.right.T @ self.right)).sum()))

    def compressed(self, floor: float) -> Product:
        """The same matrix without singular directions smaller than `floor`; all of it is dropped when its norm is."""
        if self.dense is not None:
            small = self.energy() < floor * floor
            return Product.zero(*self.dense.shape) if small else self
        if self.columns == 0:
            return self
        left, right = self.truncated(self.columns)
        kept = np.linalg.norm(left, axis=0) * np.linalg.norm(right, axis=0) > floor
        return Product(left[:, kept], right[:, kept])

    def truncated(self, rank: int) -> tuple[Float64, Float64]:
        """Best factors (out x k), (in x k) with k <= rank, each carrying the square root of the singular values."""
        if self.dense is not None:
            return _truncate_dense(self.dense, rank)
        if self.columns == 0:
            return self.left, self.right
        left_basis, left_core = np.linalg.qr(self.left)
        right_basis, right_core = np.linalg.qr(self.right)
        u, sizes, vt = np.linalg.svd(left_core @ right_core.T)
        kept = min(rank, int((sizes > _NEGLIGIBLE * sizes[0]).sum())) if len(sizes) else 0
        roots = np.sqrt(sizes[:kept])
        return left_basis @ (u[:, :kept] * roots), right_basis @ (vt[:kept].T * roots)


def _truncate_dense(matrix: Float64, rank: int) -> tuple[Float64, Float64]:
    if matrix.shape[0] < matrix.shape[1]:
        right, left = _truncate_dense(matrix.T, rank)
        return left, right
    energies, vectors = np.linalg.eigh(matrix.T @ matrix)
    basis = vectors[:, ::-1][:, : min(rank, matrix.shape[1])]
    # The Gram matrix squares the condition number, so sizes are measured anew on the projected columns.
    projected = matrix @ basis
    sizes = np.linalg.norm(projected, axis=0)
    kept = sizes > _NEGLIGIBLE * float(np.sqrt(max(energies[-1], 0.0)))
    roots = np.sqrt(sizes[kept])
    return projected[:, kept] / roots, basis[:, kept] * roots
