"""HetLoRA, FlexLoRA, FLoRA and FedSA-LoRA on real models: what a client trains, in a simulation and over sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedhft.adapter import Float32, Part, TensorKey
from fedhft.datasets.client_data import ClientData, load_client_data
from fedhft.errors import ErrorCode, FedhftError
from fedhft.export.published import fetch_adapters
from fedhft.job import JobSpec
from fedhft.jobs.client import JobsClient
from fedhft.local.processes import stop_all
from fedhft.simulation.run import Simulated, Simulation
from fedhft.training.base import load_base
from fedhft.training.network import Network
from fedhft.training.scores import predict
from fedhft.training.state import Draft
from fedhft.training.worker import ClientWorker
from fedhft.v1 import adapter_pb2, jobs_pb2
from fedhft.wire.codec import decode
from tests.agents import Site, running_site
from tests.models import tiny_model
from tests.workers import data_of, job_for, plan, train_task, worker_for

RANKS = {"ash": 4, "birch": 2, "willow": 1}
PRESETS = ("hetlora", "flexlora", "flora", "fedsa-lora")


def ranked(rank: int) -> adapter_pb2.AdapterPlan:
    found = plan(epochs=2)
    found.rank = rank
    return found


# -- one client


def test_a_client_of_lower_rank_computes_with_the_first_columns_at_the_same_scale(tmp_path: Path) -> None:
    spec = job_for(tiny_model(tmp_path / "base"), method="hetlora")
    network = Network.on(load_base(spec), spec)
    rows = network.encode(data_of().train)
    rng = np.random.default_rng(1)
    drawn: dict[TensorKey, Float32] = {}
    for slot in network.schema.slots:
        for key in (TensorKey(slot.name, Part.A), TensorKey(slot.name, Part.B)):
            drawn[key] = (0.3 * rng.standard_normal(network.schema.shape(key))).astype(np.float32)
    first = (np.arange(4) < 2).astype(np.float32)
    network.load({key: value * first if key.part is Part.B else value for key, value in drawn.items()}, 3, 1)
    wanted = predict(network, rows)
    network.load(drawn, 3, 1, rank=2)
    np.testing.assert_allclose(predict(network, rows), wanted, atol=1e-5)
    shapes = {network.value(key).shape[1] for key in drawn}
    assert shapes == {2}
    network.load(drawn, 3, 1)
    assert np.abs(predict(network, rows) - wanted).max() > 1e-3


def test_a_client_of_lower_rank_sends_its_columns_and_leaves_nothing_behind(tmp_path: Path) -> None:
    spec = job_for(tiny_model(tmp_path / "base"), method="hetlora")
    base = load_base(spec)
    before = worker_for(spec, base=base).train(train_task(1, planned=ranked(0)))
    sizes = {}
    for rank in (1, 2, 4):
        draft = worker_for(spec, base=base).train(train_task(1, planned=ranked(rank)))
        delta = decode(draft.blob, Network.on(base, spec).schema, kind=adapter_pb2.BLOB_KIND_UPDATE).delta
        assert {matrix.cols for key, matrix in delta if key.part in (Part.A, Part.B)} == {rank}
        assert all(matrix.values.any() for key, matrix in delta if key.part is Part.B)
        sizes[rank] = draft.size
    assert sizes[1] < sizes[2] < sizes[4]
    assert sizes[1] < 0.4 * sizes[4]
    again = worker_for(spec, base=base).train(train_task(1, planned=ranked(0)))
    assert again.blob == before.blob


def test_b_and_the_head_stay_with_a_fedsa_lora_client_and_survive_a_restart(tmp_path: Path) -> None:
    spec = job_for(tiny_model(tmp_path / "base"), method="fedsa-lora")
    base, folder = load_base(spec), tmp_path / "state"
    worker = worker_for(spec, folder, base)
    worker.commit(first := worker.train(train_task(1)))
    sent = decode(first.blob, worker.schema, kind=adapter_pb2.BLOB_KIND_UPDATE).delta
    assert {key.part for key in sent.tensors} == {Part.A}
    kept = worker._state.own
    assert {key.part for key in kept} == {Part.B, Part.HEAD}
    assert all(value.any() for key, value in kept.items() if key.part is Part.B)
    second = worker.train(train_task(2, version=0))
    resumed = worker_for(spec, folder, base)
    resumed.abandon(second)
    assert resumed.train(train_task(2, version=0)).blob == second.blob
    fresh = worker_for(spec, base=base)
    assert fresh.train(train_task(2, version=0)).blob != second.blob
    worker.commit(second)
    moved = {key: worker._state.own[key] - value for key, value in kept.items()}
    assert all(value.any() for key, value in moved.items() if key.part is Part.B)


# -- a federation


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[Site]:
    with running_site(tmp_path_factory.mktemp("ranks"), redis_url) as running:
        yield running


def job(site: Site, preset: str) -> JobSpec:
    return site.job(
        preset,
        seed=5,
        method={"preset": preset, "clusters": 1},
        rounds={"total": 3, "min_clients": 3},
        evaluation={"final": True, "every": 1},
        training={"rank_decay": 0.5, "rank_penalty": 30.0} if preset == "hetlora" else {},
        **tiers_of(preset),
    )


def tiers_of(preset: str) -> dict[str, Any]:
    """A tier per client, with its rank, where the method has ranks."""
    if preset == "fedsa-lora":
        return {}
    return {
        "tiers": {client: {"rank": rank} for client, rank in RANKS.items()},
        "client_tiers": {client: client for client in RANKS},
    }


def played(spec: JobSpec, clients: Mapping[str, ClientData]) -> tuple[Simulated, dict[str, int]]:
    """A simulated job, and the bytes that each client sent."""
    sent = dict.fromkeys(clients, 0)

    class Counting(ClientWorker):
        def train(self, *arguments: Any, **named: Any) -> Draft:
            draft = super().train(*arguments, **named)
            sent[self.client] += draft.size
            return draft

    return asyncio.run(Simulation(spec, clients, load_base(spec), worker_of=Counting).run()), sent


@pytest.mark.parametrize("preset", PRESETS)
def test_a_simulated_job_learns_and_bytes_fall_with_the_rank(tmp_path: Path, preset: str) -> None:
    spec = job_for(
        tiny_model(tmp_path / "base", layers=2), method=preset, rounds={"total": 6, "min_clients": 3},
        training={"epochs": 3.0, "learning_rate": 0.02}, evaluation={"final": False}, **tiers_of(preset),
    )  # fmt: skip
    clients = {name: data_of(64, 32, 40, offset=70 * place) for place, name in enumerate(RANKS)}
    ran, sent = played(spec, clients)
    assert ran.job.status == "completed", ran.job.reason
    assert [entry.accepted for entry in ran.job.history] == [3] * 6
    shared = [entry.shared_before for entry in ran.job.history]
    assert shared[0] < 0.6
    assert max(shared) > 0.85
    if preset == "fedsa-lora":
        assert ran.adapters is None
    else:
        assert sent["ash"] > 1.5 * sent["birch"] > 2 * sent["willow"]
        assert ran.adapters is not None


def test_over_sockets_every_preset_publishes_what_its_simulation_does(site: Site) -> None:
    specs = {preset: job(site, preset) for preset in PRESETS}
    agents = [site.process(name) for name in RANKS]
    try:
        with JobsClient(site.admin) as jobs:
            for spec in specs.values():
                jobs.submit(spec)
        ended = {preset: site.ended(preset) for preset in PRESETS}
    finally:
        stop_all(agents, 5.0, 15.0)
    for preset, spec in specs.items():
        assert ended[preset].status == "completed", ended[preset].reason
        ran, _ = played(spec, {name: load_client_data(spec, name, site.data(name)) for name in RANKS})
        assert ran.version is not None
        wanted = {scope: blob.digest for scope, blob in ran.version.snapshots.items()}
        assert wanted
        assert published(site, preset) == wanted
        assert scores(ended[preset]) == scores(ran.job)
    with JobsClient(site.admin) as jobs, pytest.raises(FedhftError, match="shares no whole adapter") as refused:
        fetch_adapters(jobs, "fedsa-lora")
    assert refused.value.code is ErrorCode.INVALID_ARGUMENT


def published(site: Site, name: str) -> dict[str, str]:
    with JobsClient(site.admin) as jobs:
        return {ref.scope: ref.digest.hex() for ref in jobs.export(name, 0).blobs}


def scores(told: jobs_pb2.Job) -> tuple[float, float]:
    return told.final.personal_before_mean, told.final.personal_after_mean
