"""Planning by capacity over real sockets and a real Redis: what agents measure, what they are planned, what is told."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import re
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fedhft.errors import OUTCOMES, ErrorCode
from fedhft.ids import ClientId, JobId
from fedhft.job import JobSpec
from fedhft.plan import steps_of
from fedhft.planning.estimates import Capacity
from fedhft.v1 import capacity_pb2, clients_pb2, federation_pb2, plans_pb2
from tests.aggregator import Aggregator, refused, serving
from tests.cli_runner import run_cli
from tests.light import LightClient, light_job

LAYERS = 6
EPOCH = 20
NAMES = ("ash", "birch", "cedar", "fir", "oak")
DAY = 86400.0


@pytest.fixture
async def aggregator(fresh_redis_url: str) -> AsyncIterator[Aggregator]:
    async with serving(fresh_redis_url) as running:
        yield running


def job(name: str, **changes: Any) -> JobSpec:
    sections = {"method": {"preset": "legend"}, "rounds": {"total": 3, "min_clients": len(NAMES)}, **changes}
    return light_job(name, adapter={"rank": 4, "ranks": "uniform"}, **sections)


def trial(step: float, batches: int = 6) -> capacity_pb2.Durations:
    return capacity_pb2.Durations(
        forward_seconds=step * batches, forward_layer_steps=batches,
        backward_seconds=step * batches, backward_layer_steps=batches,
    )  # fmt: skip


class Device(LightClient):
    """A light client that measures what it is told to."""

    step = 0.001
    told_durations: capacity_pb2.Durations | None = None

    async def enters(self, **changes: Any) -> None:
        await self.enroll()
        request = federation_pb2.JoinRequest(
            client=self.name,
            lease_token=self.token,
            job=self.spec.name,
            schema_json=self.schema.to_json(),
            samples=320,
            durations=trial(self.step),
            keeps_frozen_layers=True,
            **changes,
        )
        await self.stub.Join(request, timeout=10)

    async def trains(self) -> federation_pb2.TrainTask:
        task = await self.train_task()
        blob = self.update(task)
        header = self.header(task, blob)
        layers = task.plan.depth * (task.plan.max_steps or 20)
        durations = self.told_durations or trial(self.step, layers)
        header.measurements.durations.CopyFrom(durations)
        await self.push(header, [(0, blob)])
        return task


async def fleet(aggregator: Aggregator, spec: JobSpec, **joining: dict[str, Any]) -> dict[str, Device]:
    await aggregator.submit(spec)
    devices = {}
    for name in NAMES:
        light = aggregator.client(name, spec, layers=LAYERS)
        device = Device(aggregator.channel, name, spec, light.schema)
        changes = dict(joining.get(name, {}))
        device.step = changes.pop("step", device.step)
        devices[name] = device
    await asyncio.gather(*(device.enters(**_stated(joining, name)) for name, device in devices.items()))
    return devices


def _stated(joining: dict[str, dict[str, Any]], name: str) -> dict[str, Any]:
    return {key: value for key, value in joining.get(name, {}).items() if key != "step"}


async def round_of(devices: dict[str, Device]) -> dict[str, federation_pb2.TrainTask]:
    tasks = await asyncio.gather(*(device.trains() for device in devices.values()))
    return dict(zip(devices, tasks, strict=True))


async def told(aggregator: Aggregator, name: str, *what_if: plans_pb2.WhatIf) -> plans_pb2.ExplainPlanResponse:
    return await aggregator.jobs.ExplainPlan(plans_pb2.ExplainPlanRequest(job=name, what_if=what_if), timeout=10)


def work(task: federation_pb2.TrainTask) -> int:
    return task.plan.depth * steps(task)


def steps(task: federation_pb2.TrainTask) -> int:
    return steps_of(EPOCH, 1, task.plan.epochs, task.plan.max_steps)


async def test_a_slow_device_is_planned_less_from_its_trial_on(aggregator: Aggregator) -> None:
    devices = await fleet(aggregator, job("trial"), oak={"step": 0.01}, fir={"deepest": 1, "step": 1e-4})
    tasks = await round_of(devices)
    assert work(tasks["oak"]) < work(tasks["ash"])
    assert tasks["ash"].plan == tasks["birch"].plan
    assert tasks["fir"].plan.depth == 1
    plans = {one.client: one for one in (await told(aggregator, "trial")).clients}
    assert plans["oak"].capacity.forward_ms == pytest.approx(10.0)
    memory = "has memory for 1 layer, or its owner allows no more"
    assert plans["fir"].why == f"{memory}; makes {EPOCH} steps more than an epoch has, rather than wait"
    assert steps(tasks["fir"]) == 2 * EPOCH
    assert plans["fir"].bound == "memory"


async def test_an_owner_may_allow_fewer_steps_than_it_has_time_for(aggregator: Aggregator) -> None:
    small = {"deepest": 1, "step": 1e-4}
    devices = await fleet(aggregator, job("own"), oak={**small, "most_steps": 12}, fir={**small, "most_steps": 25})
    tasks = await round_of(devices)
    assert (steps(tasks["oak"]), steps(tasks["fir"])) == (12, 25)
    assert steps(tasks["ash"]) <= EPOCH


async def test_the_final_evaluation_asks_for_as_many_layers_as_there_is_memory_for(aggregator: Aggregator) -> None:
    spec = job("final", rounds={"total": 1, "min_clients": len(NAMES)}, evaluation={"final": True})
    devices = await fleet(aggregator, spec, fir={"deepest": 2})
    await round_of(devices)
    found = {name: (await device.next_task()).evaluate.plan.depth for name, device in devices.items()}
    assert found == {**dict.fromkeys(NAMES, LAYERS), "fir": 2}


async def test_a_report_changes_what_is_known_and_the_next_plans(aggregator: Aggregator) -> None:
    devices = await fleet(aggregator, job("report"))
    devices["ash"].told_durations = trial(1e-6, 200)
    first = await round_of(devices)
    assert len({work(task) for task in first.values()}) == 1
    await asyncio.gather(*(device.train_task() for device in devices.values()))  # round 2 is open
    known = await aggregator.store.capacities(JobId("report"), NAMES)
    assert {one.reports for one in known.values()} == {2}  # the trial counts as one
    # It says that it did next to nothing. What its round took by the server's clock is its fixed time then.
    assert known["ash"].forward == pytest.approx(1e-6)
    assert (known["ash"].fixed or 0.0) > 1e-3
    now = await told(aggregator, "report")
    assert now.round == 2
    assert "became more than twice as fast, or as slow" in now.reason


async def test_impossible_durations_are_named_and_the_round_goes_on(
    aggregator: Aggregator, caplog: pytest.LogCaptureFixture
) -> None:
    devices = await fleet(aggregator, job("liars"))
    devices["ash"].told_durations = capacity_pb2.Durations(forward_seconds=math.nan, forward_layer_steps=3)
    devices["oak"].told_durations = capacity_pb2.Durations(forward_seconds=1e9 * DAY, forward_layer_steps=1)
    devices["fir"].told_durations = capacity_pb2.Durations(forward_seconds=1e9, forward_layer_steps=1)
    with caplog.at_level(logging.WARNING):
        await round_of(devices)
        await devices["cedar"].train_task()
    said = [record.getMessage() for record in caplog.records if "durations left out" in record.getMessage()]
    assert any("forward = nan" in line for line in said)
    assert (await aggregator.get("liars")).history[0].accepted == len(NAMES)
    known = await aggregator.store.capacities(JobId("liars"), NAMES)
    assert known["ash"].reports == 1
    # Whoever claims 10^9 seconds is believed no more than the seconds that passed.
    assert (known["fir"].forward or 0.0) < 30.0


async def test_a_plan_is_explained_and_supposed_devices_change_nothing(aggregator: Aggregator) -> None:
    devices = await fleet(aggregator, job("why"), oak={"step": 0.02})
    await round_of(devices)
    now = await told(aggregator, "why")
    assert (now.layers, len(now.clients), now.reason) == (LAYERS, len(NAMES), "the first")
    for one in now.clients:
        assert one.why
        parts = (
            one.training_seconds, one.scoring_seconds, one.fill_seconds, one.link_seconds, one.fixed_seconds,
        )  # fmt: skip
        assert one.seconds == pytest.approx(sum(parts))
    supposed = await told(aggregator, "why", plans_pb2.WhatIf(client="ash", slower=100.0))
    before, after = ({one.client: one for one in answer.clients} for answer in (now, supposed))
    assert (supposed.round, supposed.reason) == (0, "as it would be planned now")
    assert after["ash"].depth * after["ash"].steps < before["ash"].depth * before["ash"].steps
    shallow = await told(aggregator, "why", plans_pb2.WhatIf(deepest=1))
    assert {one.depth for one in shallow.clients} == {1}
    again = await told(aggregator, "why")
    assert {one.client: one.depth for one in again.clients} == {one.client: one.depth for one in now.clients}


async def test_people_are_shown_the_plans_and_what_they_would_be(aggregator: Aggregator, tmp_path: Path) -> None:
    devices = await fleet(aggregator, job("shown"))
    await round_of(devices)
    asked = partial(asyncio.to_thread, run_cli, "job", "plan", "shown", "--server", aggregator.address)
    shown = await asked()
    assert shown.returncode == 0, shown.stderr
    # Trials of milliseconds beside other work may be far from the first round, and plans are made again.
    assert re.search(r"shown: plans made for round [12] \(.+\), for rounds of", " ".join(shown.stdout.split()))
    assert all(any(line.strip().startswith(name) for line in shown.stdout.splitlines()) for name in NAMES)
    assert (await asked("-o", "name")).stdout.split() == list(NAMES)
    file = tmp_path / "devices.toml"
    file.write_text("[devices.oak]\nslower = 50\n")
    supposed = json.loads((await asked("--what-if", str(file), "-o", "json")).stdout)
    depths = {one["client"]: one["depth"] * one["steps"] for one in supposed["clients"]}
    assert depths["oak"] < depths["ash"]
    file.write_text("[devices.elm]\nslower = 50\n")
    refused_ = await asked("--what-if", str(file))
    assert refused_.returncode == OUTCOMES[ErrorCode.INVALID_ARGUMENT].exit_code
    assert "'elm': is not a live client whose device was measured" in refused_.stderr


async def test_people_are_shown_what_was_measured_of_clients(aggregator: Aggregator) -> None:
    devices = await fleet(aggregator, job("seen"), oak={"step": 0.0125, "deepest": 2})
    listed = (await aggregator.jobs.Clients(clients_pb2.ListClientsRequest(job="seen"), timeout=10)).clients
    known = {one.client: one.capacity for one in listed}
    assert known["oak"].forward_ms == pytest.approx(12.5)
    assert (known["oak"].deepest, known["ash"].deepest, known["ash"].reports) == (2, 0, 1)
    asked = partial(asyncio.to_thread, run_cli, "job", "clients", "seen", "--server", aggregator.address)
    shown = await asked()
    assert shown.returncode == 0, shown.stderr
    head, *lines = shown.stdout.splitlines()
    assert "ms of a layer and batch, forward + backward" in head
    assert " up " not in head  # nobody has delivered anything over a link
    assert next(line for line in lines if "oak" in line).split()[-4:] == ["12.5", "+", "12.5", "2"]
    assert next(line for line in lines if "ash" in line).split()[-4:] == ["1", "+", "1", "-"]
    listed_ = json.loads((await asked("-o", "json")).stdout)["clients"]
    assert {one["client"]: one["capacity"]["deepest"] for one in listed_} == {**dict.fromkeys(NAMES, 0), "oak": 2}
    for device in devices.values():
        device.told_durations = trial(0.001, 120)
        device.told_durations.up_seconds, device.told_durations.up_bytes = 0.5, 125_000
    devices["oak"].told_durations.energy_joules = 321.0
    await round_of(devices)
    await devices["ash"].train_task()  # round 2 is open, the first one's reports are known
    lines = (await asked()).stdout.splitlines()
    assert "2 Mbit/s" in lines[-1]
    assert "J of a round" in lines[0]
    assert [line.split()[-1] for line in lines if "ash" in line or "oak" in line] == ["-", "321"]
    plans = {one.client: one for one in (await told(aggregator, "seen")).clients}
    assert (plans["oak"].capacity.energy_joules, plans["ash"].capacity.energy_joules) == (321.0, 0.0)
    assert (await aggregator.get("seen")).history[0].work.energy_joules == 321.0


async def test_where_plans_do_not_go_by_capacity_devices_are_not_told(aggregator: Aggregator) -> None:
    spec = light_job("by-tiers")
    await aggregator.submit(spec)
    await aggregator.store.note_capacity(JobId("by-tiers"), ClientId("ash"), Capacity(0.1, 0.1))
    light = aggregator.client("ash", spec, layers=LAYERS)
    await Device(aggregator.channel, "ash", spec, light.schema).enters()
    (one,) = (await aggregator.jobs.Clients(clients_pb2.ListClientsRequest(job="by-tiers"), timeout=10)).clients
    assert not one.HasField("capacity")
    shown = await asyncio.to_thread(run_cli, "job", "clients", "by-tiers", "--server", aggregator.address)
    assert "ms of a layer" not in shown.stdout


async def test_what_cannot_be_supposed_is_refused(aggregator: Aggregator) -> None:
    spec = job("odd")
    await fleet(aggregator, spec)
    for wrong, field in (
        (plans_pb2.WhatIf(client="nobody"), "what_if[0].client = 'nobody'"),
        (plans_pb2.WhatIf(slower=-1.0), "what_if[0].slower = -1.0"),
        (plans_pb2.WhatIf(up=math.inf), "what_if[0].up = inf"),
        (plans_pb2.WhatIf(slower=math.nan), "what_if[0].slower = nan"),
    ):
        code, text = await refused(told(aggregator, "odd", wrong))
        assert code is ErrorCode.INVALID_ARGUMENT
        assert field in text
    tiers = light_job("tiers")
    await aggregator.submit(tiers)
    code, text = await refused(told(aggregator, "tiers"))
    assert code is ErrorCode.INVALID_ARGUMENT
    assert "method.allocation = 'tiers': clients train what their tiers say" in text


async def test_before_anybody_has_joined_there_is_nothing_to_explain(aggregator: Aggregator) -> None:
    await aggregator.submit(job("early"))
    answer = await told(aggregator, "early")
    assert (answer.reason, len(answer.clients)) == ("no client has joined yet", 0)
