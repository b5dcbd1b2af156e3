"""What must hold of the fold whatever the federation looks like (the invariants of FedHFT's algebra)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from folding import SCHEMA, Federation, assert_close, dense, federations, job, sent_keys, slow_means, steps_of, update
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhft.adapter import SHARED, MaskedDelta, MaskedMatrix, Part, TensorKey, cluster_scope
from fedhft.aggregation.fold import (
    BLOCK,
    ClientUpdate,
    FoldRules,
    Partial,
    RowStep,
    ServerState,
    accumulate,
    finish,
    fold,
    merge,
)
from fedhft.aggregation.publish import publish
from fedhft.aggregation.versions import Tensors, initial_state
from fedhft.errors import ErrorCode, FedhftError

quick = settings(deadline=None, max_examples=40)
every_step = st.sampled_from([0.0, 0.25, 1.0])


def shuffled(federation: Federation, order: list[int]) -> Federation:
    """The same clients under other names: client `order[i]` becomes the i-th."""
    names = [one.client for one in federation.updates]
    updates = tuple(replace(federation.updates[o], client=name) for o, name in zip(order, names, strict=True))
    return replace(federation, updates=updates)


@pytest.mark.parametrize(("preset", "clusters"), [("fedhft", (1, 2, 3)), ("fedit", (1,)), ("full", (1,))])
@quick
@given(data=st.data())
def test_the_mean_is_the_paper_s_row_by_row(preset: str, clusters: tuple[int, ...], data: st.DataObject) -> None:
    federation = data.draw(federations(preset, clusters, tau=(0.0, 0.3, 1.0)))
    expected = slow_means(federation)
    actual = steps_of(federation)
    assert {scope: set(steps) for scope, steps in actual.items()} == {s: set(m) for s, m in expected.items()}
    for scope, means in expected.items():
        for key, mean in means.items():
            step = actual[scope][key]
            assert isinstance(step, RowStep)
            sent = ~np.isnan(mean[:, 0])
            rows = np.arange(step.rows) if step.index is None else step.index
            assert np.array_equal(rows, np.flatnonzero(sent))
            assert_close(step.values, mean[sent])


@quick
@given(federation=federations(clusters=(1,), densities=(1.0,), depths=(2,)))
def test_one_cluster_and_full_masks_give_the_sample_weighted_mean(federation: Federation) -> None:
    total = sum(one.samples for one in federation.updates)
    steps = steps_of(federation)
    if total == 0:
        assert not steps
        return
    for key in sent_keys(federation.spec, SCHEMA):
        matrices = [one.samples * one.delta.tensors[key].values.astype(np.float64) for one in federation.updates]
        scope = SHARED if key.part is Part.A else cluster_scope(0)
        assert_close(dense(steps[scope][key]), np.sum(matrices, axis=0) / total)


@quick
@given(federation=federations(clusters=(2, 3), most=6), seed=st.integers(0, 2**32), tau=every_step)
def test_equal_clients_move_equally_in_every_cluster(federation: Federation, seed: int, tau: float) -> None:
    spec = job("fedhft", federation.clusters, mask={"tau": tau})
    same = update(spec, SCHEMA, "any", seed, density=0.5).delta
    updates = tuple(replace(one, delta=same, samples=one.samples + 1) for one in federation.updates)
    steps = steps_of(replace(federation, spec=spec, updates=updates))
    for cluster in range(federation.clusters):
        if not any(one.memberships[cluster] for one in updates):
            continue
        for key, matrix in same:
            scope = SHARED if key.part is Part.A else cluster_scope(cluster)
            assert_close(dense(steps[scope][key]), matrix.dense().astype(np.float64))


@quick
@given(federation=federations(tau=(0.0, 0.5)), data=st.data())
def test_permuting_clients_changes_nothing(federation: Federation, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(federation.updates))))
    before, after = steps_of(federation), steps_of(shuffled(federation, order))
    assert before.keys() == after.keys()
    for scope in before:
        for key, step in before[scope].items():
            assert_close(dense(after[scope][key]), dense(step))


@quick
@given(federation=federations(clusters=(2, 3), tau=(0.0, 0.5)), data=st.data())
def test_relabelling_clusters_relabels_the_result_and_nothing_else(federation: Federation, data: st.DataObject) -> None:
    labels = data.draw(st.permutations(range(federation.clusters)))
    updates = tuple(replace(one, memberships=tuple(one.memberships[j] for j in labels)) for one in federation.updates)
    before, after = steps_of(federation), steps_of(replace(federation, updates=updates))
    assert_same = np.testing.assert_array_equal
    for new, old in enumerate(labels):
        assert after.get(cluster_scope(new), {}).keys() == before.get(cluster_scope(old), {}).keys()
        for key, step in before.get(cluster_scope(old), {}).items():
            assert_same(dense(after[cluster_scope(new)][key]), dense(step))
    for key, step in before.get(SHARED, {}).items():
        assert_same(dense(after[SHARED][key]), dense(step))


@quick
@given(federation=federations(clusters=(3,), wire={"down": "int8"}), server=st.sampled_from(["plain", "momentum"]))
def test_a_cluster_without_mass_is_untouched(federation: Federation, server: str) -> None:
    spec = job("fedhft", 3, method={"server": server}, server={"momentum": 0.9}, wire={"down": "int8"})
    start = fold(spec, SCHEMA, initial_state(spec, 3), federation.updates).state
    silent = tuple(replace(one, memberships=(*one.memberships[:2], 0.0)) for one in federation.updates)
    after = fold(spec, SCHEMA, start, silent)
    assert cluster_scope(2) not in after.blobs
    for before, now in (
        (start.state.scopes, after.state.state.scopes),
        (start.residual, after.state.residual),
        (start.momentum, after.state.momentum),
    ):
        assert raw(before).get(cluster_scope(2)) == raw(now).get(cluster_scope(2))


@quick
@given(federation=federations(clusters=(2, 3), tau=(0.0, 0.5)), factor=st.sampled_from([0.01, 0.5, 3.0, 1e6]))
def test_scaling_all_memberships_of_a_cluster_does_not_change_its_step(federation: Federation, factor: float) -> None:
    updates = tuple(
        replace(one, memberships=(one.memberships[0] * factor, *one.memberships[1:])) for one in federation.updates
    )
    before, after = steps_of(federation), steps_of(replace(federation, updates=updates))
    assert before.keys() == after.keys()
    for scope in before:
        for key, step in before[scope].items():
            assert_close(dense(after[scope][key]), dense(step))


@quick
@given(federation=federations(densities=(1.0,), tau=(0.0, 0.5), wire={"down": "int8"}))
def test_a_mask_that_keeps_every_row_equals_no_mask_bit_for_bit(federation: Federation) -> None:
    def masked(one: ClientUpdate) -> ClientUpdate:
        tensors = {
            key: MaskedMatrix(m.rows, m.cols, np.arange(m.rows, dtype=np.int32), m.values) for key, m in one.delta
        }
        return replace(one, delta=MaskedDelta(tensors))

    start = initial_state(federation.spec, federation.clusters)
    plain = fold(federation.spec, SCHEMA, start, federation.updates)
    other = fold(federation.spec, SCHEMA, start, [masked(one) for one in federation.updates])
    assert plain.blobs == other.blobs


@quick
@given(federation=federations(most=40, wire={"down": "int8"}), data=st.data())
def test_published_bytes_do_not_depend_on_arrival_order(federation: Federation, data: st.DataObject) -> None:
    start = initial_state(federation.spec, federation.clusters)
    arrivals = data.draw(st.permutations(federation.updates))
    first = fold(federation.spec, SCHEMA, start, federation.updates)
    second = fold(federation.spec, SCHEMA, start, sorted(arrivals, key=lambda one: one.client))
    assert first.blobs == second.blobs
    assert_equal_states(first.state, second.state)


def assert_equal_states(first: ServerState, second: ServerState) -> None:
    for ours, theirs in (
        (first.state.scopes, second.state.scopes),
        (first.residual, second.residual),
        (first.momentum, second.momentum),
        (first.squares, second.squares),
    ):
        assert raw(ours) == raw(theirs)


def raw(scopes: Mapping[str, Tensors]) -> dict[str, dict[TensorKey, bytes]]:
    return {scope: {key: array.tobytes() for key, array in held.items()} for scope, held in scopes.items()}


@quick
@given(federation=federations(most=6), data=st.data())
def test_updates_out_of_order_or_twice_are_refused(federation: Federation, data: st.DataObject) -> None:
    updates = list(federation.updates)
    updates.append(data.draw(st.sampled_from(updates)))  # either twice in a row or an earlier client again
    with pytest.raises(FedhftError) as refusal:
        fold(federation.spec, SCHEMA, initial_state(federation.spec, federation.clusters), updates)
    assert refusal.value.code is ErrorCode.INVALID_ARGUMENT


def test_the_reduction_tree_is_blocks_of_consecutive_clients_merged_in_order() -> None:
    # Large updates that all but cancel, so that the order of float64 additions shows in float32.
    spec = job("fedhft", 2)
    updates = []
    for i in range(53):
        one = update(spec, SCHEMA, f"c{i:03d}", i % 26, samples=3.0, memberships=(0.3, 0.7), density=0.5)
        scale = np.float32((1.0, -1.0, 1e-9)[i // 26])
        matrices = {key: replace(matrix, values=scale * matrix.values) for key, matrix in one.delta}
        updates.append(replace(one, delta=MaskedDelta(matrices)))
    start = initial_state(spec, 2)
    rules = FoldRules.of(spec, SCHEMA, 2, 1)
    blocks = []
    for first in range(0, len(updates), BLOCK):
        partial = Partial.empty(rules)
        for one in updates[first : first + BLOCK]:
            partial = accumulate(partial, one, rules)
        blocks.append(partial)
    total = blocks[0]
    for block in blocks[1:]:
        total = merge(total, block)
    elsewhere = publish(spec, SCHEMA, start, finish(total, rules), total.mass, total.clients)
    assert elsewhere.blobs == fold(spec, SCHEMA, start, updates).blobs


@quick
@given(federation=federations(tau=(0.0, 0.5)), data=st.data())
def test_partial_sums_can_be_computed_anywhere(federation: Federation, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(federation.updates)))
    groups = [federation.updates[:cut], federation.updates[cut:]]
    before, after = steps_of(federation), steps_of(federation, groups)
    assert before.keys() == after.keys()
    for scope in before:
        for key, step in before[scope].items():
            assert_close(dense(after[scope][key]), dense(step))


@quick
@given(federation=federations(densities=(0.2,), most=3, wire={"down": "int8"}))
def test_rows_nobody_sent_keep_their_value_and_their_residual(federation: Federation) -> None:
    spec = federation.spec
    everybody = [replace(one, samples=1.0) for one in federation.updates]
    full = [update(spec, SCHEMA, "a", 1, memberships=(1.0,) * federation.clusters)]
    start = fold(spec, SCHEMA, initial_state(spec, federation.clusters), full).state
    after = fold(spec, SCHEMA, start, everybody).state
    for scope in start.state.scope_names:
        for key, before in start.state.scope(scope).items():
            weight = 1 if scope == SHARED else int(scope.removeprefix("cluster-"))
            sent = {
                row
                for one in everybody
                if key in one.delta.tensors and (scope == SHARED or one.memberships[weight] > 0)
                for row in one.delta.tensors[key].kept_rows.tolist()
            }
            kept = [row for row in range(len(before)) if row not in sent]
            assert np.array_equal(after.state.scope(scope)[key][kept], before[kept])
            assert np.array_equal(after.residual[scope][key][kept], start.residual[scope][key][kept])


@quick
@given(
    rounds=st.integers(1, 4),
    seed=st.integers(0, 2**32),
    eta=st.sampled_from([0.3, 1.0, 2.0]),
    encoding=st.sampled_from(["int8", "fp16", "bf16", "fp32"]),
    server=st.sampled_from(["plain", "momentum"]),
)
def test_published_and_residual_sum_to_the_exact_steps(
    rounds: int, seed: int, eta: float, encoding: str, server: str
) -> None:
    spec = job("fedhft", 2, wire={"down": encoding}, server={"eta": eta, "momentum": 0.5}, method={"server": server})
    state = initial_state(spec, 2)
    exact: dict[tuple[str, TensorKey], np.ndarray] = {}
    velocity: dict[tuple[str, TensorKey], np.ndarray] = {}
    for number in range(rounds):
        updates = [
            update(spec, SCHEMA, f"c{i}", seed + 10 * number + i, memberships=(0.2 * i, 0.5), density=0.5)
            for i in range(3)
        ]
        steps = steps_of(Federation(spec, SCHEMA, 2, tuple(updates)))
        for scope, means in steps.items():
            for key, step in means.items():
                assert isinstance(step, RowStep)
                rows = slice(None) if step.index is None else step.index
                zero = np.zeros((step.rows, step.cols))
                v = velocity.setdefault((scope, key), zero.copy())
                v[rows] = (0.5 if server == "momentum" else 0.0) * v[rows] + step.values
                exact.setdefault((scope, key), zero.copy())[rows] += eta * v[rows]
        state = fold(spec, SCHEMA, state, updates).state
    assert (encoding == "fp32") == (not state.residual)
    for (scope, key), expected in exact.items():
        published = state.state.scope(scope)[key].astype(np.float64)
        waiting = state.residual.get(scope, {}).get(key, np.zeros_like(expected))
        np.testing.assert_allclose(published + waiting, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


def test_the_residual_comes_back_in_the_next_version() -> None:
    # A step of a quarter of the int8 grid vanishes at first; with the residual it arrives after a few rounds.
    spec = job("fedit", 1, wire={"down": "int8"})
    key = TensorKey("head.weight", Part.HEAD)
    values = np.full((3, 12), 1.0 / 127 / 4, np.float32)
    values[0, 0] = 1.0
    one = ClientUpdate("a", 1.0, (1.0,), MaskedDelta({key: MaskedMatrix.full(values)}))
    state = initial_state(spec, 1)
    for _ in range(12):
        state = fold(spec, SCHEMA, state, [one]).state
    reached = state.state.scope("cluster-0")[key]
    assert abs(reached[1, 1] - 12 * values[1, 1]) <= 1.0 / 127
    assert reached[1, 1] > 0.5 * 12 * values[1, 1]


@quick
@given(
    kind=st.sampled_from(["adagrad", "adam", "yogi"]),
    seed=st.integers(0, 2**32),
    beta1=st.sampled_from([0.0, 0.9]),
    beta2=st.sampled_from([0.5, 0.99]),
    tau=st.sampled_from([1e-3, 0.1]),
)
def test_adaptive_steps_are_those_of_reddi_et_al_on_the_rows_that_were_sent(
    kind: str, seed: int, beta1: float, beta2: float, tau: float
) -> None:
    settings = {"momentum": beta1, "beta2": beta2, "adaptivity": tau, "eta": 0.05}
    spec = job("fedit", 1, method={"server": kind}, server=settings)
    state = initial_state(spec, 1)
    key = TensorKey("layer.1.value", Part.B)
    x, m, v = np.zeros((14, 2)), np.zeros((14, 2)), np.full((14, 2), tau**2)
    for number in range(4):
        one = update(spec, SCHEMA, "a", seed + number, density=0.5)
        rows, d = one.delta.tensors[key].kept_rows, one.delta.tensors[key].values.astype(np.float64)
        m[rows] = beta1 * m[rows] + (1 - beta1) * d
        if kind == "adagrad":
            v[rows] += d**2
        elif kind == "adam":
            v[rows] = beta2 * v[rows] + (1 - beta2) * d**2
        else:
            v[rows] -= (1 - beta2) * d**2 * np.sign(v[rows] - d**2)
        x[rows] += 0.05 * m[rows] / (np.sqrt(v[rows]) + tau)
        state = fold(spec, SCHEMA, state, [one]).state
    np.testing.assert_allclose(state.state.scope("cluster-0")[key], x, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(state.squares["cluster-0"][key], v, rtol=1e-4, atol=1e-9)


@quick
@given(seed=st.integers(0, 2**32), beta=st.sampled_from([0.0, 0.5, 0.9]), eta=st.sampled_from([0.5, 1.0]))
def test_momentum_is_fedavgm_on_the_rows_that_were_sent(seed: int, beta: float, eta: float) -> None:
    spec = job("fedit", 1, method={"server": "momentum"}, server={"momentum": beta, "eta": eta})
    state = initial_state(spec, 1)
    key = TensorKey("layer.1.value", Part.B)
    value, velocity = np.zeros((14, 2)), np.zeros((14, 2))
    for number in range(4):
        one = update(spec, SCHEMA, "a", seed + number, density=0.5)
        rows = one.delta.tensors[key].kept_rows
        velocity[rows] = beta * velocity[rows] + one.delta.tensors[key].values
        value[rows] += eta * velocity[rows]
        state = fold(spec, SCHEMA, state, [one]).state
    np.testing.assert_allclose(state.state.scope("cluster-0")[key], value, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(state.momentum["cluster-0"][key], velocity, rtol=1e-5, atol=1e-5)
