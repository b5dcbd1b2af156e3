"""Seeded projections (fedhft.clustering.signature)."""

from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import pytest

from fedhft import seeds
from fedhft.clustering.signature import project
from fedhft.errors import ErrorCode, FedhftError


def gradients(seed: int, scale: float = 1.0) -> list[tuple[str, np.ndarray]]:
    return [(f"layer.{i}", seeds.uniform(seeds.seed_of(seed, i), (64, 8), scale)) for i in range(6)]


def test_signatures_have_unit_norm_whatever_the_scale() -> None:
    usual = project(gradients(1), seed=0)
    assert usual.dtype == np.float32
    assert usual.shape == (256,)
    for scale in (1e-30, 1e-6, 1e30):
        assert np.linalg.norm(project(gradients(1, scale), seed=0)) == pytest.approx(1.0, abs=1e-6)
        assert np.allclose(project(gradients(1, scale), seed=0), usual, atol=1e-5)


def test_zeros_stay_zero() -> None:
    assert not project([("a", np.zeros((4, 4), np.float32))], seed=0).any()
    assert not project([], seed=0).any()


def test_equal_input_gives_equal_bytes_in_any_order_of_tensors() -> None:
    # One value each, of sizes that swallow one another in float64: any other order of additions would show.
    sizes = {"a": 1e16, "b": 1.0, "c": -1e16, "d": 3.0, "e": 1e16}
    tensors = [(name, np.array([value], np.float32)) for name, value in sizes.items()]
    for seed in range(10):
        orders = {project(list(order), seed, dims=2).tobytes() for order in itertools.permutations(tensors)}
        assert len(orders) == 1


def test_seed_and_name_change_the_projection() -> None:
    values = seeds.uniform(1, (64, 8), 1.0)
    first = project([("a", values)], seed=0)
    assert abs(float(first @ project([("a", values)], seed=1))) < 0.3
    assert abs(float(first @ project([("b", values)], seed=0))) < 0.3


def test_cosines_survive_the_projection() -> None:
    errors = []
    for trial in range(60):
        rng = np.random.default_rng(trial)
        u, v = rng.standard_normal((2, 3000)) + 0.5  # random signs keep a common mean from adding up in every bucket
        v = 0.6 * u + 0.8 * v
        true = float(u @ v / np.linalg.norm(u) / np.linalg.norm(v))
        a, b = (project([("g", x.astype(np.float32))], seed=trial) for x in (u, v))
        errors.append(float(a @ b) - true)
    assert abs(np.mean(errors)) < 0.03
    assert np.std(errors) < np.sqrt(2 / 256)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused_by_name(bad: float) -> None:
    with pytest.raises(FedhftError, match=r"layer\.9") as refusal:
        project([("layer.9", np.array([1.0, bad], np.float32))], seed=0)
    assert refusal.value.code is ErrorCode.NON_FINITE


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(FedhftError):
        project([], seed=0, dims=0)
    with pytest.raises(FedhftError):
        project([("a", np.ones(2, np.float32)), ("a", np.ones(2, np.float32))], seed=0)


def test_agents_need_neither_scipy_nor_sklearn_to_sign() -> None:
    code = (
        "import sys, fedhft.clustering.signature, fedhft.masking.rows; "
        "assert not {'scipy', 'sklearn', 'torch', 'redis'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
