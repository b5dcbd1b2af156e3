"""What a client starts from: served memberships and the mixture of clusters."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhft.adapter import SHARED, AdapterState, Float32, Part, TensorKey
from fedhft.aggregation.mixture import mix, served
from fedhft.errors import ErrorCode, FedhftError

A, B, LEFT, RIGHT, PRODUCT = (TensorKey("slot", part) for part in (Part.A, Part.B, Part.LEFT, Part.RIGHT, Part.PRODUCT))
HEAD = TensorKey("head", Part.HEAD)


def normal(seed: int, rows: int, cols: int) -> Float32:
    return np.random.default_rng(seed).standard_normal((rows, cols)).astype(np.float32)


def clustered(clusters: int) -> AdapterState:
    scopes = {f"cluster-{j}": {B: normal(j, 10, 2), HEAD: normal(j + 50, 3, 4)} for j in range(clusters)}
    return AdapterState(3, clusters, {SHARED: {A: normal(99, 8, 2)}, **scopes})


@given(weights=st.lists(st.floats(0, 1), min_size=1, max_size=6), floor=st.floats(0, 0.49))
def test_served_weights_sum_to_one_and_never_invent_a_cluster(weights: list[float], floor: float) -> None:
    if sum(weights) < 1e-6:
        return
    got = served(weights, floor)
    assert len(got) == len(weights)
    assert sum(got) == pytest.approx(1.0)
    assert all(weight > 0 or kept == 0 for weight, kept in zip(weights, got, strict=True))
    assert np.argmax(got) == np.argmax(weights)


def test_weights_below_the_floor_are_not_served() -> None:
    assert served((0.9, 0.06, 0.04), 0.05) == pytest.approx((0.9375, 0.0625, 0.0))
    assert served((0.5, 0.3, 0.2), 0.05) == pytest.approx((0.5, 0.3, 0.2))


def test_many_equal_clusters_are_all_served_though_below_the_floor() -> None:
    assert served((1 / 64,) * 64, 0.05) == pytest.approx((1 / 64,) * 64)


@pytest.mark.parametrize("bad", [(), (0.0, 0.0), (float("nan"), 1.0), (-0.1, 1.1)])
def test_weights_that_are_none_are_refused(bad: tuple[float, ...]) -> None:
    with pytest.raises(FedhftError) as refusal:
        served(bad, 0.05)
    assert refusal.value.code is ErrorCode.INVALID_ARGUMENT


def test_a_mixture_is_the_weighted_sum_of_clusters_with_the_shared_tensors_as_they_are() -> None:
    state = clustered(3)
    mixed = mix(state, (0.5, 0.2, 0.3))
    for key in (B, HEAD):
        parts = [state.scope(f"cluster-{j}")[key].astype(np.float64) for j in range(3)]
        np.testing.assert_allclose(mixed[key], 0.5 * parts[0] + 0.2 * parts[1] + 0.3 * parts[2], atol=1e-6)
        assert mixed[key].dtype == np.float32
    assert mixed[A].tobytes() == state.scope(SHARED)[A].tobytes()


def test_one_cluster_is_its_own_mixture_bit_for_bit() -> None:
    state = clustered(2)
    assert mix(state, (0.0, 1.0))[B].tobytes() == state.scope("cluster-1")[B].tobytes()


def test_clusters_a_client_does_not_use_need_not_be_there() -> None:
    state = clustered(3)
    partial = AdapterState(3, 3, {name: state.scope(name) for name in (SHARED, "cluster-1")})
    assert mix(partial, (0.0, 1.0, 0.0))[B].tobytes() == state.scope("cluster-1")[B].tobytes()


def test_a_cluster_without_a_tensor_counts_as_zero() -> None:
    state = AdapterState(1, 2, {"cluster-0": {B: normal(0, 10, 2)}})
    np.testing.assert_allclose(mix(state, (0.25, 0.75))[B], 0.25 * normal(0, 10, 2), rtol=1e-6)
    assert mix(AdapterState(0, 2), (0.5, 0.5)) == {}


def test_products_mix_by_columns_with_the_weights_on_the_left() -> None:
    scopes = {f"cluster-{j}": {LEFT: normal(j, 20, 3), RIGHT: normal(j + 9, 30, 3)} for j in range(2)}
    mixed = mix(AdapterState(1, 2, scopes), (0.3, 0.7))
    assert mixed[LEFT].shape == (20, 6)
    expected = sum(
        p * scopes[f"cluster-{j}"][LEFT].astype(np.float64) @ scopes[f"cluster-{j}"][RIGHT].T
        for j, p in enumerate((0.3, 0.7))
    )
    np.testing.assert_allclose(mixed[LEFT] @ mixed[RIGHT].T, expected, atol=1e-5)
    assert mix(AdapterState(1, 2, scopes), (0.0, 1.0))[LEFT].shape == (20, 3)
    for j in range(2):  # the right factors travel as they are
        assert np.array_equal(mixed[RIGHT][:, 3 * j : 3 * j + 3], scopes[f"cluster-{j}"][RIGHT])


@pytest.mark.parametrize("columns", [3, 7])
def test_products_mix_densely_when_that_is_smaller_or_one_of_them_is(columns: int) -> None:
    dense = normal(5, 20, 30)
    factors = {LEFT: normal(0, 20, columns), RIGHT: normal(9, 30, columns)}
    other = {PRODUCT: dense} if columns == 3 else {LEFT: normal(1, 20, columns), RIGHT: normal(8, 30, columns)}
    mixed = mix(AdapterState(1, 2, {"cluster-0": factors, "cluster-1": other}), (0.5, 0.5))
    assert set(mixed) == {PRODUCT}
    second = dense if columns == 3 else other[LEFT] @ other[RIGHT].T
    np.testing.assert_allclose(mixed[PRODUCT], 0.5 * factors[LEFT] @ factors[RIGHT].T + 0.5 * second, atol=1e-5)


def test_mixing_never_writes_into_the_state() -> None:
    product = normal(5, 4, 4)
    state = AdapterState(
        1, 2, {"cluster-0": {PRODUCT: product}, "cluster-1": {LEFT: normal(0, 4, 1), RIGHT: normal(1, 4, 1)}}
    )
    before = product.tobytes()
    mix(state, (1.0, 1.0))
    assert product.tobytes() == before


@pytest.mark.parametrize("bad", [(1.0,), (0.5, 0.25, 0.25), (float("nan"), 1.0)])
def test_a_mixture_needs_one_finite_weight_per_cluster(bad: tuple[float, ...]) -> None:
    with pytest.raises(FedhftError) as refusal:
        mix(clustered(2), bad)
    assert refusal.value.code is ErrorCode.INVALID_ARGUMENT
