"""HetLoRA's rank self-pruning: the penalty, who gives up columns, and what the server then takes."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhft.adapter import AdapterState, Float32, MaskedDelta, Part, TensorKey
from fedhft.errors import FedhftError
from fedhft.job import JobSpec, load_canonical
from fedhft.plan import AdapterPlan
from fedhft.rounds.acceptance import check_update
from fedhft.simulation.run import Simulation
from fedhft.training.base import load_base
from fedhft.training.lora.attached import layer_of
from fedhft.training.network import Network
from fedhft.training.pruning import TailPenalty, kept_columns, tail_norm
from fedhft.training.state import Draft, WorkerState
from fedhft.training.worker import ClientWorker
from fedhft.v1 import adapter_pb2
from fedhft.wire.codec import decode
from tests.models import tiny_model
from tests.workers import data_of, job_for, plan, train_task, worker_for

PULLED = {"rank_decay": 0.5, "rank_penalty": 30.0, "epochs": 2.0}


def job(path: Path, **training: Any) -> JobSpec:
    return job_for(path, method="hetlora", training={"learning_rate": 0.02, **training})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("pruning"), layers=2)


@pytest.fixture(scope="module")
def network(model: Path) -> Network:
    spec = job(model)
    return Network.on(load_base(spec), spec)


def drawn(network: Network, seed: int, tail: float = 1.0) -> dict[TensorKey, Float32]:
    """Random factors, their last two columns times `tail`."""
    rng = np.random.default_rng(seed)
    found = {}
    for slot in network.schema.slots:
        for key in (TensorKey(slot.name, Part.A), TensorKey(slot.name, Part.B)):
            values = rng.standard_normal(network.schema.shape(key))
            values[:, 2:] *= tail
            if key.part is Part.A:  # a difference from the start
                values -= network.schema.start_of(11, key)
            found[key] = values.astype(np.float32)
    return found


def columns(worker: ClientWorker, draft: Draft) -> set[int]:
    return {matrix.cols for key, matrix in decoded(worker, draft) if key.part in (Part.A, Part.B)}


def given_to(network: Network, rank: int = 0) -> AdapterPlan:
    """A plan of all layers and so many columns."""
    message = plan()
    message.rank = rank
    return replace(AdapterPlan.of(message), depth=network.schema.layers)


@settings(deadline=None, max_examples=15)
@given(
    seed=st.integers(0, 2**32),
    weight=st.floats(0.1, 10.0),
    decay=st.floats(0.1, 0.99),
    rank=st.sampled_from([0, 3, 1]),
)
def test_the_penalty_s_gradient_is_that_of_the_paper_s_term(
    network: Network, seed: int, weight: float, decay: float, rank: int
) -> None:
    # d/dA lambda |A| |B| = lambda |B| A / |A| in the last columns, 0 in the others
    network.load(drawn(network, seed), 2, 1, rank)
    planned = given_to(network, rank)
    rules = job(Path("m"), rank_decay=decay, rank_penalty=weight).training
    kept = kept_columns(rules, network.schema, planned)
    with network.trainable(planned, {}, None):
        TailPenalty(network, planned, rules).add_gradients()
        for slot in network.slots():
            layer = layer_of(network.model, slot)
            a, b = layer.lora_A.weight, layer.lora_B.weight.T
            if kept >= len(a):
                assert layer.lora_A.weight.grad is None
                assert layer.lora_B.weight.grad is None
                continue
            assert layer.lora_A.weight.grad is not None
            assert layer.lora_B.weight.grad is not None
            found_a, found_b = layer.lora_A.weight.grad, layer.lora_B.weight.grad.T
            for found, own, other in ((found_a, a.detach(), b.detach()), (found_b, b.detach(), a.detach())):
                expected = weight * other[kept:].norm() * own[kept:] / own[kept:].norm()
                torch.testing.assert_close(found[kept:], expected, rtol=1e-4, atol=1e-6)
                assert not found[:kept].any()


def test_the_penalty_of_a_round_that_begins_with_b_at_zero_is_finite(network: Network) -> None:
    network.load({}, 2, 1)
    planned = given_to(network)
    with network.trainable(planned, {}, None) as parameters:
        TailPenalty(network, planned, job(Path("m"), **PULLED).training).add_gradients()
        assert all(torch.isfinite(one.grad).all() for one in parameters if one.grad is not None)


def test_columns_kept_are_a_share_of_the_plan_s(network: Network) -> None:
    def kept(decay: float, rank: int) -> int:
        return kept_columns(job(Path("m"), rank_decay=decay).training, network.schema, given_to(network, rank))

    assert [kept(decay, 0) for decay in (1.0, 0.99, 0.75, 0.5, 0.1)] == [0, 3, 3, 2, 1]
    assert [kept(0.5, rank) for rank in (1, 2, 3, 4, 9)] == [1, 1, 1, 2, 2]


def test_a_client_gives_columns_up_where_their_norm_fell_and_stays_there(model: Path, tmp_path: Path) -> None:
    spec = job(model, **PULLED)
    base = load_base(spec)
    worker = worker_for(spec, tmp_path / "state", base)
    first = worker.train(train_task(1, learning_rate=0.02))
    assert columns(worker, first) == {4}  # B began at zero: the norm of the last columns cannot fall
    worker.commit(first)
    state = drawn(worker._network, 3)
    worker._state = with_adapters(worker, state)
    network = worker._network
    network.load(state, 2, 2)
    before = tail_norm(network, 2)
    second = worker.train(train_task(2, version=1, learning_rate=0.02))
    assert tail_norm(network, 2) < before
    assert columns(worker, second) == {2}
    worker.commit(second)
    assert worker_for(spec, tmp_path / "state", base).plan(plan()).rank == 2
    check_update(spec, worker.schema, worker.plan(plan()), decoded(worker, second))
    third = worker.train(train_task(3, version=1, learning_rate=0.02))
    assert columns(worker, third) <= {1, 2}


def test_without_a_decay_nothing_is_given_up(model: Path) -> None:
    spec = job(model, epochs=2.0)
    worker = worker_for(spec)
    worker._state = with_adapters(worker, drawn(worker._network, 3, tail=0.01))
    draft = worker.train(train_task(2, version=1, learning_rate=0.02))
    assert columns(worker, draft) == {4}
    assert draft.after.rank == 0


def with_adapters(worker: ClientWorker, tensors: dict[TensorKey, Float32]) -> WorkerState:
    """The worker's state at version 1 of these."""
    return replace(
        worker._state, adapters=AdapterState(1, 1, {"cluster-0": tensors}), held={"shared": 1, "cluster-0": 1}
    )


