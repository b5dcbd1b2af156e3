"""Checks of what lies on this machine: rows, base model, memory, state directory. The agent's own code reads them."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fedhft.datasets.client_data import load_client_data
from fedhft.datasets.examples import Example
from fedhft.datasets.tables import read_table
from fedhft.errors import ErrorCode, FedhftError
from fedhft.job import JobSpec, parse_job
from fedhft.job_task import TaskSpec
from fedhft.planning.memory import VALUE_BYTES, trained_values
from fedhft.planning.tiers import plans, tier_of
from fedhft.records import PlanTooLarge
from fedhft.training.tasks import kind_for, task_of
from fedhft_agent.check.findings import Finding, Status, ok, warning
from fedhft_agent.check.scene import Fit, Scene, per_job
from fedhft_agent.state_directory import StateDirectory
from fedhft_agent.streaming import streams_model
from fedhft_agent.tier_fit import tier_fit

if TYPE_CHECKING:
    from fedhft.training.base import LoadedBase

STATE_COPIES = 8
"""Of all trained values: state and draft, each with adapters of several scopes and the carried error."""
LEAST_STATE_BYTES = 1 << 20
UNKNOWN_STATE_BYTES = 64 << 20
"""Room to ask for where no job is known."""
_NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)
_MOST_LABELS = 12
_LOAD_ALONE = {"task": {"kind": kind_for(())}}
"""What a model is loaded for where no job is known: any task loads the same weights."""


def check_data(scene: Scene) -> Iterator[Finding]:
    """Read every row of every split, as the jobs read them."""
    settings = scene.settings
    if scene.jobs:
        yield from per_job("data", scene.specs, partial(_rows_of_job, scene))
        return
    task = TaskSpec(labels=("0", "1"))  # for the usual names of columns
    for split, source in (
        ("train", settings.data),
        ("holdout", settings.holdout),
        ("shared validation", settings.shared_validation),
    ):
        if source is None:
            continue
        labels: Counter[str] = Counter()
        lacking, count = set(), 0
        for row in read_table(source, "train" if split == "train" else "validation"):
            count += 1
            lacking |= {task.text, task.label} - row.columns.keys()
            labels[repr(row.columns.get(task.label))] += 1
        if not count:
            raise FedhftError(ErrorCode.INVALID_DATA, f"data {source}: has no rows; give at least one")
        if lacking:
            names = ", ".join(sorted(lacking))
            yield warning(
                "data",
                f"{split}: {count} rows, not all with the columns {names}",
                "see that jobs name yours (task.text, task.label), or check with --job-file",
            )
        else:
            yield ok("data", f"{split}: {count} rows ({_shares(labels)}); no job is known to check labels against")


def _rows_of_job(scene: Scene, spec: JobSpec) -> Finding:
    settings = scene.settings
    data = load_client_data(spec, settings.client, settings.data, settings.holdout, settings.shared_validation)
    shared = "no shared validation split" if data.shared is None else f"{len(data.shared)} shared validation rows"
    count = f"{len(data.train)} training rows, {len(data.holdout)} held out, {shared}"
    if not spec.task.labels:
        targets = task_of(spec.task).describe(data.train)
        return ok("data", f"job {spec.name}: {count}" + (f"; {targets}" if targets else ""))
    labels = _named(data.train, spec.task.labels)
    absent = [label for label in spec.task.labels if label not in labels]
    detail = f"job {spec.name}: {count}; training labels: {_shares(labels)}"
    if absent:
        return warning(
            "data",
            f"{detail}; no row of {', '.join(absent[:_MOST_LABELS])}",
            "see that this is how the data is, and not how it was read",
        )
    return ok("data", detail)


def _named(rows: Sequence[Example], labels: Sequence[str]) -> Counter[str]:
    """How often each label is used; a row may have several."""
    used = (row.label if isinstance(row.label, tuple) else (int(row.label),) for row in rows)
    return Counter(labels[index] for indices in used for index in indices)


def _shares(labels: Counter[str]) -> str:
    total = max(1, labels.total())
    shown = [f"{name} {count / total:.0%}" for name, count in labels.most_common(_MOST_LABELS)]
    return ", ".join(shown) + (", ..." if len(labels) > _MOST_LABELS else "")


def check_model(scene: Scene) -> Iterator[Finding]:
    """Find the files, see that they are whole, and load the model if there is memory for it."""
    specs = scene.specs
    model = scene.settings.model
    if not specs and model is None:
        yield warning("model", "not checked: no job is known that names one", "give --model, or --job-file")
        return
    if not specs and model is not None:
        alone = parse_job({"name": "check", "model": {"name": model, "max_length": 4}, **_LOAD_ALONE})
        yield _model_of_job(scene, alone)
    yield from per_job("model", specs, partial(_model_of_job, scene))


def _model_of_job(scene: Scene, spec: JobSpec) -> Finding:
    from fedhft.training.base import load_base, model_folder
    from fedhft.training.device.choice import base_dtype, usable_device
    from fedhft.training.digest import read_config, tokenizer_digest
    from fedhft.training.schema import build_schema
    from fedhft.training.stored_weights import stored_dtype, stored_values

    folder = model_folder(scene.settings.model or spec.model.name, spec.model.revision)
    read_config(folder)
    values = stored_values(folder)
    device = usable_device(scene.device)
    weights_bytes = base_dtype(device, spec, stored_dtype(folder)).itemsize * values
    tokenizer_digest(folder)
    streamed = streams_model(scene.settings, values)
    if not streamed and scene.free is not None and weights_bytes > scene.free.bytes:
        scene.weights_bytes = max(scene.weights_bytes, weights_bytes)
        size = f"{_size(weights_bytes)} in memory"
        return warning("model", f"{folder}: all files whole, {size}, which is more than is free, so it was not loaded")
    base = load_base(spec, scene.settings.model, device=device, streamed=streamed)
    if base.streamed is not None:
        weights = base.streamed.weights_at(1)
        weights_bytes = weights.own + weights.mapped
    scene.weights_bytes = max(scene.weights_bytes, weights_bytes)
    whole = f"{folder}: all files whole, {_size(weights_bytes)} in memory"
    known = any(spec is job.spec for job in scene.jobs)
    if known:
        scene.schemas[spec.name] = build_schema(base, spec)
        scene.fits[spec.name] = _fit(scene, spec, base)
    digest = base.digest[:12]
    del base
    gc.collect()
    return ok("model", f"{whole}, digest {digest}" + (f"; fits job {spec.name}" if known else ""))


def _fit(scene: Scene, spec: JobSpec, base: LoadedBase) -> Fit | FedhftError | None:
    """The tier whose plan an agent would carry out here, found as it does; None where that cannot be known."""
    from fedhft.training.network import Network
    from fedhft.training.prefix.cache import KEPT_AS
    from fedhft.training.prefix.folder import PrefixFolder
    from fedhft.training.worker import ClientWorker

    settings = scene.settings
    try:
        data = load_client_data(spec, settings.client, settings.data, settings.holdout, settings.shared_validation)
    except FedhftError:
        return None  # which is told of the data
    declined: list[PlanTooLarge] = []
    if settings.cache_folder is not None and settings.cache_size:
        # Passes cost less from a cache on. It stays empty, and is not the agent's: that may be running.
        with tempfile.TemporaryDirectory() as scratch:
            folder = PrefixFolder.open(Path(scratch), 1)
            if folder is not None:
                Network.on(base, spec).cache_prefix(folder, KEPT_AS[settings.cache_dtype])
                folder.close()
    worker = ClientWorker(spec, settings.client, base, data, None, settings.memory)
    try:
        while True:
            tier = tier_of(spec, settings.client, settings.memory, settings.tier, declined)
            found = tier_fit(worker, tier)
            if found.lacking is None:
                return Fit(tier, tuple(declined))
            declined.append(PlanTooLarge(tier=tier, needed=found.lacking.needed, allowed=found.lacking.allowed))
            if found.layers:
                return Fit(tier, tuple(declined), found.layers)
    except FedhftError as error:
        return error


def check_memory(scene: Scene) -> Iterator[Finding]:
    """What the agent may use against what is free, and the model and its plans against both."""
    stated, needed = scene.settings.memory, scene.weights_bytes
    if scene.free is None:
        free = "this system does not say how much is free"
    else:
        free = f"{_size(scene.free.bytes)} free (by {scene.free.bound_by})"
    if scene.free is not None and needed > scene.free.bytes:
        raise FedhftError(
            ErrorCode.PLAN_TOO_LARGE,
            f"{free}, but the model's weights alone take {_size(needed)}; free some, or use a smaller model",
        )
    if stated and needed > stated:
        raise FedhftError(
            ErrorCode.PLAN_TOO_LARGE,
            f"--memory = {_size(stated)}, but the model's weights alone take {_size(needed)}; raise --memory, or use "
            "a smaller model",
        )
    unfit = [
        finding
        for finding in per_job("memory", scene.specs, partial(_plan_of_job, scene))
        if finding.status is not Status.OK
    ]
    yield from unfit
    if any(finding.status is Status.FAILED for finding in unfit):
        return
    told = f"--memory is {_size(stated)}" if stated else "--memory is not stated"
    if scene.free is not None and stated > scene.free.bytes:
        yield warning(
            "memory",
            f"{told}, more than the {free}; the kernel may end the agent",
            "lower it, or write --memory auto",
        )
    else:
        yield ok("memory", f"{free}; {told}" + (f"; the model's weights take {_size(needed)}" if needed else ""))


def _plan_of_job(scene: Scene, spec: JobSpec) -> Finding:
    settings = scene.settings
    fit = scene.fits.get(spec.name)
    if isinstance(fit, FedhftError):
        raise fit
    if fit is None:
        tier = tier_of(spec, settings.client, settings.memory, settings.tier)
        return ok("memory", f"job {spec.name}: tier {tier}")
    if fit.declined:
        lacking = "; ".join(
            f"the plan of tier {one.tier} needs {_size(one.needed)} of {_size(one.allowed)}" for one in fit.declined
        )
        instead = (
            f"trains at most {fit.layers} layers" if fit.layers else f"asks for a smaller one and gets tier {fit.tier}"
        )
        return warning(
            "memory",
            f"job {spec.name}: {lacking}, so the agent {instead}",
            "give the agent more memory for more layers",
        )
    return ok("memory", f"job {spec.name}: tier {fit.tier}")


def check_disk(scene: Scene) -> Iterator[Finding]:
    """Whether state can be kept: the folder takes files, and there is room for what the jobs need."""
    folder = scene.settings.state_folder
    try:
        with StateDirectory(folder):
            pass
    except FedhftError as error:
        if not isinstance(error.__cause__, BlockingIOError):
            raise
        yield warning("disk", f"{folder}: an agent is running with it", "stop it before another one starts")
    needed = _state_bytes(scene)
    free = shutil.disk_usage(folder).free
    _write_probe(folder, min(needed, LEAST_STATE_BYTES))
    room = f"{folder}: {_size(free)} free"
    if free < needed:
        yield warning(
            "disk",
            f"{room}, and state may take {_size(needed)}; without room the agent trains again after a restart",
            "free some, or move --state-dir",
        )
    else:
        yield ok("disk", f"{room}; state may take {_size(needed)}")


def _state_bytes(scene: Scene) -> int:
    if not scene.schemas:
        return UNKNOWN_STATE_BYTES
    largest = 0
    for spec in scene.specs:
        schema = scene.schemas.get(spec.name)
        if schema is not None:
            # The first of any tiers will do: at full density, depth and rank all have the same plan.
            plan = plans(spec, schema, {"": next(iter(spec.tiers))})[""]
            whole = replace(plan, density=1.0, depth=schema.layers, rank=0)
            largest = max(largest, VALUE_BYTES * STATE_COPIES * trained_values(whole, schema))
    return max(largest, LEAST_STATE_BYTES)


def _write_probe(folder: Path, size: int) -> None:
    """Write and sync a file, and remove it. Raises FedhftError(STORE_FULL), (INVALID_ARGUMENT)."""
    probe = folder / f".check-{os.getpid()}"
    try:
        with probe.open("wb", buffering=0) as stream:
            written = 0
            while written < size:
                written += stream.write(bytes(min(1 << 16, size - written))) or 0
            os.fsync(stream.fileno())
    except OSError as error:
        full = error.errno not in _NOT_ALLOWED
        raise FedhftError.field(
            ErrorCode.STORE_FULL if full else ErrorCode.INVALID_ARGUMENT, "--state-dir", str(folder),
            f"{_size(size)} cannot be written ({error.strerror})",
            "free some space, or name a directory on another disk" if full
            else "name a directory that this user can write to",
        ) from error  # fmt: skip
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()


def _size(count: int) -> str:
    value, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
