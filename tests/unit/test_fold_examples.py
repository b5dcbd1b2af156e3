"""The fold by example: steps, damping, refusals, and what many clients cost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from folding import SCHEMA, Federation, assert_close, dense, job, steps_of, update

from fedhft.adapter import SHARED, AdapterSchema, MaskedDelta, MaskedMatrix, Parameter, Part, Slot, TensorKey
from fedhft.aggregation.fold import BLOCK, ClientUpdate, fold
from fedhft.aggregation.versions import initial_state
from fedhft.errors import ErrorCode, FedhftError
from tests.unit.memory import peak_of


def test_the_plain_step_keeps_no_momentum() -> None:
    spec = job("fedit", 1, server={"momentum": 0.9})
    assert not fold(spec, SCHEMA, initial_state(spec, 1), [update(spec, SCHEMA, "a", 1)]).state.momentum


def test_tau_damps_rows_that_few_clients_sent() -> None:
    spec = job("fedit", 1, mask={"tau": 0.5})
    key = TensorKey("layer.1.value", Part.B)
    ones = np.ones((14, 2), np.float32)

    def sends(client: str, *rows: int) -> ClientUpdate:
        matrix = MaskedMatrix.of(ones, np.array(rows, np.int32))
        return ClientUpdate(client, 1.0, (1.0,), MaskedDelta({key: matrix}))

    steps = steps_of(Federation(spec, SCHEMA, 1, (sends("a", 0, 1), sends("b", 1), sends("c", 1), sends("d", 1, 2))))
    step = steps["cluster-0"][key]
    # Row 1 is everybody's; rows 0 and 2 have one client of four, and the divisor is at least two.
    assert dense(step)[:4, 0].tolist() == [0.5, 1.0, 0.5, 0.0]


def test_a_layer_is_averaged_over_the_clients_that_hold_it() -> None:
    spec = job("fedit", 1, mask={"tau": 1.0})
    deep, shallow = update(spec, SCHEMA, "a", 1, depth=2), update(spec, SCHEMA, "b", 2, depth=1)
    steps = steps_of(Federation(spec, SCHEMA, 1, (deep, shallow)))["cluster-0"]
    only = TensorKey("layer.0.query", Part.B)
    assert_close(dense(steps[only]), deep.delta.tensors[only].values.astype(np.float64))


def test_the_shared_factor_weighs_samples_alone() -> None:
    spec = job("fedhft", 2)
    a = update(spec, SCHEMA, "a", 1, samples=3.0, memberships=(1.0, 0.0))
    b = update(spec, SCHEMA, "b", 2, samples=1.0, memberships=(0.0, 1.0))
    steps = steps_of(Federation(spec, SCHEMA, 2, (a, b)))
    key_a, key_b = TensorKey("layer.1.value", Part.A), TensorKey("layer.1.value", Part.B)
    values = [one.delta.tensors[key_a].values.astype(np.float64) for one in (a, b)]
    assert_close(dense(steps[SHARED][key_a]), (3 * values[0] + values[1]) / 4)
    assert_close(dense(steps["cluster-0"][key_b]), a.delta.tensors[key_b].values.astype(np.float64))
    assert_close(dense(steps["cluster-1"][key_b]), b.delta.tensors[key_b].values.astype(np.float64))


def test_a_method_that_shares_nothing_publishes_nothing() -> None:
    spec = job("local", 1)
    nothing = ClientUpdate("a", 5.0, (1.0,), MaskedDelta({}))
    published = fold(spec, SCHEMA, initial_state(spec, 1), [nothing])
    assert not published.blobs
    assert published.state.state.version == 1
    assert not published.state.state.scopes
    with pytest.raises(FedhftError) as refusal:
        fold(spec, SCHEMA, initial_state(spec, 1), [update(job("fedit", 1), SCHEMA, "a", 1)])
    assert refusal.value.code is ErrorCode.OUTSIDE_PLAN


def test_a_round_without_updates_only_counts_the_version() -> None:
    spec = job("fedhft", 2)
    published = fold(spec, SCHEMA, initial_state(spec, 2), [])
    assert not published.blobs
    assert published.state.state.version == 1
    assert published.report.mass == (0.0, 0.0)


def test_the_report_says_what_was_published_and_what_waits() -> None:
    spec = job("fedhft", 2, wire={"down": "int8", "levels": 127})
    updates = [update(spec, SCHEMA, f"c{i}", i, samples=2.0, memberships=(0.25, 0.75)) for i in range(3)]
    published = fold(spec, SCHEMA, initial_state(spec, 2), updates)
    state, report = published.state, published.report
    scopes = [state.state.scope(name) for name in state.state.scope_names]
    assert report.published_norm == pytest.approx(
        np.sqrt(sum(float(np.square(v, dtype=np.float64).sum()) for held in scopes for v in held.values()))
    )
    residuals = [value for held in state.residual.values() for value in held.values()]
    assert report.residual_norm == pytest.approx(
        np.sqrt(sum(float(np.square(v, dtype=np.float64).sum()) for v in residuals))
    )
    assert 0 < report.residual_norm < 0.02 * report.published_norm
    assert report.mass == (1.5, 4.5)
    assert report.clients == 3


@pytest.mark.parametrize(
    ("samples", "memberships"),
    [(-1.0, (0.5, 0.5)), (float("nan"), (0.5, 0.5)), (1.0, (1.0,)), (1.0, (-0.5, 1.5)), (1.0, (float("inf"), 0.0))],
)
def test_weights_that_are_negative_or_not_finite_are_refused(samples: float, memberships: tuple[float, ...]) -> None:
    spec = job("fedhft", 2)
    one = replace(update(spec, SCHEMA, "a", 1), samples=samples, memberships=memberships)
    with pytest.raises(FedhftError, match="weights of a") as refusal:
        fold(spec, SCHEMA, initial_state(spec, 2), [one])
    assert refusal.value.code is ErrorCode.INVALID_ARGUMENT


def test_tensors_the_method_does_not_send_are_refused() -> None:
    spec = job("fedit", 1)
    key = TensorKey("layer.1.value", Part.PRODUCT)
    foreign = MaskedDelta({key: MaskedMatrix.full(np.zeros((14, 9), np.float32))})
    with pytest.raises(FedhftError) as refusal:
        fold(spec, SCHEMA, initial_state(spec, 1), [ClientUpdate("a", 1.0, (1.0,), foreign)])
    assert refusal.value.code is ErrorCode.OUTSIDE_PLAN
    small = MaskedDelta({TensorKey("layer.1.value", Part.B): MaskedMatrix.full(np.zeros((14, 1), np.float32))})
    with pytest.raises(FedhftError) as refusal:
        fold(spec, SCHEMA, initial_state(spec, 1), [ClientUpdate("a", 1.0, (1.0,), small)])
    assert refusal.value.code is ErrorCode.WRONG_SHAPE


LIGHT = AdapterSchema(
    base_digest="00" * 32,
    tokenizer_digest="11" * 32,
    architecture="light",
    labels=("no", "yes"),
    layers=6,
    slots=tuple(Slot(f"layer.{i // 2}.{'qv'[i % 2]}", i // 2, 384, 384, 8) for i in range(12)),
    head=(Parameter("head.weight", (2, 384)), Parameter("head.bias", (2,))),
)
"""The adapter of a small encoder: 75 k values, 300 KB in float32."""


def light_updates(count: int) -> Iterator[ClientUpdate]:
    spec = job("fedhft", 3)
    for index in range(count):
        yield update(
            spec, LIGHT, f"c{index:04d}", index % 7, samples=5.0, memberships=(0.2, 0.3, 0.5), density=0.5, depth=6
        )


def test_memory_does_not_grow_with_the_number_of_clients() -> None:
    spec = job("fedhft", 3, wire={"down": "int8"})

    def peak(clients: int) -> int:
        return peak_of(lambda: fold(spec, LIGHT, initial_state(spec, 3), light_updates(clients)))[1]

    few, many = peak(BLOCK + 4), peak(8 * BLOCK + 4)
    assert many < 1.05 * few


def test_folding_a_client_takes_milliseconds() -> None:
    spec = job("fedhft", 3, wire={"down": "int8"})
    clients = list(light_updates(32))
    start = time.process_time()
    fold(spec, LIGHT, initial_state(spec, 3), clients[:16])
    publishing = time.process_time() - start
    start = time.process_time()
    fold(spec, LIGHT, initial_state(spec, 3), clients)
    per_client = (time.process_time() - start - publishing) / 16
    assert per_client < 0.02  # about 2 ms on one core of a laptop
