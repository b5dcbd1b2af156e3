"""Expectation maximisation on few points (fedhft.clustering.fitting)."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import logsumexp

from fedhft.adapter import Float64
from fedhft.clustering.fitting import Covariance, Gaussians, best_fit, fit, log_sum_exp

KINDS: list[Covariance] = ["diag", "tied"]


def blobs(seed: int, sizes: tuple[int, ...] = (300, 100)) -> Float64:
    rng = np.random.default_rng(seed)
    points = [np.array([6.0 * k, -2.0 * k]) + rng.standard_normal((n, 2)) * (1.0, 0.5) for k, n in enumerate(sizes)]
    return np.vstack(points)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_means_and_covariances_are_found(kind: Covariance) -> None:
    # From means that are not the groups', so that they have to move.
    found = fit(blobs(1), np.array([[1.0, 1.0], [4.0, 1.0]]), kind, 1e-6).gaussians
    np.testing.assert_allclose(found.weights, [0.75, 0.25], atol=0.02)
    np.testing.assert_allclose(found.means, [[0, 0], [6, -2]], atol=0.3)
    variances = found.covariances[0] if kind == "diag" else np.diag(found.covariances)
    np.testing.assert_allclose(variances, [1.0, 0.25], rtol=0.2)


@pytest.mark.parametrize("kind", KINDS)
def test_the_log_likelihood_is_that_of_the_components(kind: Covariance) -> None:
    points = blobs(2)
    one = fit(points, points[[0, -1]], kind, 1e-3)
    direct = 0.0
    for point in points:
        density = 0.0
        for k in range(2):
            spread = np.diag(one.gaussians.covariances[k]) if kind == "diag" else one.gaussians.covariances
            gap = point - one.gaussians.means[k]
            exponent = -0.5 * gap @ np.linalg.inv(spread) @ gap
            density += one.gaussians.weights[k] * np.exp(exponent) / (2 * np.pi * np.sqrt(np.linalg.det(spread)))
        direct += np.log(density)
    assert one.log_likelihood == pytest.approx(direct, abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_ridge_keeps_components_of_close_points_wide(kind: Covariance) -> None:
    points = np.array([[0.0, 0.0], [1e-6, 0.0], [1.0, 1.0], [1.0, 1.0 + 1e-6], [0.5, 3.0], [0.5, 3.1]])
    found = fit(points, points[[0, 2, 4]], kind, 0.1)
    floor = 0.1 * points.var(axis=0).mean()
    variances = found.gaussians.covariances if kind == "diag" else np.diag(found.gaussians.covariances)
    assert variances.min() >= floor * (1 - 1e-9)
    assert np.isfinite(found.log_likelihood)


@pytest.mark.parametrize("kind", KINDS)
def test_a_component_that_nobody_is_in_keeps_its_mean(kind: Covariance) -> None:
    far = np.array([1e3, 1e3])
    found = fit(blobs(3), np.array([[0.0, 0.0], far, [6.0, -2.0]]), kind, 1e-2).gaussians
    np.testing.assert_array_equal(found.means[1], far)
    assert found.weights[1] == 0.0
    assert np.isfinite(found.log_joint(blobs(3))[:, [0, 2]]).all()


def test_the_best_of_several_starts_is_not_worse_than_any_of_them() -> None:
    rng = np.random.default_rng(0)
    for _ in range(10):
        points = rng.standard_normal((20, 2))
        best = best_fit(points, 3, "tied", 1e-2).log_likelihood
        some = [fit(points, points[rng.permutation(20)[:3]], "tied", 1e-2).log_likelihood for _ in range(5)]
        assert best >= np.median(some)
        assert best == best_fit(points, 3, "tied", 1e-2).log_likelihood


def test_log_sum_exp_neither_over_nor_underflows() -> None:
    joint = np.array([[1000.0, 999.0], [-1000.0, -1001.0], [-np.inf, 3.0]])
    np.testing.assert_allclose(log_sum_exp(joint), logsumexp(joint, axis=1))


def test_log_joint_of_a_standard_normal_is_known() -> None:
    standard = Gaussians("diag", np.ones(1), np.zeros((1, 3)), np.ones((1, 3)))
    assert standard.log_joint(np.zeros((1, 3)))[0, 0] == pytest.approx(-1.5 * np.log(2 * np.pi))
