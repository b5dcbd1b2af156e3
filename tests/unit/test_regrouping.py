"""States of another number of clusters (fedhft.aggregation.regrouping)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from folding import SCHEMA, job, update

from fedhft.adapter import SHARED, AdapterState, Float32, Part, TensorKey
from fedhft.aggregation.fold import fold
from fedhft.aggregation.mixture import mix
from fedhft.aggregation.regrouping import copies, known_origins, regroup, renewed
from fedhft.aggregation.versions import ServerState, Tensors, initial_state
from fedhft.errors import ErrorCode, FedhftError

HEAD, B = TensorKey("head.weight", Part.HEAD), TensorKey("layer.0.query", Part.B)
LEFT, RIGHT, PRODUCT = (TensorKey("layer.1.value", part) for part in (Part.LEFT, Part.RIGHT, Part.PRODUCT))


def raw(scopes: Mapping[str, Tensors]) -> dict[str, dict[TensorKey, bytes]]:
    return {scope: {key: array.tobytes() for key, array in held.items()} for scope, held in scopes.items() if held}


def values(seed: int, *shape: int) -> Float32:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def three() -> ServerState:
    scopes = {f"cluster-{k}": {HEAD: values(k, 3, 4), B: values(10 + k, 5, 2)} for k in range(3)}
    return ServerState(AdapterState(7, 3, {SHARED: {}, **scopes}), residual={"cluster-2": {B: values(9, 5, 2)}})


def test_one_cluster_becomes_copies_with_all_that_the_server_carries() -> None:
    spec = job("fedhft", "auto", method={"server": "momentum"}, wire={"down": "int8"})  # type: ignore[arg-type]
    one = fold(spec, SCHEMA, initial_state(spec, 1), [update(spec, SCHEMA, "a", 1)]).state
    made = regroup(one, copies(3))
    assert (made.state.version, made.state.clusters) == (one.state.version, 3)
    for before, after in (
        (one.state.scopes, made.state.scopes),
        (one.residual, made.residual),
        (one.momentum, made.momentum),
    ):
        assert raw(after)[SHARED] == raw(before)[SHARED]
        assert all(raw(after)[f"cluster-{j}"] == raw(before)["cluster-0"] for j in range(3))


def test_the_start_of_a_job_is_the_start_of_more_clusters() -> None:
    assert regroup(initial_state(job("fedhft", 4), 1), copies(4)).state.scopes == {}


def test_a_merger_is_the_weighted_mean_and_who_goes_on_alone_keeps_every_bit() -> None:
    state = three()
    merged = regroup(state, ((1.0, 0.0, 0.0), (0.0, 0.25, 0.75)))
    assert raw(merged.state.scopes)["cluster-0"] == raw(state.state.scopes)["cluster-0"]
    for key in (HEAD, B):
        expected = 0.25 * state.state.scope("cluster-1")[key] + 0.75 * state.state.scope("cluster-2")[key]
        np.testing.assert_allclose(merged.state.scope("cluster-1")[key], expected, atol=1e-6)
    np.testing.assert_allclose(merged.residual["cluster-1"][B], 0.75 * state.residual["cluster-2"][B], atol=1e-6)
    assert set(merged.state.scopes) == {SHARED, "cluster-0", "cluster-1"} - ({SHARED} - set(merged.state.scopes))


def test_a_client_of_both_merged_clusters_starts_where_it_did() -> None:
    # Exact where A is shared: the mixture is linear in what is merged.
    state = three()
    merged = regroup(state, ((1.0, 0.0, 0.0), (0.0, 0.5, 0.5)))
    before, after = mix(state.state, (0.2, 0.4, 0.4)), mix(merged.state, (0.2, 0.8))
    for key, tensor in before.items():
        np.testing.assert_allclose(after[key], tensor, atol=1e-6)


def test_products_are_merged_as_products_however_they_are_held() -> None:
    left, right, dense = values(1, 6, 2), values(2, 5, 2), values(3, 6, 5)
    scopes: dict[str, Tensors] = {"cluster-0": {LEFT: left, RIGHT: right}, "cluster-1": {PRODUCT: dense}}
    merged = regroup(ServerState(AdapterState(1, 3, scopes)), ((0.5, 0.3, 0.2),)).state.scope("cluster-0")
    np.testing.assert_allclose(merged[PRODUCT], 0.5 * left @ right.T + 0.3 * dense, atol=1e-5)
    factors: dict[str, Tensors] = {
        f"cluster-{k}": {LEFT: values(k, 60, 2), RIGHT: values(9 + k, 50, 2)} for k in range(2)
    }
    kept = regroup(ServerState(AdapterState(1, 2, factors)), ((0.5, 0.5),)).state.scope("cluster-0")
    expected = 0.5 * sum(scope[LEFT] @ scope[RIGHT].T for scope in factors.values())
    np.testing.assert_allclose(kept[LEFT] @ kept[RIGHT].T, expected, atol=1e-5)


def test_squares_that_one_cluster_lacks_count_as_their_start() -> None:
    state = ServerState(AdapterState(1, 2), squares={"cluster-0": {HEAD: np.full((2, 2), 3.0, np.float32)}})
    merged = regroup(state, ((0.5, 0.5),), least_square=1.0)
    assert merged.squares["cluster-0"][HEAD].tolist() == [[2.0, 2.0]] * 2


@pytest.mark.parametrize("origins", [(), ((1.0,),), ((0.5, 0.4, 0.0),), ((1.5, -0.5, 0.0),)])
def test_what_is_no_weighting_is_refused(origins: tuple[tuple[float, ...], ...]) -> None:
    with pytest.raises(FedhftError, match="origins") as refusal:
        regroup(three(), origins)
    assert refusal.value.code is ErrorCode.INVALID_ARGUMENT


def test_origins_that_fit_are_used_and_others_keep_what_both_numbers_have() -> None:
    told = ((1.0, 0.0), (0.0, 1.0), (0.0, 1.0))
    assert known_origins(2, 3, told) == told
    assert known_origins(1, 3, told) == copies(3)
    assert known_origins(1, 3, ()) == copies(3)
    assert known_origins(3, 2, told) == ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))


def test_scopes_begin_anew_unless_they_go_on_alone_under_their_number() -> None:
    assert renewed(()) == ()
    assert renewed(copies(3)) == ("cluster-1", "cluster-2")
    assert renewed(((1.0, 0.0, 0.0), (0.0, 0.5, 0.5))) == ("cluster-1",)
    assert renewed(((0.0, 0.0, 1.0), (0.0, 1.0, 0.0))) == ("cluster-0",)
