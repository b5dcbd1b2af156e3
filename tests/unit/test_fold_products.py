"""The fold of products (restart methods): W B A averaged by rows, kept in factors, truncated, nothing lost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from folding import Federation, assert_close, dense, federations, job, slow_means, steps_of, update
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhft.adapter import (
    AdapterSchema,
    Float32,
    Float64,
    MaskedDelta,
    MaskedMatrix,
    Parameter,
    Part,
    Slot,
    TensorKey,
)
from fedhft.aggregation.fold import BLOCK, ClientUpdate, ProductStep, fold
from fedhft.aggregation.lowrank import Product
from fedhft.aggregation.versions import initial_state
from fedhft.errors import FedhftError
from tests.unit.memory import peak_of

quick = settings(deadline=None, max_examples=30)

WIDE = AdapterSchema(
    base_digest="00" * 32,
    tokenizer_digest="11" * 32,
    architecture="wide",
    labels=("no", "yes", "maybe"),
    layers=2,
    slots=(Slot("layer.0.query", 0, 48, 40, 2), Slot("layer.1.value", 1, 40, 56, 2)),
    head=(Parameter("head.weight", (3, 12)),),
)
"""Wide enough that ten clients of rank 2 fit in factors."""
KEY = TensorKey("layer.1.value", Part.PRODUCT)


def paper(clusters: int = 1, *, method: Mapping[str, Any] | None = None, **sections: Any) -> Any:
    return job("fedhft-paper", clusters, method=method, **sections)


def value(tensors: Mapping[TensorKey, Float32], name: str, shape: tuple[int, int]) -> Float64:
    return Product.held(tensors, name, *shape).value()


def rounds_of(spec: Any, clients: int, number: int, density: float = 1.0, schema: AdapterSchema = WIDE) -> list[Any]:
    return [
        update(spec, schema, f"c{i:03d}", 1000 * number + i, samples=i + 1, density=density) for i in range(clients)
    ]


@quick
@given(federation=federations("fedhft-paper", tau=(0.0, 0.3, 1.0)))
def test_the_mean_of_products_is_the_paper_s_row_by_row(federation: Federation) -> None:
    expected = slow_means(federation)
    actual = steps_of(federation)
    assert {scope: set(steps) for scope, steps in actual.items()} == {s: set(m) for s, m in expected.items()}
    for scope, means in expected.items():
        for key, mean in means.items():
            step = actual[scope][key]
            sent = ~np.isnan(mean[:, 0])
            rows = np.arange(len(mean)) if step.index is None else step.index
            assert np.array_equal(rows, np.flatnonzero(sent))
            assert_close(dense(step), np.where(np.isnan(mean), 0.0, mean))


@quick
@given(clients=st.integers(1, 14), seed=st.integers(0, 2**32), samples=st.lists(st.integers(1, 50), min_size=14))
def test_one_cluster_and_full_masks_give_the_weighted_mean_of_products(
    clients: int, seed: int, samples: list[int]
) -> None:
    spec = paper()
    updates = tuple(update(spec, WIDE, f"c{i:03d}", seed + i, samples=float(samples[i])) for i in range(clients))
    step = steps_of(Federation(spec, WIDE, 1, updates))["cluster-0"][KEY]
    start = WIDE.start_of(spec.seed, TensorKey(KEY.name, Part.A), 1).astype(np.float64)
    expected = np.zeros((56, 40))
    for one in updates:
        b, a = (one.delta.tensors[TensorKey(KEY.name, part)].values.astype(np.float64) for part in (Part.B, Part.A))
        expected += one.samples * (6.0 / 2) * b @ (start + a).T
    assert_close(dense(step), expected / sum(one.samples for one in updates))


@quick
@given(clients=st.integers(1, 8), seed=st.integers(0, 2**32))
def test_a_masked_mean_stays_low_rank(clients: int, seed: int) -> None:
    spec = paper(mask={"tau": 0.3})
    updates = tuple(update(spec, WIDE, f"c{i:03d}", seed + i, density=0.4, samples=i + 1) for i in range(clients))
    step = steps_of(Federation(spec, WIDE, 1, updates))["cluster-0"][KEY]
    assert isinstance(step, ProductStep)
    assert step.value.dense is None
    assert step.value.columns == 2 * clients
    assert np.linalg.matrix_rank(dense(step)) <= 2 * clients


@quick
@given(seed=st.integers(0, 2**32), encoding=st.sampled_from(["fp32", "int8"]), density=st.sampled_from([1.0, 0.4]))
def test_the_dense_path_equals_the_factored_path(seed: int, encoding: str, density: float) -> None:
    spec = paper(wire={"down": encoding}, mask={"tau": 0.3})
    few = [update(spec, WIDE, f"c{i}", seed + i, density=density, samples=12.0) for i in range(3)]
    # Each client as twelve of a twelfth of its samples: the same sums over so many columns that they turn dense.
    many = [replace(one, client=f"{one.client}-{k:02d}", samples=1.0) for one in few for k in range(12)]
    factored, whole = (steps_of(Federation(spec, WIDE, 1, tuple(group)))["cluster-0"][KEY] for group in (few, many))
    assert isinstance(factored, ProductStep)
    assert isinstance(whole, ProductStep)
    assert factored.value.dense is None
    assert whole.value.dense is not None
    assert_close(dense(whole), dense(factored))
    states = [fold(spec, WIDE, initial_state(spec, 1), group).state for group in (few, many)]
    totals = [
        value(state.state.scope("cluster-0"), KEY.name, (56, 40))
        + value(state.residual.get("cluster-0", {}), KEY.name, (56, 40))
        for state in states
    ]
    assert_close(totals[1], totals[0], 1e-6)
    published = [value(state.state.scope("cluster-0"), KEY.name, (56, 40)) for state in states]
    assert_close(published[1], published[0], 1e-5 if encoding == "fp32" else 0.02)


@quick
@given(
    seed=st.integers(0, 2**32),
    clients=st.integers(1, 14),
    rank=st.sampled_from([1, 4, 16, 30]),
    encoding=st.sampled_from(["fp32", "fp16", "int8"]),
    eta=st.sampled_from([0.5, 1.0]),
)
def test_published_and_residual_sum_to_the_exact_products(
    seed: int, clients: int, rank: int, encoding: str, eta: float
) -> None:
    spec = paper(wire={"down": encoding}, server={"publish_rank": rank, "eta": eta})
    state = initial_state(spec, 1)
    exact = np.zeros((56, 40))
    for number in range(1, 4):
        updates = [
            update(spec, WIDE, f"c{i:03d}", seed + 100 * number + i, density=0.4, samples=i + 1) for i in range(clients)
        ]
        means = slow_means_of_round(spec, updates, number)
        exact += eta * np.where(np.isnan(means), 0.0, means)
        published = fold(spec, WIDE, state, updates)
        state = published.state
    total = value(state.state.scope("cluster-0"), KEY.name, (56, 40))
    total = total + value(state.residual.get("cluster-0", {}), KEY.name, (56, 40))
    np.testing.assert_allclose(total, exact, rtol=0, atol=2e-6 * np.abs(exact).max())


def slow_means_of_round(spec: Any, updates: list[ClientUpdate], number: int) -> Float64:
    """The mean over one slot, with A as drawn for that round."""
    start = WIDE.start_of(spec.seed, TensorKey(KEY.name, Part.A), number).astype(np.float64)
    numerator, mass = np.zeros((56, 40)), np.zeros(56)
    for one in updates:
        b, a = (one.delta.tensors[TensorKey(KEY.name, part)] for part in (Part.B, Part.A))
        numerator += one.samples * 3.0 * b.dense().astype(np.float64) @ (start + a.dense()).T
        mass[b.kept_rows] += one.samples
    with np.errstate(invalid="ignore", divide="ignore"):
        return numerator / mass[:, None]


@quick
@given(seed=st.integers(0, 2**32), clients=st.sampled_from([6, 30]), rank=st.integers(1, 8))
def test_a_version_publishes_the_best_product_of_its_rank(seed: int, clients: int, rank: int) -> None:
    spec = paper(server={"publish_rank": rank})
    updates = [update(spec, WIDE, f"c{i:03d}", seed + i) for i in range(clients)]
    published = fold(spec, WIDE, initial_state(spec, 1), updates)
    tensors = published.state.state.scope("cluster-0")
    assert tensors[TensorKey(KEY.name, Part.LEFT)].shape == (56, rank)
    assert tensors[TensorKey(KEY.name, Part.RIGHT)].shape == (40, rank)
    errors, energies = 0.0, 0.0
    for slot in WIDE.slots:
        key = TensorKey(slot.name, Part.PRODUCT)
        exact = dense(steps_of(Federation(spec, WIDE, 1, tuple(updates)))["cluster-0"][key])
        sizes = np.linalg.svd(exact, compute_uv=False)
        got = value(tensors, slot.name, exact.shape)
        assert np.linalg.norm(exact - got) <= np.sqrt(np.square(sizes[rank:]).sum()) * 1.0001 + 1e-4 * sizes[0]
        errors, energies = errors + np.square(sizes[rank:]).sum(), energies + np.square(sizes).sum()
    assert published.report.dropped_mass == pytest.approx(errors / energies, rel=1e-4)


def test_what_truncation_dropped_is_published_later() -> None:
    spec = paper(server={"publish_rank": 2})
    first = fold(spec, WIDE, initial_state(spec, 1), rounds_of(spec, 6, 1))
    before = first.report.residual_norm
    silence = [
        ClientUpdate(
            "a", 1.0, (1.0,),
            MaskedDelta({TensorKey(s.name, Part.B): MaskedMatrix.full(np.zeros((s.out_features, 2), np.float32))
                         for s in WIDE.slots}),
        )
    ]  # fmt: skip
    state, norms = first.state, []
    for _ in range(5):
        published = fold(spec, WIDE, state, silence)
        state = published.state
        norms.append(published.report.residual_norm)
    assert norms == sorted(norms, reverse=True)
    assert norms[-1] < 1e-4 * before


def test_the_residual_stays_in_factors_while_that_is_smaller() -> None:
    spec = paper(server={"publish_rank": 2})
    state = fold(spec, WIDE, initial_state(spec, 1), rounds_of(spec, 4, 1)).state
    held = state.residual["cluster-0"]
    assert held[TensorKey(KEY.name, Part.LEFT)].shape[1] == 4 * 2 - 2
    assert KEY not in held


def test_rows_nobody_sent_keep_their_product_and_their_residual() -> None:
    spec = paper(wire={"down": "int8"}, server={"publish_rank": 2})
    state = fold(spec, WIDE, initial_state(spec, 1), rounds_of(spec, 4, 1)).state
    updates = rounds_of(spec, 2, 2, density=0.3)
    after = fold(spec, WIDE, state, updates).state
    sent = {row for one in updates for row in one.delta.tensors[TensorKey(KEY.name, Part.B)].kept_rows.tolist()}
    kept = [row for row in range(56) if row not in sent]
    assert kept
    shape = (56, 40)
    before = value(state.state.scope("cluster-0"), KEY.name, shape)
    assert_close(value(after.state.scope("cluster-0"), KEY.name, shape)[kept], before[kept], 1e-6)
    waiting = value(state.residual["cluster-0"], KEY.name, shape)
    np.testing.assert_allclose(
        value(after.residual["cluster-0"], KEY.name, shape)[kept], waiting[kept], atol=1e-5 * np.abs(waiting).max()
    )


def test_a_masked_version_publishes_the_best_product_of_the_rows_that_were_sent() -> None:
    spec = paper(server={"publish_rank": 2})
    state = fold(spec, WIDE, initial_state(spec, 1), rounds_of(spec, 6, 1)).state
    updates = rounds_of(spec, 1, 2, density=0.2)
    after = fold(spec, WIDE, state, updates).state
    sent = updates[0].delta.tensors[TensorKey(KEY.name, Part.B)].kept_rows
    shape = (56, 40)
    step = slow_means_of_round(spec, updates, 2)[sent]
    target = step + value(state.residual["cluster-0"], KEY.name, shape)[sent]
    before, now = (value(one.state.scope("cluster-0"), KEY.name, shape)[sent] for one in (state, after))
    sizes = np.linalg.svd(target, compute_uv=False)
    assert np.linalg.norm(target - (now - before)) <= 1.001 * np.sqrt(np.square(sizes[2:]).sum())


@quick
@given(seed=st.integers(0, 2**32), beta=st.sampled_from([0.0, 0.6]), clients=st.sampled_from([1, 14]))
def test_momentum_of_products_is_fedavgm_on_the_rows_that_were_sent(seed: int, beta: float, clients: int) -> None:
    spec = paper(method={"server": "momentum"}, server={"momentum": beta, "publish_rank": 40, "eta": 0.5})
    state = initial_state(spec, 1)
    total, velocity = np.zeros((56, 40)), np.zeros((56, 40))
    for number in range(1, 4):
        updates = [update(spec, WIDE, f"c{i:03d}", seed + 50 * number + i, density=0.2) for i in range(clients)]
        means = slow_means_of_round(spec, updates, number)
        sent = ~np.isnan(means[:, 0])
        velocity[sent] = beta * velocity[sent] + means[sent]
        total[sent] += 0.5 * velocity[sent]
        state = fold(spec, WIDE, state, updates).state
    got = value(state.state.scope("cluster-0"), KEY.name, (56, 40))
    np.testing.assert_allclose(got, total, atol=1e-5 * np.abs(total).max())
    held = value(state.momentum["cluster-0"], KEY.name, (56, 40))
    np.testing.assert_allclose(held, velocity, atol=1e-5 * np.abs(velocity).max())


@quick
@given(federation=federations("fedhft-paper", most=40, clusters=(2,), wire={"down": "int8"}), data=st.data())
def test_published_product_bytes_do_not_depend_on_arrival_order(federation: Federation, data: st.DataObject) -> None:
    start = initial_state(federation.spec, 2)
    arrivals = data.draw(st.permutations(federation.updates))
    first = fold(federation.spec, federation.schema, start, federation.updates)
    second = fold(federation.spec, federation.schema, start, sorted(arrivals, key=lambda one: one.client))
    assert first.blobs == second.blobs


@quick
@given(federation=federations("fedhft-paper", clusters=(2, 3), most=12), data=st.data())
def test_relabelling_clusters_relabels_products(federation: Federation, data: st.DataObject) -> None:
    labels = data.draw(st.permutations(range(federation.clusters)))
    updates = tuple(replace(one, memberships=tuple(one.memberships[j] for j in labels)) for one in federation.updates)
    before, after = steps_of(federation), steps_of(replace(federation, updates=updates))
    for new, old in enumerate(labels):
        for key, step in before.get(f"cluster-{old}", {}).items():
            assert np.array_equal(dense(after[f"cluster-{new}"][key]), dense(step))


def test_a_client_that_did_not_move_a_still_has_the_seeded_one() -> None:
    spec = paper()
    one = update(spec, WIDE, "a", 1)
    only_b = MaskedDelta({key: matrix for key, matrix in one.delta if key.part is Part.B})
    step = steps_of(Federation(spec, WIDE, 1, (replace(one, delta=only_b),)))["cluster-0"][KEY]
    start = WIDE.start_of(spec.seed, TensorKey(KEY.name, Part.A), 1).astype(np.float64)
    b = one.delta.tensors[TensorKey(KEY.name, Part.B)].values.astype(np.float64)
    assert_close(dense(step), 3.0 * b @ start.T)


def test_the_state_turns_dense_when_that_is_smaller_and_stays_the_sum_of_its_versions() -> None:
    spec = paper(server={"publish_rank": 8})
    state, total = initial_state(spec, 1), np.zeros((56, 40))
    forms = []
    for number in range(1, 6):
        before = value(state.state.scope("cluster-0"), KEY.name, (56, 40))
        state = fold(spec, WIDE, state, rounds_of(spec, 5, number)).state
        total += value(state.state.scope("cluster-0"), KEY.name, (56, 40)) - before
        forms.append(KEY in state.state.scope("cluster-0"))
    assert forms == [False, False, True, True, True]
    assert_close(value(state.state.scope("cluster-0"), KEY.name, (56, 40)), total, 1e-5)


def test_a_rank_that_would_not_pay_publishes_the_dense_product() -> None:
    spec = paper(server={"publish_rank": 30})
    published = fold(spec, WIDE, initial_state(spec, 1), rounds_of(spec, 20, 1))
    tensors = published.state.state.scope("cluster-0")
    assert tensors[KEY].shape == (56, 40)
    assert published.report.dropped_mass == 0.0
    assert not any(key.part in (Part.LEFT, Part.RIGHT) for key in tensors)


def test_memory_of_products_does_not_grow_with_the_number_of_clients() -> None:
    schema = replace(WIDE, slots=tuple(replace(slot, in_features=160, out_features=160, rank=8) for slot in WIDE.slots))
    spec = paper(2, wire={"down": "int8"}, adapter={"rank": 8, "alpha": 16.0})

    def updates(count: int) -> Iterator[ClientUpdate]:
        for i in range(count):
            yield update(spec, schema, f"c{i:04d}", i % 5, memberships=(0.4, 0.6), density=0.5)

    def peak(clients: int) -> int:
        return peak_of(lambda: fold(spec, schema, initial_state(spec, 2), updates(clients)))[1]

    few, many = peak(4 * BLOCK + 4), peak(24 * BLOCK + 4)
    assert many < 1.05 * few


def test_an_unknown_slot_is_refused() -> None:
    spec = paper()
    foreign = MaskedDelta({TensorKey("layer.9.key", Part.B): MaskedMatrix.full(np.zeros((4, 2), np.float32))})
    with pytest.raises(FedhftError, match=r"layer\.9\.key"):
        fold(spec, WIDE, initial_state(spec, 1), [ClientUpdate("a", 1.0, (1.0,), foreign)])
