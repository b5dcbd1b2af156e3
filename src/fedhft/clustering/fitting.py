"""Expectation maximisation of a Gaussian mixture on few points, float64, deterministic.

    r_ik  proportional to  pi_k N(x_i; mu_k, S_k)            expectation
    pi_k = N_k / n,  mu_k = sum_i r_ik x_i / N_k,  N_k = sum_i r_ik            maximisation
    tied: S = sum_ik r_ik (x_i - mu_k)(x_i - mu_k)^T / n + ridge      diag: the same per component, diagonal only

The ridge is in units of the points' mean variance: a component of two close points cannot collapse onto them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage

from fedhft import seeds
from fedhft.adapter import Float64

Covariance = Literal["diag", "tied"]
Labels = NDArray[np.int64]

_ITERATIONS = 200
_TOLERANCE = 1e-7
_EMPTY = 1e-9
_LEAST_VARIANCE = 1e-12
_SEEDINGS = 8
_FEW_SEEDINGS = 2
_MANY_CLUSTERS = 8
"""Above so many components starts are fewer: each costs more, and there are more numbers of components to try."""
_MOST_FOR_WARD = 2000
"""Points up to which hierarchical clustering gives a start; its distances take memory quadratic in them."""


@dataclass(frozen=True, eq=False)
class Gaussians:
    """Components: weights (J,), means (J x d), covariances (J x d) for diag or (d x d) for tied."""

    kind: Covariance
    weights: Float64
    means: Float64
    covariances: Float64

    def log_joint(self, points: Float64) -> Float64:
        """log pi_k + log N(x_i; mu_k, S_k); (n x J)."""
        dims = points.shape[1]
        if self.kind == "diag":
            deviations = points[:, None, :] - self.means[None]
            distance = (np.square(deviations) / self.covariances[None]).sum(axis=2)
            log_volume = np.log(self.covariances).sum(axis=1)
        else:
            root = np.linalg.cholesky(self.covariances)
            white_points = np.linalg.solve(root, points.T).T
            white_means = np.linalg.solve(root, self.means.T).T
            distance = np.square(white_points[:, None, :] - white_means[None]).sum(axis=2)
            log_volume = np.full(len(self.means), 2.0 * np.log(np.diag(root)).sum())
        with np.errstate(divide="ignore"):
            log_weights = np.log(self.weights)
        joint: Float64 = log_weights - 0.5 * (dims * np.log(2.0 * np.pi) + log_volume + distance)
        return joint


@dataclass(frozen=True, eq=False)
class Fit:
    """Components after convergence and the log likelihood of all points under them, nats."""

    gaussians: Gaussians
    log_likelihood: float


def fit(points: Float64, means: Float64, kind: Covariance, ridge: float) -> Fit:
    """Run EM from the given means (J x d): each point starts in the component of the nearest one.

    points: (n x d), n >= 1, d >= 1. A component that nobody is in keeps its mean.
    """
    count = len(means)
    floor = ridge * float(points.var(axis=0).mean()) + _LEAST_VARIANCE
    nearest = np.square(points[:, None, :] - means[None]).sum(axis=2).argmin(axis=1)
    responsibilities = np.eye(count)[nearest]
    gaussians, likelihood = _maximise(points, responsibilities, means, kind, floor), -np.inf
    for _ in range(_ITERATIONS):
        joint = gaussians.log_joint(points)
        per_point = log_sum_exp(joint)
        previous, likelihood = likelihood, float(per_point.sum())
        if likelihood - previous < _TOLERANCE:
            break
        responsibilities = np.exp(joint - per_point[:, None])
        gaussians = _maximise(points, responsibilities, gaussians.means, kind, floor)
    return Fit(gaussians, likelihood)


def log_sum_exp(joint: Float64) -> Float64:
    """log sum_k exp(joint_ik) per row, float64 (n,); many times faster than scipy's on matrices this small."""
    largest = joint.max(axis=1)
    total: Float64 = largest + np.log(np.exp(joint - largest[:, None]).sum(axis=1))
    return total


def best_fit(points: Float64, clusters: int, kind: Covariance, ridge: float) -> Fit:
    """The likeliest fit over several deterministic starts: Ward's hierarchical clustering, and k-means++ seedings."""
    if clusters == 1:
        return fit(points, points.mean(axis=0, keepdims=True), kind, ridge)
    fits = [fit(points, means, kind, ridge) for means in starts(points, clusters, tree_of(points))]
    return max(fits, key=lambda one: one.log_likelihood)


def _maximise(points: Float64, responsibilities: Float64, means: Float64, kind: Covariance, floor: float) -> Gaussians:
    mass = responsibilities.sum(axis=0)
    alive = mass > _EMPTY
    divisor = np.where(alive, mass, 1.0)
    means = np.where(alive[:, None], responsibilities.T @ points / divisor[:, None], means)
    if kind == "diag":
        deviations = points[:, None, :] - means[None]
        squares = np.einsum("nk,nkd->kd", responsibilities, np.square(deviations)) / divisor[:, None]
        spread = np.where(alive[:, None], squares, points.var(axis=0)) + floor
    else:
        # sum_ik r (x - mu)(x - mu)^T = sum_i x x^T - sum_k N mu mu^T, around the common mean for precision.
        center = points.mean(axis=0)
        around, offsets = points - center, np.where(alive[:, None], means - center, 0.0)
        spread = (around.T @ around - (mass[:, None] * offsets).T @ offsets) / len(points)
        spread = spread + floor * np.eye(points.shape[1])
    return Gaussians(kind, mass / mass.sum(), means, spread)


def tree_of(points: Float64) -> Float64 | None:
    """Ward's hierarchical clustering of points (n x d), scipy's linkage matrix; None for one point, or too many."""
    return linkage(points, "ward") if 1 < len(points) <= _MOST_FOR_WARD else None


def starts(points: Float64, clusters: int, tree: Float64 | None) -> Iterator[Float64]:
    """Means (J x d) to start from: those of the points' tree, and k-means++ seedings. Deterministic."""
    if tree is not None:
        labels = fcluster(tree, clusters, "maxclust") - 1
        found = int(labels.max()) + 1
        means = np.stack([points[labels == label].mean(axis=0) for label in range(found)])
        yield np.vstack([means, points[: clusters - found]])
    for number in range(_SEEDINGS if clusters <= _MANY_CLUSTERS else _FEW_SEEDINGS):
        yield _plus_plus(points, clusters, number)


def _plus_plus(points: Float64, clusters: int, number: int) -> Float64:
    """k-means++ (Arthur and Vassilvitskii 2007): each next mean is a point drawn by squared distance to the nearest."""
    draws = seeds.integers(seeds.seed_of("mixture", clusters, number), clusters).astype(np.float64) / 2.0**64
    chosen = [min(int(draws[0] * len(points)), len(points) - 1)]
    gaps = np.full(len(points), np.inf)
    for draw in draws[1:]:
        gaps = np.minimum(gaps, np.square(points - points[chosen[-1]]).sum(axis=1))
        reach = np.cumsum(gaps)
        chosen.append(min(int(np.searchsorted(reach, draw * reach[-1], side="right")), len(points) - 1))
    return points[chosen]
