"""HetLoRA, FlexLoRA, FLoRA and FedSA-LoRA: what is published is the paper's equation, whatever ranks clients have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from folding import assert_close, job, update
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhft.adapter import (
    AdapterSchema,
    AdapterState,
    Float32,
    Float64,
    MaskedDelta,
    MaskedMatrix,
    Parameter,
    Part,
    Slot,
    TensorKey,
    cluster_scope,
)
from fedhft.aggregation.fold import BLOCK, ClientUpdate, fold
from fedhft.aggregation.lowrank import Product
from fedhft.aggregation.versions import ServerState, initial_state
from fedhft.errors import ErrorCode, FedhftError
from fedhft.job import JobSpec

quick = settings(deadline=None, max_examples=30)
RANK = 4
SCHEMA = AdapterSchema(
    base_digest="00" * 32,
    tokenizer_digest="11" * 32,
    architecture="ranked",
    labels=("no", "yes", "maybe"),
    layers=2,
    slots=(Slot("layer.0.query", 0, 30, 26, RANK), Slot("layer.1.value", 1, 24, 36, RANK)),
    head=(Parameter("head.weight", (3, 12)),),
)
ADAPTER = {"rank": RANK, "alpha": 6.0}
SCALE = 6.0 / RANK
HEAD = TensorKey("head.weight", Part.HEAD)


def spec_of(preset: str, **sections: Any) -> JobSpec:
    return job(preset, adapter=ADAPTER, wire={}, **sections)


@dataclass(frozen=True)
class Round:
    """A round of a job: what it began with, and the updates."""

    spec: JobSpec
    before: ServerState
    updates: tuple[ClientUpdate, ...]

    def began(self, key: TensorKey) -> Float32:
        """A factor as the round began with it, all columns."""
        start = SCHEMA.start_of(self.spec.seed, key)
        moved = self.before.state.scope(cluster_scope(0)).get(key)
        return start if moved is None else start + moved

    def factors(self, one: ClientUpdate, slot: str) -> tuple[Float64, Float64] | None:
        """A (in x k) and B (out x k) of a client after training; None below its depth."""
        found = []
        for part in (Part.A, Part.B):
            key = TensorKey(slot, part)
            if key not in one.delta.tensors:
                return None
            moved = one.delta.tensors[key].dense().astype(np.float64)
            found.append(self.began(key)[:, : moved.shape[1]].astype(np.float64) + one.scale * moved)
        return found[0], found[1]

    def after(self) -> dict[TensorKey, Float32]:
        """What clients hold after the round, as values."""
        state = fold(self.spec, SCHEMA, self.before, self.updates).state.state
        return {key: SCHEMA.start_of(self.spec.seed, key) + moved for key, moved in state.scope("cluster-0").items()}


@st.composite
def rounds(draw: st.DrawFn, preset: str, most: int = 2 * BLOCK + 3, depths: Sequence[int] = (1, 2)) -> Round:
    """Rounds from the job's start or from some state, of clients of any ranks, samples and depths, some scaled down."""
    spec = spec_of(preset)
    before = initial_state(spec, 1)
    if draw(st.booleans()):
        rng = np.random.default_rng(draw(st.integers(0, 2**32)))
        tensors = {
            TensorKey(slot.name, part): rng.standard_normal(SCHEMA.shape(TensorKey(slot.name, part))).astype(np.float32)
            for slot in SCHEMA.slots
            for part in (Part.A, Part.B)
        }
        before = ServerState(AdapterState(3, 1, {cluster_scope(0): tensors}))
    updates = tuple(
        update(
            spec,
            SCHEMA,
            f"client-{index:03d}",
            draw(st.integers(0, 2**32)),
            samples=float(draw(st.integers(1, 40))),
            depth=draw(st.sampled_from(list(depths))),
            rank=draw(st.integers(1, RANK)),
            scale=draw(st.sampled_from([1.0, 0.4])),
        )
        for index in range(draw(st.integers(1, most)))
    )
    return Round(spec, before, updates)


def weighted(values: Sequence[Float64], weights: Sequence[float]) -> Float64:
    total: Float64 = sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)  # type: ignore[assignment]
    return total


def with_zeros(factor: Float64) -> Float64:
    return np.hstack([factor, np.zeros((len(factor), RANK - factor.shape[1]))])


