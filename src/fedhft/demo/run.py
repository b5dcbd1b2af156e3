"""A demo from settings to files: data, one federation per method, results, history, adapters, report, plots."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fedhft.datasets.federated import ClientFiles, FederatedData
from fedhft.demo.settings import DemoSettings, demo_data, demo_devices, demo_job, profiles_file
from fedhft.export.published import fetch_adapters, write_adapters
from fedhft.job import JobSpec
from fedhft.jobs.messages import as_dict
from fedhft.local.base_model import BaseModel, base_model
from fedhft.local.devices import LocalDevice
from fedhft.local.federation import Federation, FederationLayout
from fedhft.local.processes import deaf_to_interrupts
from fedhft.methods import Allocation, Trained
from fedhft.reporting.plots import write_plots
from fedhft.reporting.report import MethodRun, write_report
from fedhft.reporting.result import DemoResult, run_result
from fedhft.reporting.table import RoundTable
from fedhft.v1 import jobs_pb2


def run_demo(settings: DemoSettings, table: RoundTable) -> DemoResult:
    """Run every method one after another and write everything under settings.out. Raises FedhftError.

    Each method gets fresh processes, so that memory and CPU figures are its own; a finished federation stops while the
    next one starts.
    """
    settings.check()
    model = base_model(settings.model)
    data = demo_data(settings)
    devices = demo_devices(settings, [client.client for client in data.clients], max(data.groups) + 1)
    specs = [demo_job(settings, method, data, model.name, devices) for method in settings.methods]
    settings.out.mkdir(parents=True, exist_ok=True)
    files = data.write(settings.out / "data")
    with ThreadPoolExecutor(1, thread_name_prefix="stop") as stopping:
        if settings.simulate:
            runs = [_simulate_method(settings, spec, data, model, table) for spec in specs]
        else:
            runs = [_run_method(settings, spec, data, files, devices, model, table, stopping) for spec in specs]
    result = DemoResult(tuple(run.result for run in runs))
    _write_json(settings.out / "results.json", result.as_dict())
    table.say("drawing the plots")
    plots = write_plots(runs, data, settings.out / "plots")
    relative = {title: path.relative_to(settings.out).as_posix() for title, path in plots.items()}
    (settings.out / "report.md").write_text(write_report(runs, data, relative), encoding="utf-8")
    return result


def _run_method(
    settings: DemoSettings,
    spec: JobSpec,
    data: FederatedData,
    files: Sequence[ClientFiles],
    devices: Mapping[str, LocalDevice],
    model: BaseModel,
    table: RoundTable,
    stopping: ThreadPoolExecutor,
) -> MethodRun:
    method = spec.method.preset
    folder = settings.out / method
    for name in ("run", "adapters"):  # an earlier demo's files would mix with this one's
        shutil.rmtree(folder / name, ignore_errors=True)
    large = spec.method.trained is Trained.ALL_WEIGHTS
    blobs = "directory" if large else "redis"
    layout = FederationLayout(
        (folder / "run").absolute(), model.path, blobs, settings.tls, settings.device, devices=devices
    )
    started = time.monotonic()
    table.say(f"{method}: starting Redis, the clusterer, the aggregator and {len(files)} agents")
    federation = Federation(layout)
    try:
        federation.start()
        job = federation.jobs.submit(spec)
        federation.start_agents(spec.name, [own.absolute() for own in files])
        job = federation.follow(spec.name, settings.timeout_s, lambda change: table.show(method, change))
        wall_seconds = time.monotonic() - started
        cpu_seconds = federation.aggregator_cpu_seconds()
        planned = spec.method.allocation is Allocation.CAPACITY
        plans = federation.jobs.plan(spec.name) if planned else None
        adapters = _export(federation, spec, job, folder / "adapters", model, table)
    except Exception:
        federation.stop(patience_s=0.0)
        raise
    except BaseException:  # Ctrl-C, SIGTERM
        with deaf_to_interrupts():
            # The reader of our output may be gone, as `tee` is after Ctrl-C; rich then ends the program.
            with contextlib.suppress(OSError, SystemExit):
                table.say("stopping the federation ...")
            federation.stop(hurry=True)
        raise
    stopping.submit(_stop, federation, layout.folder, settings.keep_logs)
    groups = {client.client: client.group for client in data.clients} if data.has_groups else None
    result = run_result(
        job, spec, wall_seconds=wall_seconds, aggregator_cpu_seconds=cpu_seconds, groups=groups,
        adapters=[os.fspath(path) for path in adapters], plans=plans, held=devices,
    )  # fmt: skip
    _write_json(folder / "history.json", _history(spec, job, data, asdict(result)))
    return MethodRun(spec, job, result, plans, devices)


def _simulate_method(
    settings: DemoSettings, spec: JobSpec, data: FederatedData, model: BaseModel, table: RoundTable
) -> MethodRun:
    # With torch, which a demo of real processes leaves to its agents.
    from fedhft.simulation.method_run import run_simulated
    from fedhft.simulation.run import Machine

    method = spec.method.preset
    table.say(f"{method}: {len(data.clients)} clients in this process")
    path = None if model.path is None else os.fspath(model.path)
    machine = Machine(settings.device)
    run = run_simulated(spec, data, path, lambda change: table.show(method, change), machine, profiles_file(settings))
    _write_json(settings.out / method / "history.json", _history(spec, run.job, data, asdict(run.result)))
    return run


def _export(
    federation: Federation, spec: JobSpec, job: jobs_pb2.Job, out: Path, model: BaseModel, table: RoundTable
) -> list[Path]:
    if not spec.method.combine.makes_one_model:
        return []
    table.say(f"{spec.method.preset}: exporting adapters")
    path = "" if model.path is None else os.fspath(model.path)
    exported = write_adapters(fetch_adapters(federation.jobs, spec.name), out, job, model.name, base_path=path)
    return [one.path for one in exported]


def _stop(federation: Federation, folder: Path, keep_logs: bool) -> None:
    federation.stop()
    if not keep_logs:
        shutil.rmtree(folder, ignore_errors=True)


def _history(spec: JobSpec, job: jobs_pb2.Job, data: FederatedData, result: dict[str, Any]) -> dict[str, Any]:
    """Everything the aggregator reported about the job, and what only the demo knows about its clients."""
    told = as_dict(job)
    rows = {client.client: client for client in data.clients}
    for client in told["results"]:
        own = rows[client["client"]]
        client["group"] = own.group if data.has_groups else None
        client["holdout_rows"] = len(own.holdout)
    return {
        "spec": json.loads(spec.canonical()),
        "rounds": told["history"],
        "final": told["final"],
        "clients": told["results"],
        "memberships": told["memberships"],
        "result": result,
    }


def _write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")
