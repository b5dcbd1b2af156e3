"""The trimmed mean: the paper's, weighted and masked, whatever the federation, the memory and the passes."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from folding import SCHEMA, Federation, assert_close, dense, federations, job, sent_keys, steps_of, update
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhft.adapter import SHARED, Float64, MaskedDelta, MaskedMatrix, Part, TensorKey, cluster_scope
from fedhft.aggregation import fold as folding
from fedhft.aggregation.fold import ClientUpdate, FoldRules, Steps, fold
from fedhft.aggregation.sums import RowStep
from fedhft.aggregation.trimming import MEMORY_BYTES, trimmed, trimmed_mean
from fedhft.aggregation.versions import initial_state
from fedhft.errors import ErrorCode, FedhftError

quick = settings(deadline=None, max_examples=40)
TRIMMED = {"combine": "trimmed-mean"}
SHAPES = [("fedhft", (1, 2, 3)), ("fedit", (1,)), ("full", (1,))]
HEAD = TensorKey("head.weight", Part.HEAD)


@dataclass
class Counted:
    """Updates that say how often they were read."""

    updates: tuple[ClientUpdate, ...]
    begun: int = 0
    spare: int = 0
    """By how much the stated length is too large."""

    def __iter__(self) -> Iterator[ClientUpdate]:
        self.begun += 1
        return iter(self.updates)

    def __len__(self) -> int:
        return len(self.updates) + self.spare


def rules_of(federation: Federation, **changes: Any) -> FoldRules:
    return replace(FoldRules.of(federation.spec, federation.schema, federation.clusters, 1), **changes)


def steps(federation: Federation, memory: int = MEMORY_BYTES, **changes: Any) -> Steps:
    return trimmed(federation.updates, rules_of(federation, **changes), memory).steps


def raw(of: Steps) -> dict[str, dict[TensorKey, tuple[bytes | None, bytes]]]:
    found: dict[str, dict[TensorKey, tuple[bytes | None, bytes]]] = {}
    for scope, held in of.items():
        for key, step in held.items():
            assert isinstance(step, RowStep)
            index = None if step.index is None else step.index.tobytes()
            found.setdefault(scope, {})[key] = (index, step.values.tobytes())
    return found


def slow_trimmed(values: list[float], weights: list[float], trim: float) -> float:
    """One coordinate as the equation of docs/methods.md says it: sort, walk, keep what lies between the cuts."""
    total, before, numerator, divisor = sum(weights), 0.0, 0.0, 0.0
    for value, weight in sorted(zip(values, weights, strict=True)):
        kept = min(before + weight, (1 - trim) * total) - max(before, trim * total)
        if kept > 1e-12 * total:
            numerator += kept * value
            divisor += kept
        before += weight
    return numerator / divisor


def slow_steps(federation: Federation, trim: float) -> dict[str, dict[TensorKey, Float64]]:
    """Every coordinate by itself; a row nobody sent is NaN."""
    found: dict[str, dict[TensorKey, Float64]] = {}
    spec = federation.spec
    for key in sent_keys(spec, federation.schema):
        shared = spec.method.share_a and key.part is Part.A
        held = [one for one in federation.updates if key in one.delta.tensors]
        for cluster in range(1 if shared else federation.clusters):
            weights = [one.samples * (1.0 if shared else one.memberships[cluster]) for one in held]
            rows, cols = federation.schema.shape(key)
            means = np.full((rows, cols), np.nan)
            for row in range(rows):
                sent = [i for i, one in enumerate(held) if row in one.delta.tensors[key].kept_rows and weights[i] > 0]
                if not sent:
                    continue
                own = [weights[i] for i in sent]
                damping = sum(own) / max(sum(own), spec.mask.tau * sum(weights))
                for col in range(cols):
                    values = [held[i].scale * float(held[i].delta.tensors[key].dense()[row, col]) for i in sent]
                    means[row, col] = damping * slow_trimmed(values, own, trim)
            if not np.isnan(means).all():
                found.setdefault(SHARED if shared else cluster_scope(cluster), {})[key] = means
    return found


@pytest.mark.parametrize(("preset", "clusters"), SHAPES)
@settings(deadline=None, max_examples=15)
@given(data=st.data(), trim=st.sampled_from([0.0, 0.1, 0.2, 1 / 3, 0.49]))
def test_it_is_the_equation_coordinate_by_coordinate(
    preset: str, clusters: tuple[int, ...], data: st.DataObject, trim: float
) -> None:
    federation = data.draw(
        federations(preset, clusters, tau=(0.0, 0.3, 1.0), method=TRIMMED, server={"trim": trim}, most=9)
    )
    scales = data.draw(st.lists(st.sampled_from([1.0, 0.3]), min_size=9, max_size=9))
    scaled = tuple(replace(one, scale=scale) for one, scale in zip(federation.updates, scales, strict=False))
    federation = replace(federation, updates=scaled)
    expected, actual = slow_steps(federation, trim), steps(federation)
    assert {scope: set(held) for scope, held in actual.items()} == {s: set(m) for s, m in expected.items()}
    for scope, means in expected.items():
        for key, mean in means.items():
            step = actual[scope][key]
            assert isinstance(step, RowStep)
            sent = ~np.isnan(mean[:, 0])
            assert np.array_equal(np.arange(step.rows) if step.index is None else step.index, np.flatnonzero(sent))
            assert_close(step.values, mean[sent])


@quick
@given(data=st.data(), count=st.integers(1, 12), weight=st.sampled_from([1.0, 7.0, 0.3]))
def test_of_equal_weights_it_leaves_out_the_smallest_and_the_largest_as_in_the_paper(
    data: st.DataObject, count: int, weight: float
) -> None:
    cut = data.draw(st.integers(0, (count - 1) // 2))
    values = np.array(data.draw(st.lists(st.floats(-5, 5), min_size=count, max_size=count)))
    ordered = np.sort(values)
    mean = trimmed_mean(ordered[:, None], np.full((count, 1), weight), cut / count)
    assert_close(mean, np.array([ordered[cut : count - cut].mean()]), 1e-9)


@pytest.mark.parametrize(("preset", "clusters"), SHAPES)
@quick
@given(data=st.data())
def test_with_nothing_to_trim_it_is_the_mean(preset: str, clusters: tuple[int, ...], data: st.DataObject) -> None:
    federation = data.draw(federations(preset, clusters, tau=(0.0, 0.3, 1.0)))
    plain = steps_of(federation)
    actual = trimmed(federation.updates, rules_of(federation, trim=0.0), MEMORY_BYTES)
    assert actual.clients == len(federation.updates)
    assert {scope: set(held) for scope, held in actual.steps.items()} == {s: set(m) for s, m in plain.items()}
    for scope, held in plain.items():
        for key, step in held.items():
            assert_close(dense(actual.steps[scope][key]), dense(step))


@pytest.mark.parametrize(("preset", "clusters"), SHAPES)
@quick
@given(data=st.data(), bytes_each=st.sampled_from([1, 37, 200, 1000, 10_000]))
def test_memory_and_passes_do_not_change_a_bit(
    preset: str, clusters: tuple[int, ...], data: st.DataObject, bytes_each: int
) -> None:
    federation = data.draw(federations(preset, clusters, tau=(0.0, 0.3), method=TRIMMED))
    less = trimmed(federation.updates, rules_of(federation), bytes_each * len(federation.updates))
    assert raw(less.steps) == raw(steps(federation))


def test_there_are_as_many_passes_as_the_memory_asks_for_and_none_for_tensors_that_nobody_sent() -> None:
    spec = job("fedit", 1, method=TRIMMED)
    updates = tuple(update(spec, SCHEMA, f"c{i}", i) for i in range(4))
    rules = rules_of(Federation(spec, SCHEMA, 1, updates))
    # Three quarters of 540 bytes hold 20 coordinates of 4 clients at 5 bytes each; there are 2 * 45 + 36 + 3.
    for memory, passes in ((540, 7), (540 * 7, 1), (1, 129)):
        counted = Counted(updates)
        trimmed(counted, rules, memory)
        assert counted.begun == passes
    stated = Counted(updates, spare=4)
    trimmed(stated, rules, 540)
    assert stated.begun == 7  # 10 coordinates in the first pass; then it is known that there are 4 clients
    heads = Counted(tuple(replace(one, delta=MaskedDelta({HEAD: one.delta.tensors[HEAD]})) for one in updates))
    trimmed(heads, rules, 540)
    assert heads.begun == 3  # the first finds out, two hold the 36 coordinates


@quick
@given(federation=federations(method=TRIMMED, wire={"down": "int8"}), data=st.data())
def test_published_bytes_do_not_depend_on_arrival_order_or_on_a_length_that_is_too_large(
    federation: Federation, data: st.DataObject
) -> None:
    start = initial_state(federation.spec, federation.clusters)
    arrivals = data.draw(st.permutations(federation.updates))
    first = fold(federation.spec, SCHEMA, start, federation.updates)
    ordered = Counted(tuple(sorted(arrivals, key=lambda one: one.client)), spare=data.draw(st.integers(0, 3)))
    second = fold(federation.spec, SCHEMA, start, ordered)
    assert first.blobs == second.blobs
    assert first.report == second.report


@quick
@given(data=st.data(), clients=st.integers(3, 12), trim=st.sampled_from([0.1, 0.2, 0.34, 0.49]))
def test_whoever_weighs_at_most_what_is_cut_moves_nothing_beyond_the_others_values(
    data: st.DataObject, clients: int, trim: float
) -> None:
    weights = data.draw(st.lists(st.integers(1, 50), min_size=clients, max_size=clients))
    order = data.draw(st.permutations(range(clients)))
    hostile: set[int] = set()
    for index in order:
        if sum(weights[i] for i in {*hostile, index}) <= trim * sum(weights):
            hostile.add(index)
    spec = job("fedhft", 1, method=TRIMMED, server={"trim": trim})
    updates = []
    for index in range(clients):
        one = update(spec, SCHEMA, f"c{index:02d}", data.draw(st.integers(0, 2**32)), samples=float(weights[index]))
        if index in hostile:
            far = data.draw(st.sampled_from([-1e6, 1e6, 1e3]))
            one = replace(
                one, delta=MaskedDelta({k: replace(m, values=m.values * np.float32(far)) for k, m in one.delta})
            )
        updates.append(one)
    found = steps(Federation(spec, SCHEMA, 1, tuple(updates)))
    for key in sent_keys(spec, SCHEMA):
        honest = np.stack([one.delta.tensors[key].values for i, one in enumerate(updates) if i not in hostile])
        step = dense(found[SHARED if key.part is Part.A else cluster_scope(0)][key])
        assert (step >= honest.min(axis=0) - 1e-6).all()
        assert (step <= honest.max(axis=0) + 1e-6).all()


def test_a_client_on_the_boundary_is_cut_in_part() -> None:
    # Weights 1, 2 and 5; a quarter of 8 is 2: the first goes, of the second 1 stays, of the third 3.
    mean = trimmed_mean(np.array([[0.0], [10.0], [20.0]]), np.array([[1.0], [2.0], [5.0]]), 0.25)
    assert mean == pytest.approx((1 * 10 + 3 * 20) / 4)


def test_one_client_in_five_is_cut_whole_although_a_fifth_has_no_exact_float() -> None:
    for weight in (0.1, 0.3, 0.7, 1.1, 1 / 3, 10.0):
        mean = trimmed_mean(np.array([[1.0]] * 4 + [[1e300]]), np.full((5, 1), weight), 0.2)
        assert mean == pytest.approx(1.0, rel=1e-12)


def test_a_client_without_weight_is_as_if_it_were_not_there() -> None:
    spec = job("fedhft", 1, method=TRIMMED)
    some = tuple(update(spec, SCHEMA, f"c{i}", i, density=0.5) for i in range(4))
    silent = update(spec, SCHEMA, "c9", 9, samples=0.0)
    assert raw(steps(Federation(spec, SCHEMA, 1, some))) == raw(steps(Federation(spec, SCHEMA, 1, (*some, silent))))


def test_only_those_who_sent_a_row_are_there_to_trim_it() -> None:
    # What docs/methods.md warns of: alone in a row, a client is not trimmed; among others in the next row, it is.
    spec = job("fedit", 1, method=TRIMMED)
    key = TensorKey("layer.0.query", Part.B)

    def sent(client: str, rows: list[int], value: float) -> ClientUpdate:
        values = np.full((len(rows), 2), value, np.float32)
        matrix = MaskedMatrix(10, 2, np.array(rows, np.int32), values)
        return ClientUpdate(client, 1.0, (1.0,), MaskedDelta({key: matrix}))

    updates = (*(sent(f"c{i}", [3], 1.0) for i in range(4)), sent("z", [3, 4], 100.0))
    step = steps(Federation(spec, SCHEMA, 1, updates))["cluster-0"][key]
    assert dense(step)[2:5].tolist() == [[0, 0], [1, 1], [100, 100]]


@dataclass
class Changing(Counted):
    """Other updates from the second pass on."""

    later: tuple[ClientUpdate, ...] = field(default=())

    def __iter__(self) -> Iterator[ClientUpdate]:
        self.begun += 1
        return iter(self.updates if self.begun == 1 else self.later)


def test_a_source_that_changes_between_passes_or_can_be_read_once_only_is_refused() -> None:
    spec = job("fedhft", 1, method=TRIMMED)
    updates = tuple(update(spec, SCHEMA, f"c{i}", i) for i in range(3))
    rules = rules_of(Federation(spec, SCHEMA, 1, updates))
    others = tuple(update(spec, SCHEMA, f"d{i}", i) for i in range(3))
    for later in (updates[:2], others, (*updates, *others)):
        with pytest.raises(FedhftError) as caught:
            trimmed(Changing(updates, later=later), rules, 100)
        assert caught.value.code is ErrorCode.INVALID_ARGUMENT
    start = initial_state(spec, 1)
    with pytest.raises(FedhftError, match="once only"):
        fold(spec, SCHEMA, start, iter(updates))
    with pytest.raises(FedhftError, match="sorted by client id"):
        fold(spec, SCHEMA, start, updates[::-1])
    assert fold(spec, SCHEMA, start, ()).blobs == {}


def test_many_clients_take_no_more_memory_than_a_pass_may(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = 2 << 20
    monkeypatch.setattr(folding, "MEMORY_BYTES", memory)
    spec = job("fedhft", 3, method=TRIMMED)
    matrix = MaskedMatrix.full(np.ones(SCHEMA.shape(HEAD), np.float32))

    class Many:
        def __iter__(self) -> Iterator[ClientUpdate]:
            for i in range(4000):
                values = replace(matrix, values=matrix.values * np.float32(i % 7))
                yield ClientUpdate(f"c{i:05d}", 1.0, (0.2, 0.3, 0.5), MaskedDelta({HEAD: values}))

        def __len__(self) -> int:
            return 4000

    tracemalloc.start()
    try:
        published = fold(spec, SCHEMA, initial_state(spec, 3), Many())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert published.report.clients == 4000
    assert 0.5 * memory < peak < memory + 4000 * 200  # names, weights and memberships of the clients