@quick
@given(one=rounds("hetlora"))
def test_hetlora_pads_with_zeros_and_weighs_by_the_norm_of_the_product(one: Round) -> None:
    after = one.after()
    for slot in SCHEMA.slots:
        held = [pair for client in one.updates if (pair := one.factors(client, slot.name)) is not None]
        if not held:
            assert TensorKey(slot.name, Part.A) not in after or one.before.state.version
            continue
        norms = [float(np.linalg.norm(b @ a.T)) for a, b in held]
        for place, part in enumerate((Part.A, Part.B)):
            expected = weighted([with_zeros(pair[place]) for pair in held], norms)
            assert_close(after[TensorKey(slot.name, part)].astype(np.float64), expected, 2e-5)
    heads = [client.scale * client.delta.tensors[HEAD].dense().astype(np.float64) for client in one.updates]
    expected = weighted(heads, [client.samples for client in one.updates])
    assert_close(after[HEAD] - SCHEMA.start_of(one.spec.seed, HEAD).astype(np.float64), expected, 2e-5)


@quick
@given(seed=st.integers(0, 2**32), clients=st.integers(1, 5))
def test_hetlora_of_clients_that_all_moved_alike_is_where_they_are(seed: int, clients: int) -> None:
    spec = spec_of("hetlora")
    updates = tuple(update(spec, SCHEMA, f"c{index}", seed, samples=index + 1.0) for index in range(clients))
    one = Round(spec, initial_state(spec, 1), updates)
    after = one.after()
    for slot in SCHEMA.slots:
        pair = one.factors(updates[0], slot.name)
        assert pair is not None
        for factor, part in zip(pair, (Part.A, Part.B), strict=True):
            assert_close(after[TensorKey(slot.name, part)].astype(np.float64), factor, 1e-6)


def test_hetlora_columns_that_nobody_holds_become_zero() -> None:
    spec = spec_of("hetlora")
    after = Round(spec, initial_state(spec, 1), (update(spec, SCHEMA, "c0", 3, rank=1),)).after()
    for slot in SCHEMA.slots:
        a = after[TensorKey(slot.name, Part.A)]
        assert np.abs(a[:, 0]).min() > 0
        assert not a[:, 1:].any()


@quick
@given(one=rounds("flexlora"))
def test_flexlora_is_the_best_approximation_of_the_mean_product_at_every_rank(one: Round) -> None:
    after = one.after()
    for slot in SCHEMA.slots:
        held = [
            (pair, client.samples) for client in one.updates if (pair := one.factors(client, slot.name)) is not None
        ]
        if not held:
            continue
        mean = weighted([b @ a.T for (a, b), _ in held], [samples for _, samples in held])
        u, sizes, vt = np.linalg.svd(mean)
        a, b = (after[TensorKey(slot.name, part)].astype(np.float64) for part in (Part.A, Part.B))
        for k in range(1, RANK + 1):
            best = (u[:, :k] * sizes[:k]) @ vt[:k]
            found = b[:, :k] @ a[:, :k].T
            # Equal singular values have no order: the error is the smallest there is, all the same.
            least = float(np.linalg.norm(mean - best))
            assert np.linalg.norm(mean - found) <= least + 2e-5 * sizes[0]
        content = int((sizes[:RANK] > 1e-6 * sizes[0]).sum())
        assert_close(a[:, :content].T @ a[:, :content], np.eye(content), 1e-5)
        assert_close(np.linalg.norm(b, axis=0)[:content], sizes[:content], 2e-5)


def test_flexlora_leaves_columns_without_content_able_to_learn() -> None:
    spec = spec_of("flexlora")
    one = Round(spec, initial_state(spec, 1), (update(spec, SCHEMA, "c0", 5, rank=2),))
    after = one.after()
    for slot in SCHEMA.slots:
        a, b = (after[TensorKey(slot.name, part)] for part in (Part.A, Part.B))
        np.testing.assert_allclose(a[:, 2:], one.began(TensorKey(slot.name, Part.A))[:, 2:], rtol=1e-6)
        assert not b[:, 2:].any()
        pair = one.factors(one.updates[0], slot.name)
        assert pair is not None
        assert_close((b @ a.T).astype(np.float64), pair[1] @ pair[0].T, 1e-5)


def test_flexlora_rows_that_a_client_does_not_send_are_where_they_were() -> None:
    spec = spec_of("flexlora")
    key = TensorKey(SCHEMA.slots[0].name, Part.B)
    whole, other = update(spec, SCHEMA, "c0", 1), update(spec, SCHEMA, "c1", 2)
    few = np.arange(5, dtype=np.int32)
    b = other.delta.tensors[key].dense()
    silent = np.zeros_like(b)
    silent[few] = b[few]

    def after(matrix: MaskedMatrix) -> dict[TensorKey, Float32]:
        sent = replace(other, delta=MaskedDelta({**other.delta.tensors, key: matrix}))
        return Round(spec, initial_state(spec, 1), (whole, sent)).after()

    first, second = after(MaskedMatrix.of(b, few)), after(MaskedMatrix.full(silent))
    assert all(np.array_equal(first[key], second[key]) for key in second)


