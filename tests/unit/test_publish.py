"""Versions: what is published is what clients hold, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from folding import SCHEMA, WEIGHTS, Federation, federations, job, update
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhft.adapter import SHARED, AdapterState, MaskedDelta, MaskedMatrix, Part, TensorKey
from fedhft.aggregation.fold import ServerState, fold
from fedhft.aggregation.publish import publish
from fedhft.aggregation.sums import RowStep
from fedhft.aggregation.versions import (
    Tensors,
    apply_delta,
    initial_state,
    snapshot,
    whole,
    with_version,
)
from fedhft.errors import ErrorCode, FedhftError
from fedhft.v1 import adapter_pb2, tensor_pb2
from fedhft.wire.codec import Blob, decode, encode
from tests.light import light_job, light_schema
from tests.unit.wire_examples import largest_code

quick = settings(deadline=None, max_examples=30)
DELTA, SNAPSHOT = adapter_pb2.BLOB_KIND_DELTA, adapter_pb2.BLOB_KIND_SNAPSHOT
LEFT, RIGHT, PRODUCT = (TensorKey("layer.1.value", part) for part in (Part.LEFT, Part.RIGHT, Part.PRODUCT))
HEAD = TensorKey("head.weight", Part.HEAD)


def raw(scopes: Mapping[str, Tensors]) -> dict[str, dict[TensorKey, bytes]]:
    return {scope: {key: array.tobytes() for key, array in held.items()} for scope, held in scopes.items() if held}


def rounds(federation: Federation, number: int) -> list[Any]:
    """The same clients with other values."""
    return [
        replace(one, delta=update(federation.spec, federation.schema, "x", 97 * number + i, density=0.6).delta)
        for i, one in enumerate(federation.updates)
    ]


@quick
@given(
    federation=st.one_of(
        federations(wire={"down": "int8"}, most=4),
        federations(wire={"down": "bf16"}, most=4),
        federations("fedhft-paper", wire={"down": "int8"}, most=4),
        federations("fedhft-paper", wire={"down": "fp32"}, server={"publish_rank": 2}, most=4),
        federations("full", (1,), most=4),
    )
)
def test_a_client_that_adds_up_the_blobs_holds_the_server_s_state_bit_for_bit(federation: Federation) -> None:
    spec, schema = federation.spec, federation.schema
    server = initial_state(spec, federation.clusters)
    client = AdapterState(0, federation.clusters)
    for number in range(1, 5):
        published = fold(spec, schema, server, rounds(federation, number))
        server = published.state
        for scope, data in published.blobs.items():
            blob = decode(data, schema, kind=DELTA)
            assert (blob.scope, blob.version) == (scope, number)
            client = apply_delta(client, blob)
        client = with_version(client, number)
        assert client.version == server.state.version
        assert raw(client.scopes) == raw(server.state.scopes)


@pytest.mark.parametrize("levels", [7, 127])
def test_a_version_travels_with_the_encoding_and_levels_of_the_job(levels: int) -> None:
    spec = job("fedhft", 2, wire={"down": "int8", "levels": levels})
    updates = [update(spec, SCHEMA, f"c{i}", i, memberships=(0.25, 0.75)) for i in range(3)]
    for data in fold(spec, SCHEMA, initial_state(spec, 2), updates).blobs.values():
        # Scales are rounded up by at most a sixteenth.
        assert 0.94 * levels - 0.5 <= largest_code(data, decode(data, SCHEMA, kind=DELTA).delta.values) <= levels
    exact = job("fedhft", 2, wire={"down": "fp32"})
    for data in fold(exact, SCHEMA, initial_state(exact, 2), updates).blobs.values():
        assert adapter_pb2.AdapterBlob.FromString(data).tensors.encoding == tensor_pb2.VALUE_ENCODING_FP32


@quick
@given(federation=st.one_of(federations(most=4), federations("fedhft-paper", server={"publish_rank": 2}, most=4)))
def test_a_snapshot_equals_the_deltas_it_stands_for_bit_for_bit(federation: Federation) -> None:
    spec, schema = federation.spec, federation.schema
    server = initial_state(spec, federation.clusters)
    for number in range(1, 5):
        server = fold(spec, schema, server, rounds(federation, number)).state
    stale = AdapterState(0, federation.clusters, {SHARED: {HEAD: np.ones((3, 12), np.float32)}})
    joined = stale
    for scope in server.state.scope_names:
        data = encode(snapshot(server.state, scope), schema, kind=SNAPSHOT, encoding="fp32", scope=scope, version=4)
        joined = apply_delta(joined, decode(data, schema, kind=SNAPSHOT))
    assert raw(joined.scopes) == raw(server.state.scopes)


@quick
@given(
    federation=st.one_of(
        federations(wire={"down": "int8"}, most=4),
        federations("fedhft-paper", most=4),
        federations(most=4, method={"server": "adam"}, server={"momentum": 0.9}),
    )
)
def test_the_server_s_private_tensors_survive_storage_bit_for_bit(federation: Federation) -> None:
    spec, schema = federation.spec, federation.schema
    server = initial_state(spec, federation.clusters)
    for number in range(1, 4):
        server = fold(spec, schema, server, rounds(federation, number)).state

    def stored(scopes: Mapping[str, Tensors]) -> dict[str, Tensors]:
        kind = adapter_pb2.BLOB_KIND_SERVER_STATE
        blobs = {s: encode(whole(held), schema, kind=kind, encoding="fp32", scope=s) for s, held in scopes.items()}
        return {
            s: {key: matrix.dense() for key, matrix in decode(data, schema, kind=kind).delta}
            for s, data in blobs.items()
        }

    again = ServerState(server.state, stored(server.residual), stored(server.momentum), stored(server.squares))
    following = rounds(federation, 9)
    assert fold(spec, schema, again, following).blobs == fold(spec, schema, server, following).blobs


def test_the_published_blobs_are_deltas_of_the_next_version() -> None:
    spec = job("fedhft", 2, wire={"down": "int8"})
    previous = ServerState(AdapterState(6, 2))
    published = fold(spec, SCHEMA, previous, [update(spec, SCHEMA, "a", 1, memberships=(1.0, 0.0))])
    assert set(published.blobs) == {SHARED, "cluster-0"}
    assert published.state.state.version == 7
    assert decode(published.blobs["cluster-0"], SCHEMA, kind=DELTA).version == 7


def test_folding_never_writes_into_the_previous_state() -> None:
    for spec, schema in (
        (job("fedhft", 1, method={"server": "momentum"}, wire={"down": "int8"}), SCHEMA),
        (job("fedhft", 1, method={"server": "adam"}, wire={"down": "int8"}), SCHEMA),
        (job("full"), WEIGHTS),
    ):
        start = fold(spec, schema, initial_state(spec, 1), [update(spec, schema, "a", 1)]).state
        before = [raw(scopes) for scopes in (start.state.scopes, start.residual, start.momentum, start.squares)]
        fold(spec, schema, start, [update(spec, schema, "a", 2, density=0.5)])
        after = [raw(scopes) for scopes in (start.state.scopes, start.residual, start.momentum, start.squares)]
        assert after == before


def test_the_same_round_folded_twice_gives_the_same_bytes() -> None:
    spec = job("fedhft-paper", 2, wire={"down": "int8"})
    updates = [update(spec, SCHEMA, f"c{i}", i, memberships=(0.5, 0.5)) for i in range(3)]
    start = initial_state(spec, 2)
    assert fold(spec, SCHEMA, start, updates).blobs == fold(spec, SCHEMA, start, iter(updates)).blobs


def test_only_the_rows_somebody_sent_travel_down() -> None:
    spec = job("fedhft", 1, wire={"down": "int8"})
    published = fold(spec, SCHEMA, initial_state(spec, 1), [update(spec, SCHEMA, "a", 1, density=0.2)])
    down = decode(published.blobs["cluster-0"], SCHEMA, kind=DELTA).delta.tensors[TensorKey("layer.1.value", Part.B)]
    assert down.kept == 3


def test_impossible_cluster_counts_are_refused() -> None:
    spec = job("fedhft", 3)
    for count in (0, 4):
        with pytest.raises(FedhftError) as refusal:
            initial_state(spec, count)
        assert refusal.value.code is ErrorCode.INVALID_ARGUMENT


def blob(tensors: dict[TensorKey, Any], *, kind: int = DELTA, scope: str = "cluster-0") -> Blob:
    delta = {
        k: m if isinstance(m, MaskedMatrix) else MaskedMatrix.full(np.asarray(m, np.float32))
        for k, m in tensors.items()
    }
    return Blob(kind, scope, 1, MaskedDelta(delta))


@pytest.mark.parametrize(
    "bad",
    [
        blob({HEAD: np.ones((3, 12))}, kind=adapter_pb2.BLOB_KIND_UPDATE),
        blob({HEAD: np.ones((3, 12))}, scope=""),
        blob({HEAD: np.ones((3, 12))}, scope="cluster-01"),
        blob({LEFT: np.ones((14, 2))}),
        blob({RIGHT: np.ones((9, 2))}),
        blob({LEFT: np.ones((14, 2)), RIGHT: np.ones((9, 3))}),
    ],
)
def test_blobs_that_are_no_change_of_a_scope_are_refused(bad: Blob) -> None:
    with pytest.raises(FedhftError) as refusal:
        apply_delta(AdapterState(0, 1), bad)
    assert refusal.value.code is ErrorCode.MALFORMED_UPDATE


def test_blobs_of_another_shape_than_the_state_are_refused() -> None:
    held = {HEAD: np.ones((3, 11), np.float32), LEFT: np.ones((5, 1), np.float32), RIGHT: np.ones((9, 1), np.float32)}
    state = AdapterState(1, 1, {"cluster-0": held})
    for bad in (blob({HEAD: np.ones((3, 12))}), blob({LEFT: np.ones((14, 1)), RIGHT: np.ones((9, 1))})):
        with pytest.raises(FedhftError) as refusal:
            apply_delta(state, bad)
        assert refusal.value.code is ErrorCode.WRONG_SHAPE


def test_product_columns_append_until_dense_is_smaller() -> None:
    rng = np.random.default_rng(0)
    state, total, forms = AdapterState(0, 1), np.zeros((14, 9)), []
    for _ in range(4):
        left, right = rng.standard_normal((14, 2)), rng.standard_normal((9, 2))
        state = apply_delta(state, blob({LEFT: left, RIGHT: right}))
        total += left @ right.T
        held = state.scope("cluster-0")
        forms.append(PRODUCT in held)
        now = held[PRODUCT] if PRODUCT in held else held[LEFT] @ held[RIGHT].T
        np.testing.assert_allclose(now, total, atol=1e-5)
        assert (LEFT in held) != (PRODUCT in held)
    assert forms == [False, False, True, True]  # 5 columns of 14 + 9 numbers hold 115 of 126; 6 hold 138


def test_a_dense_product_is_added_to_factors() -> None:
    rng = np.random.default_rng(0)
    left, right, dense = rng.standard_normal((14, 1)), rng.standard_normal((9, 1)), rng.standard_normal((14, 9))
    state = apply_delta(AdapterState(0, 1), blob({LEFT: left, RIGHT: right}))
    state = apply_delta(state, blob({PRODUCT: dense}))
    assert set(state.scope("cluster-0")) == {PRODUCT}
    np.testing.assert_allclose(state.scope("cluster-0")[PRODUCT], left @ right.T + dense, atol=1e-5)


def test_applying_a_blob_never_writes_into_the_state() -> None:
    held = {PRODUCT: np.ones((14, 9), np.float32), HEAD: np.ones((3, 12), np.float32)}
    state = AdapterState(1, 1, {"cluster-0": held})
    after = apply_delta(state, blob({LEFT: np.ones((14, 1)), RIGHT: np.ones((9, 1)), HEAD: np.ones((3, 12))}))
    assert (after.scope("cluster-0")[PRODUCT] == 2).all()
    assert (held[PRODUCT] == 1).all()
    assert (held[HEAD] == 1).all()


def test_what_the_encoding_cannot_hold_waits_in_the_residual_and_nothing_is_lost() -> None:
    spec = light_job("j", method="fedit", wire={"down": "fp16"})
    schema = light_schema()
    key = TensorKey("classifier.weight", Part.HEAD)
    values = np.full(schema.shape(key), 100_000.0)
    steps = {"cluster-0": {key: RowStep(*schema.shape(key), None, values)}}
    published = publish(spec, schema, initial_state(spec, 1), steps, np.ones(1), 1)
    sent, waits = published.state.state.scope("cluster-0")[key], published.state.residual["cluster-0"][key]
    assert sent.max() == 65504.0
    assert np.array_equal(sent + waits, values)


@pytest.mark.parametrize("value", [np.inf, np.nan, 1e300])
def test_what_is_not_finite_is_never_published(value: float) -> None:
    schema, key = light_schema(), TensorKey("classifier.weight", Part.HEAD)
    for down in ("fp32", "int8", "fp16"):
        spec = light_job("j", method="fedit", wire={"down": down})
        steps = {"cluster-0": {key: RowStep(*schema.shape(key), None, np.full(schema.shape(key), value))}}
        with np.errstate(all="ignore"), pytest.raises(FedhftError) as caught:
            publish(spec, schema, initial_state(spec, 1), steps, np.ones(1), 1)
        assert caught.value.code is ErrorCode.NON_FINITE
