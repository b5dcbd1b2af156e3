"""A simulated job, summarised like a run of real processes; figures of sockets and processes are null."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from fedhft.datasets import tickets
from fedhft.datasets.client_data import ClientData
from fedhft.datasets.federated import FederatedData
from fedhft.datasets.partition import OWN_HOLDOUT, Partition, Shares, hand_out
from fedhft.datasets.source import read_source
from fedhft.errors import ErrorCode, FedhftError
from fedhft.export.published import Exported, write_adapters
from fedhft.job import JobSpec
from fedhft.reporting.report import MethodRun
from fedhft.reporting.result import run_result
from fedhft.simulation.devices import read_profiles
from fedhft.simulation.run import ON_THE_CPU, Machine, simulate
from fedhft.simulation.virtual import VirtualSimulation
from fedhft.training.tasks import task_of
from fedhft.training.untrained import UntrainedWorker
from fedhft.training.worker import ClientWorker
from fedhft.v1 import jobs_pb2

_CLIENTS = 8
_VALIDATION = 300


def rows_for(
    spec: JobSpec,
    folder: Path | None,
    clients: int | None,
    *,
    per_client: int,
    kind: Partition,
    alpha: float,
    groups: int,
) -> FederatedData:
    """Rows for the clients a job names (else for `clients`, else 8), from a folder or, for None, the generated corpus.

    Raises FedhftError: INVALID_ARGUMENT when `clients` differs from the number the job names, INVALID_DATA.
    """
    count = clients or len(spec.clients) or _CLIENTS
    if spec.clients and count != len(spec.clients):
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, "clients", count, f"the job names {len(spec.clients)}",
            "leave the option out, or `clients` out of the job",
        )  # fmt: skip
    if folder is None:
        held = max(1, round(OWN_HOLDOUT * per_client))
        rows = (per_client - held,) * count
        data = tickets.generate(rows, holdout=held, validation=_VALIDATION, groups=groups, seed=spec.seed)
    else:
        shares = Shares(kind, count, per_client, alpha, groups if kind is Partition.GROUPS else 1)
        data = hand_out(read_source(folder, spec.task), shares, spec.seed)
    names = spec.clients or tuple(client.client for client in data.clients)
    renamed = (replace(client, client=name) for client, name in zip(data.clients, names, strict=True))
    return replace(data, clients=tuple(renamed))


def run_simulated(
    spec: JobSpec,
    data: FederatedData,
    model: str | None,
    observe: Callable[[jobs_pb2.Job], None],
    machine: Machine = ON_THE_CPU,
    devices: Path | None = None,
    export: Path | None = None,
    *,
    trains: bool = True,
) -> MethodRun:
    """Run a job over `data` in this process; `observe` sees the job after every round.

    devices: file of profiles (`simulation.devices`), by which time passes; None: no time does. export: folder for its
    adapters, written as `fedhft job export` does. trains: whether clients train, or only take the time for it.
    Raises FedhftError: INVALID_DATA when the job's labels are not the data's, and what `simulate` raises.
    """
    if not trains and (devices is None or export is not None):
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, "--no-training", "true", "is for studies of how long rounds of devices take",
            "give --devices, and no --export: nothing is learnt",
        )  # fmt: skip
    if task_of(spec.task).split_by_class and spec.task.labels != data.labels:
        raise FedhftError.field(
            ErrorCode.INVALID_DATA, "task.labels", list(spec.task.labels), f"the data has {list(data.labels)}",
            "write the labels of the data's meta.json into the job, in that order",
        )  # fmt: skip
    if export is not None and not spec.method.combine.makes_one_model:
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, "--export", str(export), f"{spec.method.preset} publishes no whole adapter",
            "leave it out, or choose a method that shares one",
        )  # fmt: skip
    started = time.monotonic()
    held = {
        own.client: ClientData.of(own.train, own.holdout, data.shared[own.group if len(data.shared) > 1 else 0])
        for own in data.clients
    }
    one_run = None
    if devices is not None:
        worker = ClientWorker if trains else UntrainedWorker
        one_run = partial(VirtualSimulation, profiles=read_profiles(devices, list(held)), worker_of=worker)
    ended = simulate(spec, held, model=model, machine=machine, observe=observe, one_run=one_run)
    adapters: list[Exported] = []
    if export is not None and ended.adapters is not None:
        adapters = write_adapters(ended.adapters, export, ended.job, base_path=model or "")
    groups = {client.client: client.group for client in data.clients} if data.has_groups else None
    result = run_result(
        ended.job,
        spec,
        wall_seconds=time.monotonic() - started,
        aggregator_cpu_seconds=None,
        groups=groups,
        adapters=[str(one.path) for one in adapters],
    )
    return MethodRun(spec, ended.job, result)
