"""Clients fetch the layers they train: the same results as with whole versions, for fewer bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest

from fedhft.coordination import closing
from fedhft.export.adapter_values import read_adapter
from fedhft.export.published import write_adapters
from fedhft.job import JobSpec
from fedhft.simulation.devices import Profile
from fedhft.simulation.run import Simulated, simulate
from fedhft.simulation.virtual import VirtualSimulation
from fedhft.training.base import load_base
from fedhft.v1 import jobs_pb2
from tests.agents import InProcessAgent, Site, running_site
from tests.models import tiny_model
from tests.workers import data_of, job_for

LAYERS = 4
CLIENTS = {name: data_of(offset=48 * place) for place, name in enumerate(("ash", "birch", "cedar", "fir"))}
TIERS: dict[str, Any] = {
    "tiers": {"small": {"depth": 1}, "middle": {"depth": 2}, "large": {}},
    "client_tiers": {"ash": "small", "birch": "small", "cedar": "middle", "fir": "large"},
    "rounds": {"total": 3, "min_clients": 4, "quorum": 1.0},
    "training": {"learning_rate": 0.02},
    "evaluation": {"every": 1, "final": True},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model") / "bert", layers=LAYERS)


def in_bands(monkeypatch: pytest.MonkeyPatch, *, wanted: bool) -> None:
    if not wanted:
        monkeypatch.setattr(closing, "bands_of", lambda *_: ())


def down(ended: jobs_pb2.Job) -> int:
    return sum(entry.payload_bytes_down for entry in (*ended.history, ended.final))


def same_results(one: Simulated, other: Simulated) -> bool:
    """Versions, and all scores of all rounds."""
    assert one.version is not None
    assert other.version is not None
    for mine, its in zip((*one.job.history, one.job.final), (*other.job.history, other.job.final), strict=True):
        for name in ("personal_before_mean", "personal_loss_before_median", "shared_before", "shared_loss_before"):
            if getattr(mine, name) != getattr(its, name):
                return False
    return one.version.snapshots == other.version.snapshots and one.version.deltas == other.version.deltas


def ends_alike(monkeypatch: pytest.MonkeyPatch, spec: JobSpec, start: Any = None) -> tuple[Simulated, Simulated]:
    """A job with versions in bands, and the same with whole versions only."""
    banded = simulate(spec, CLIENTS, start=start) if start else simulate(spec, CLIENTS)
    with monkeypatch.context() as without:
        in_bands(without, wanted=False)
        whole = simulate(spec, CLIENTS, start=start) if start else simulate(spec, CLIENTS)
    assert banded.version is not None
    assert whole.version is not None
    assert (whole.version.bands, bool(banded.version.bands)) == (None, True)
    assert same_results(banded, whole)
    return banded, whole


@pytest.mark.parametrize(
    ("method", "sections"),
    [
        ({"preset": "fedhft", "clusters": 1}, {}),
        ({"preset": "fedhft", "clusters": 2}, {}),
        ({"preset": "fedit", "allocation": "tiers"}, {"wire": {"up": "int8", "down": "int8"}}),
        ({"preset": "hetlora"}, {}),
        ({"preset": "fedsa-lora", "allocation": "tiers"}, {}),
    ],
)
def test_a_job_of_tiers_ends_bit_for_bit_as_with_whole_versions(
    model: Path, monkeypatch: pytest.MonkeyPatch, method: dict[str, Any], sections: dict[str, Any]
) -> None:
    banded, whole = ends_alike(monkeypatch, job_for(model, method=method, **TIERS, **sections))
    assert down(banded.job) < 0.9 * down(whole.job)


def test_a_job_by_capacity_ends_bit_for_bit_as_with_whole_versions(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = job_for(
        model, method="legend", rounds={"total": 3, "min_clients": 4, "deadline": "30m"}, training={"batch_size": 4},
        evaluation={"every": 1, "final": True}, planning={"gain_decay": 1.0},
    )  # fmt: skip
    fast = {"forward": 0.05, "backward": 0.05, "fixed": 0.2, "up": 1e9, "down": 1e12}
    small = {**fast, "deepest": 1}
    profiles = {name: Profile.model_validate(small if name == "ash" else fast) for name in CLIENTS}
    ended = []
    for wanted in (True, False):
        with monkeypatch.context() as without:
            in_bands(without, wanted=wanted)
            ended.append(asyncio.run(VirtualSimulation(spec, CLIENTS, load_base(spec), profiles=profiles).run()))
    banded, whole = ended
    assert banded.allocated is not None
    assert {name: plan.depth for name, plan in banded.allocated.plans.items()} == {
        "ash": 1, "birch": LAYERS, "cedar": LAYERS, "fir": LAYERS,
    }  # fmt: skip
    assert same_results(banded, whole)
    rounds = [sum(entry.payload_bytes_down for entry in one.job.history) for one in ended]
    assert rounds[0] < rounds[1]


def test_a_method_whose_versions_are_products_is_published_whole(model: Path) -> None:
    spec = job_for(model, method={"preset": "flora"}, **{**TIERS, "rounds": {"total": 1, "min_clients": 4}})
    ended = simulate(spec, CLIENTS)
    assert ended.version is not None
    assert ended.version.bands is None


def test_of_a_warm_start_shallow_clients_fetch_their_layers(model: Path, tmp_path: Path) -> None:
    first = simulate(job_for(model, method="fedit", **{**TIERS, "tiers": {"large": {}}, "client_tiers": {}}), CLIENTS)
    assert first.adapters is not None
    (one,) = write_adapters(first.adapters, tmp_path, first.job)
    adapter = {"rank": 4, "alpha": 8, "targets": ["query", "value"], "from": str(one.path)}
    method = {"preset": "fedit", "allocation": "tiers"}
    ended = simulate(job_for(model, method=method, adapter=adapter, seed=9, **TIERS), CLIENTS)
    assert read_adapter(one.path) is not None
    assert ended.job.history[0].payload_bytes_down < 0.8 * 4 * 4 * sum(
        matrix.size for scope in first.adapters.state.scopes.values() for matrix in scope.values()
    )


# -- over sockets


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[Site]:
    with running_site(tmp_path_factory.mktemp("downloads"), redis_url) as running:
        yield running


def test_over_sockets_a_shallow_agent_pulls_bands_and_one_of_an_earlier_release_whole_versions(
    site: Site, model: Path
) -> None:
    sections = {**TIERS, "rounds": {"total": 3, "min_clients": 3, "quorum": 1.0}, "evaluation": {"final": True}}
    sections |= {"client_tiers": {"ash": "small", "birch": "small", "fir": "large"}, "model": {"name": str(model)}}
    spec = site.submit("bands", method={"preset": "fedhft", "clusters": 1}, **sections)
    agents = [InProcessAgent(site, spec, name) for name in ("ash", "birch", "fir")]
    ask = agents[1].connection.next_task

    def of_an_earlier_release(*arguments: Any, **options: Any) -> Any:
        return ask(*arguments, **{**options, "held_bands": None})

    agents[1].connection.next_task = of_an_earlier_release  # type: ignore[method-assign]
    with ExitStack() as running:
        threads = [Thread(target=running.enter_context(agent).run) for agent in agents]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
    ended = site.get("bands")
    assert (ended.status, ended.reason) == ("completed", "")
    ash, birch, fir = (agent.worker for agent in agents)
    assert not birch.held_bands()
    assert not fir.held_bands()
    assert {(one.version, one.band.beyond, one.band.depth) for one in ash.held_bands()} == {(3, 0, 1), (0, 1, 4)}
    fetched = [agent.session._payload.received for agent in agents]
    assert fetched[0] < 0.6 * fetched[1]
    assert fetched[1] == fetched[2]
    for scope, tensors in ash._state.adapters.scopes.items():
        for key, tensor in tensors.items():
            np.testing.assert_array_equal(tensor, fir._state.adapters.scope(scope)[key])
            np.testing.assert_array_equal(tensor, birch._state.adapters.scope(scope)[key])
