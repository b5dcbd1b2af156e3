"""The few dimensions in which clients are compared: principal components of their signatures.

J centroids span J - 1 dimensions, and n clients cannot support a mixture in many more, so a fit of J
components to n clients uses max(J - 1, n // (2 J)) of them, at most 16.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedhft.adapter import Float64

_MOST = 16
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


def dimensions(clients: int, clusters: int) -> int:
    """Principal components for a mixture of `clusters` over `clients`."""
    return max(clusters - 1, min(clients // (2 * clusters), _MOST))


def principal(signatures: Float64, most: int) -> Subspace:
    """The first `most` principal components of signatures (n x D); fewer where there is no variation left."""
    center = signatures.mean(axis=0)
    _, sizes, directions = np.linalg.svd(signatures - center, full_matrices=False)
    scale = float(np.linalg.norm(signatures))
    kept = min(most, int((sizes > _NEGLIGIBLE * scale).sum()))
    return Subspace(center, directions[:kept])
