"""The few dimensions in which clients are compared: those in which the means of a partition differ, or where there is
none, principal components of their signatures.

J centroids span J - 1 dimensions, and a handful of clients cannot support a mixture in more: every further dimension
is one more in which a few points look split by chance. Measured on anchor signatures of AG News with 3 groups of skewed
shards, 30 clients, J - 1 dimensions find the groups more often than n / (2 J) (adjusted Rand index .87 against
.81), and structureless clients are split less often.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedhft.adapter import Float64

_NEGLIGIBLE = 1e-7
"""Directions whose singular value is below this share of the signatures' size are rounding errors of float32."""


@dataclass(frozen=True, eq=False)
class Subspace:
    """A point and orthonormal directions: center (D,), basis (d x D), float64."""

    center: Float64
    basis: Float64

    def project(self, signatures: Float64) -> Float64:
        """Coordinates (n x d) of signatures (n x D)."""
        coordinates: Float64 = (signatures - self.center) @ self.basis.T
        return coordinates

    def lift(self, points: Float64) -> Float64:
        """Signatures (n x D) of coordinates (n x d)."""
        signatures: Float64 = self.center + points @ self.basis
        return signatures


def spanned(signatures: Float64, labels: NDArray[np.int64]) -> Subspace:
    """The directions in which the means of a partition 0..J-1 of signatures (n x D) differ: J - 1, or fewer where
    means are alike.
    """
    center = signatures.mean(axis=0)
    own = np.eye(int(labels.max()) + 1)[labels]
    means = own.T @ signatures / own.sum(axis=0)[:, None]
    return Subspace(center, _directions(means - center, len(means) - 1, float(np.linalg.norm(signatures))))


def principal(signatures: Float64, most: int) -> Subspace:
    """The first `most` principal components of signatures (n x D); fewer where there is no variation left."""
    center = signatures.mean(axis=0)
    return Subspace(center, _directions(signatures - center, most, float(np.linalg.norm(signatures))))


def _directions(deviations: Float64, most: int, scale: float) -> Float64:
    _, sizes, directions = np.linalg.svd(deviations, full_matrices=False)
    kept: Float64 = directions[: min(most, int((sizes > _NEGLIGIBLE * scale).sum()))]
    return kept
