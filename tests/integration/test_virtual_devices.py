"""Devices on a virtual clock: who finishes when, what planning by capacity makes of it, deadlines that bite."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from benchmarks.families import example_rows, write_family
from fedhft.datasets.client_data import ClientData
from fedhft.job import JobSpec, parse_job
from fedhft.planning.planned import Planned
from fedhft.simulation.devices import Profile
from fedhft.simulation.run import Simulated, Simulation
from fedhft.simulation.virtual import VirtualSimulation
from fedhft.training.base import load_base

NAMES = tuple(f"c{i}" for i in range(8))
ROWS = 16
LAYERS = 3
FAST = {"forward": 0.05, "backward": 0.05, "fixed": 0.2, "up": 1e5, "down": 1e6}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_family(tmp_path_factory.mktemp("model"), "bert", "classification")


def job(model: Path, method: str = "legend", **changes: Any) -> JobSpec:
    raw: dict[str, Any] = {
        "name": "devices",
        "model": {"name": str(model), "max_length": 16},
        "task": {"kind": "classification", "labels": ["bad", "good"]},
        "adapter": {"rank": 4},
        "method": method,
        "rounds": {"total": 4, "deadline": "10m"},
        "evaluation": {"final": False},
        "training": {"learning_rate": 1e-2, "batch_size": 2},
    }
    return parse_job({**raw, **changes})


def clients() -> dict[str, ClientData]:
    held = example_rows("classification", 4, 900)
    return {
        name: ClientData.of(example_rows("classification", ROWS, 60 * i), held, held) for i, name in enumerate(NAMES)
    }


def run(spec: JobSpec, profiles: Mapping[str, Profile]) -> Simulated:
    return asyncio.run(VirtualSimulation(spec, clients(), load_base(spec), profiles=profiles).run())


def fleet(**changed: Any) -> dict[str, Profile]:
    """Eight equal devices, those named changed."""
    return {name: Profile.model_validate({**FAST, **changed.get(name, {})}) for name in NAMES}


def seconds_of(ended: Simulated) -> list[float]:
    return [one.seconds for one in ended.job.history]


def plans_of(ended: Simulated) -> Mapping[str, Planned]:
    assert ended.allocated is not None
    return ended.allocated.plans


def test_a_round_takes_as_long_as_its_slowest_device(model: Path) -> None:
    spec = job(model, "fedit", rounds={"total": 2})
    even = run(spec, fleet())
    uneven = run(spec, fleet(c3={"forward": 0.5, "backward": 0.5}))
    ratio = seconds_of(uneven)[0] / seconds_of(even)[0]
    assert 8 < ratio < 10.5
    assert [one.accepted for one in uneven.job.history] == [8, 8]


def test_planning_by_capacity_evens_out_what_devices_take(model: Path) -> None:
    spec = job(model, rounds={"total": 3})
    slow = fleet(c3={"forward": 0.2, "backward": 0.2}, c5={"forward": 0.1, "backward": 0.1})
    ended = run(spec, slow)
    plans = plans_of(ended)
    assert plans["c3"].steps * plans["c3"].depth < plans["c5"].steps * plans["c5"].depth
    assert plans["c5"].steps * plans["c5"].depth < plans["c0"].steps * plans["c0"].depth
    fixed = run(job(model, "fedit", rounds={"total": 1}), slow)
    assert max(seconds_of(ended)[1:]) < 0.5 * seconds_of(fixed)[0]
    assert all(one.accepted == 8 for one in ended.job.history)


def test_a_device_that_slows_down_is_planned_for_within_two_rounds(model: Path) -> None:
    spec = job(model, rounds={"total": 5})
    changing = fleet(c2={"changes": [{"round": 3, "slower": 10.0}]})
    ended = run(spec, changing)
    taken = seconds_of(ended)
    assert taken[2] > 1.5 * taken[1]
    assert min(taken[3], taken[4]) < 1.2 * taken[1]
    plan = plans_of(ended)["c2"]
    assert plan.depth * plan.steps < plans_of(ended)["c0"].depth * plans_of(ended)["c0"].steps


def test_a_device_out_of_all_bounds_sits_out_and_has_its_turn(model: Path) -> None:
    spec = job(model, rounds={"total": 5}, planning={"sits_out": 2})
    ended = run(spec, fleet(c7={"forward": 5.0, "backward": 5.0}))
    asked = [one.asked for one in ended.job.history]
    assert 7 in asked
    assert 8 in asked
    first = asked.index(7)
    assert asked[first : first + 3].count(8) <= 1
    assert "777" not in "".join(map(str, asked))


def test_a_deadline_passes_without_the_slow_one(model: Path) -> None:
    spec = job(model, "fedit", rounds={"total": 2, "deadline": "20s", "quorum": 0.5})
    ended = run(spec, fleet(c1={"forward": 2.0}))
    assert [one.accepted for one in ended.job.history] == [7, 7]
    assert seconds_of(ended) == pytest.approx([20.0, 20.0], abs=0.1)


def test_without_planning_nothing_differs_from_a_simulation_without_a_clock(model: Path) -> None:
    spec = job(model, "fedit", rounds={"total": 2})
    timed = run(spec, fleet())
    plain = asyncio.run(Simulation(spec, clients(), load_base(spec)).run())
    assert timed.version is not None
    assert plain.version is not None
    assert timed.version.deltas == plain.version.deltas


def test_all_layers_all_steps_and_equal_ranks_are_plain_federated_lora(model: Path) -> None:
    """k = L, all steps, equal ranks: bit for bit."""
    fast = {name: Profile.model_validate({**FAST, "forward": 1e-6, "backward": 1e-6, "fixed": 50.0}) for name in NAMES}
    whole = {"depth": False, "least_steps": 1.0}
    planned = run(job(model, rounds={"total": 1}, planning=whole), fast)
    assert {(one.depth, one.bound.value) for one in plans_of(planned).values()} == {(LAYERS, "nothing")}
    wire = {"up": "fp32", "down": "fp32", "error_feedback": False}
    alike = {"rank": 4, "ranks": "uniform"}
    capacity = run(job(model, rounds={"total": 2}, wire=wire, adapter=alike, planning=whole), fast)
    uniform = run(job(model, "fedit", rounds={"total": 2}, wire=wire), fast)
    assert capacity.version is not None
    assert uniform.version is not None
    assert capacity.version.deltas == uniform.version.deltas