@quick
@given(one=rounds("flora", most=6))
def test_flora_publishes_the_exact_sum_of_products_of_unequal_ranks(one: Round) -> None:
    one = replace(one, before=initial_state(one.spec, 1))
    published = fold(one.spec, SCHEMA, one.before, one.updates)
    held = published.state.state.scope("cluster-0")
    for slot in SCHEMA.slots:
        products, weights = [], []
        for client in one.updates:
            a_key, b_key = TensorKey(slot.name, Part.A), TensorKey(slot.name, Part.B)
            if b_key in client.delta.tensors:
                b = client.scale * client.delta.tensors[b_key].dense().astype(np.float64)
                a = SCHEMA.start_of(one.spec.seed, a_key, 1)[:, : b.shape[1]].astype(np.float64)
                a = a + client.scale * client.delta.tensors[a_key].dense()
                products.append(SCALE * b @ a.T)
                weights.append(client.samples)
        if products:
            found = Product.held(held, slot.name, slot.out_features, slot.in_features)
            assert_close(found.value(), weighted(products, weights), 2e-6)
    assert published.report.dropped_mass < 1e-12


def test_flora_keeps_what_a_bounded_rank_cuts_off() -> None:
    updates = {
        rank: tuple(update(spec_of("flora"), SCHEMA, f"c{index}", index, rank=rank) for index in range(3))
        for rank in (1, 4)
    }
    columns = {}
    for bound in (0, 2):
        spec = spec_of("flora", server={"publish_rank": bound})
        published = fold(spec, SCHEMA, initial_state(spec, 1), updates[1])
        left = published.state.state.scope("cluster-0")[TensorKey(SCHEMA.slots[0].name, Part.LEFT)]
        columns[bound] = left.shape[1]
        assert (published.report.dropped_mass > 1e-3) is bool(bound)
    assert columns == {0: 3, 2: 2}


@quick
@given(seeds=st.lists(st.integers(0, 2**32), min_size=1, max_size=20), data=st.data())
def test_fedsa_lora_averages_a_by_samples_and_nothing_else(seeds: list[int], data: st.DataObject) -> None:
    spec = spec_of("fedsa-lora")
    samples = [float(data.draw(st.integers(1, 40))) for _ in seeds]
    updates = [
        update(spec, SCHEMA, f"c{index:03d}", seed, samples=weight)
        for index, (seed, weight) in enumerate(zip(seeds, samples, strict=True))
    ]
    after = fold(spec, SCHEMA, initial_state(spec, 1), updates).state.state.scope("cluster-0")
    assert {key.part for key in after} == {Part.A}
    for key, moved in after.items():
        expected = weighted([one.delta.tensors[key].dense().astype(np.float64) for one in updates], samples)
        assert_close(moved.astype(np.float64), expected, 1e-6)


def test_a_fedsa_lora_update_with_b_is_refused() -> None:
    spec = spec_of("fedsa-lora")
    with pytest.raises(FedhftError, match=r"b:layer.0.query does not travel with combine = only-a") as refused:
        fold(spec, SCHEMA, initial_state(spec, 1), [update(spec_of("fedit"), SCHEMA, "c0", 1)])
    assert refused.value.code is ErrorCode.OUTSIDE_PLAN


@pytest.mark.parametrize("preset", ["hetlora", "flexlora", "flora"])
def test_factors_with_unequal_columns_are_refused(preset: str) -> None:
    spec = spec_of(preset)
    key = TensorKey("layer.1.value", Part.B)
    sent = update(spec, SCHEMA, "c0", 1, rank=3)
    short = MaskedMatrix.full(sent.delta.tensors[key].values[:, :2])
    odd = replace(sent, delta=MaskedDelta({**sent.delta.tensors, key: short}))
    with pytest.raises(FedhftError, match=r"layer.1.value has \d columns, the other factor \d") as refused:
        fold(spec, SCHEMA, initial_state(spec, 1), [odd])
    assert refused.value.code is ErrorCode.WRONG_SHAPE


def test_methods_of_equal_ranks_refuse_fewer_columns() -> None:
    spec = spec_of("fedit")
    with pytest.raises(FedhftError, match=r"is 30 x 2, the job has \(30, 4\)"):
        fold(spec, SCHEMA, initial_state(spec, 1), [update(spec, SCHEMA, "c0", 1, rank=2)])