def decoded(worker: ClientWorker, draft: Draft) -> MaskedDelta:
    return decode(draft.blob, worker.schema, kind=adapter_pb2.BLOB_KIND_UPDATE).delta


def test_the_server_takes_fewer_columns_only_where_the_job_prunes(model: Path) -> None:
    pruning, plain = job(model, **PULLED), job(model)
    worker = worker_for(plain)
    message = plan()
    message.rank = 2
    update = decoded(worker, worker.train(train_task(1, planned=message)))
    whole = given_to(worker._network)
    check_update(pruning, worker.schema, whole, update)
    for spec, allowed in ((plain, whole), (pruning, given_to(worker._network, 1))):
        with pytest.raises(FedhftError, match=r"is \d+ x 2, the plan has"):
            check_update(spec, worker.schema, allowed, update)


def test_a_federation_goes_on_with_clients_that_gave_columns_up(model: Path) -> None:
    sizes: dict[str, list[int]] = {}

    class Counting(ClientWorker):
        def train(self, *arguments: Any, **named: Any) -> Draft:
            draft = super().train(*arguments, **named)
            sizes.setdefault(self.client, []).append(draft.size)
            return draft

    spec = job_for(
        model, method="hetlora", training={**PULLED, "learning_rate": 0.02},
        rounds={"total": 4, "min_clients": 2}, evaluation={"final": True}, tiers={"wide": {}, "narrow": {"rank": 2}},
        client_tiers={"a": "wide", "b": "narrow"},
    )  # fmt: skip
    assert load_canonical(spec.canonical()) == spec
    clients = {name: data_of(48, 16, 16, offset=50 * place) for place, name in enumerate("ab")}
    ended = asyncio.run(Simulation(spec, clients, load_base(spec), worker_of=Counting).run())
    assert ended.job.status == "completed", ended.job.reason
    assert [entry.accepted for entry in ended.job.history] == [2] * 4
    assert sizes["a"][-1] < 0.7 * sizes["a"][0]
    assert sizes["b"][-1] < sizes["b"][0]


@pytest.mark.parametrize(
    ("method", "training", "said"),
    [
        ("fedit", {"rank_decay": 0.5}, r'training.rank_decay = 0.5 with method.combine = "factors": set combine'),
        ("flexlora", {"rank_decay": 0.5}, r'training.rank_decay = 0.5 with method.combine = "svd": set combine'),
        ("hetlora", {"rank_penalty": 0.1}, r"training.rank_penalty = 0.1: no columns are given up"),
    ],
)
def test_pruning_that_cannot_work_is_refused(method: str, training: dict[str, float], said: str) -> None:
    with pytest.raises(FedhftError, match=said):
        job_for(Path("m"), method=method, training=training)
