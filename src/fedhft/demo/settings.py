"""A demo's settings, and what follows from them: its data and the job of each method, by pure functions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedhft.datasets import tickets
from fedhft.datasets.federated import FederatedData
from fedhft.datasets.partition import Partition, Shares, hand_out
from fedhft.datasets.source import read_source
from fedhft.documents import parse_toml
from fedhft.errors import ErrorCode, FedhftError
from fedhft.job import JobSpec, parse_job
from fedhft.job_sections import AdapterSpec
from fedhft.local.devices import CLASSES, LocalDevice, read_devices
from fedhft.methods import PRESETS, Allocation, Combine, MaskRule, method_of
from fedhft.training.tasks import kind_for

CORPUS_ROWS = (240, 120, 60)
"""Training rows of a client of the generated corpus, by tier: strong devices often have more data, so they do here."""
CORPUS_HOLDOUT = 60
CORPUS_VALIDATION = 180

_RATES = {"full": 1e-4}
_RATE = 3e-3
BUILT_IN, NO_DEVICES = "classes", "none"
"""Values of `devices` that are not files."""
ROUNDS = 6
ROUNDS_BY_CAPACITY = 12
_OF_ONE_METHOD = ("method", "wire")
"""Sections whose overrides apply to the main method only, not to those it is compared with."""


@dataclass(frozen=True)
class DemoSettings:
    """Settings of `fedhft demo`; every field is an option of that name."""

    out: Path
    method: str = "fedhft"
    compare: tuple[str, ...] = ()
    data: Path | None = None
    """Folder of real data; None generates the corpus."""
    clients: int = 6
    per_client: int = 400
    """Rows a client owns (real data)."""
    alpha: float = 1.0
    partition: Partition = Partition.DIRICHLET
    groups: int = 2
    extra_holdout: int = 0
    validation_rows: int = 2000
    tiers: tuple[float, ...] = (1.0, 0.5, 0.25)
    """Densities, or shares of the rank where the method combines unequal ranks; clients take them in turn."""
    rounds: int | None = None
    """None: ROUNDS, or ROUNDS_BY_CAPACITY where rounds are planned, and shorter for it."""
    seed: int = 0
    epochs: float = 1.0
    learning_rate: float | None = None
    learning_rate_decay: float = 1.0
    clusters: int | str | None = None
    """J or "auto" for clustered methods; None leaves it to the method."""
    overrides: tuple[str, ...] = ()
    """key=value with dotted keys of the job."""
    model: str | None = None
    """Path or hub id; None uses the packaged MiniLM."""
    device: str = "auto"
    """Where agents train, as they take it."""
    devices: str = ""
    """What agents are held to: `classes` (CLASSES), `none`, or a file (`local.devices`; for a simulation
    `simulation.devices`). Empty: classes, unless methods are compared or simulated, which has to give the same twice.
    """
    simulate: bool = False
    """Run every method in this process, without sockets; bytes on sockets, memory and CPU are then unknown."""
    tls: bool = False
    """Mutual TLS between all processes, with an authority made for the run."""
    keep_logs: bool = False
    timeout_s: float = 3600.0
    """Longest time one method may take."""

    @property
    def methods(self) -> tuple[str, ...]:
        """The main method, then those it is compared with."""
        return (self.method, *self.compare)

    def check(self) -> None:
        """Raises FedhftError(INVALID_ARGUMENT) for settings that cannot work."""

        def refuse(field: str, value: object, problem: str, fix: str) -> FedhftError:
            return FedhftError.field(ErrorCode.INVALID_ARGUMENT, field, value, problem, fix)

        for name in self.methods:
            if name not in PRESETS:
                raise refuse("method", name, "unknown", f"choose from {', '.join(sorted(PRESETS))}")
        if len(set(self.methods)) != len(self.methods):
            raise refuse("compare", ",".join(self.compare), "names a method twice", "name each method once")
        if self.clients < 2:
            raise refuse("clients", self.clients, "a federation needs at least two", "use 2 or more")
        if not self.tiers or not all(0 < density <= 1 for density in self.tiers):
            raise refuse("tiers", list(self.tiers), "must be densities above 0, at most 1", "write 1.0,0.5,0.25")
        if self.tls and self.simulate:
            raise refuse("tls", True, "a simulation has no connections", "leave out --tls or --simulate")
        if self.timeout_s <= 0:
            raise refuse("timeout", self.timeout_s, "must be positive", "give seconds")


def demo_data(settings: DemoSettings) -> FederatedData:
    """The rows of every client: the generated corpus, or the folder's rows, partitioned. Raises FedhftError."""
    if settings.data is None:
        tiers = tier_of_clients(settings.clients, len(settings.tiers), settings.groups)
        # Tiers are ranked strongest first here, in whatever order they were given.
        ranks = sorted(range(len(settings.tiers)), key=lambda tier: (-settings.tiers[tier], tier))
        rows = tuple(CORPUS_ROWS[min(ranks.index(tier), len(CORPUS_ROWS) - 1)] for tier in tiers)
        return tickets.generate(
            rows, holdout=CORPUS_HOLDOUT, validation=CORPUS_VALIDATION, groups=settings.groups, seed=settings.seed
        )
    shares = Shares(
        kind=settings.partition,
        clients=settings.clients,
        per_client=settings.per_client,
        alpha=settings.alpha,
        groups=settings.groups if settings.partition is Partition.GROUPS else 1,
        extra_holdout=settings.extra_holdout,
        validation_rows=settings.validation_rows,
    )
    return hand_out(read_source(settings.data), shares, settings.seed)


def demo_devices(settings: DemoSettings, clients: Sequence[str], groups: int) -> Mapping[str, LocalDevice]:
    """The device of every agent; none in a simulation, and where agents are held to nothing. Raises FedhftError."""
    wanted = settings.devices or (NO_DEVICES if settings.compare else BUILT_IN)
    if settings.simulate or wanted == NO_DEVICES:
        return {}
    if wanted == BUILT_IN:
        turns = tier_of_clients(len(clients), len(CLASSES), groups)
        return {name: CLASSES[turn] for name, turn in zip(clients, turns, strict=True)}
    return read_devices(Path(wanted), clients)


def profiles_file(settings: DemoSettings) -> Path | None:
    """The file of devices by which the time of a simulation passes; None: none does."""
    is_file = settings.simulate and settings.devices not in ("", BUILT_IN, NO_DEVICES)
    return Path(settings.devices) if is_file else None


def tier_of_clients(clients: int, tiers: int, groups: int) -> tuple[int, ...]:
    """Tier index of each client: in turn within each hidden group (client i is in group i % groups)."""
    return tuple((number // groups) % tiers for number in range(clients))


def _rounds(settings: DemoSettings, planned: bool) -> int:
    if settings.rounds is not None:
        return settings.rounds
    return ROUNDS_BY_CAPACITY if planned else ROUNDS


def demo_job(
    settings: DemoSettings,
    method: str,
    data: FederatedData,
    model: str,
    devices: Mapping[str, LocalDevice] | None = None,
) -> JobSpec:
    """The job of one method over the given data; `model` is what the job calls the base model.

    With devices, a method of tiers plans by capacity: nobody's tier is named, it follows from the memory of its device.

    Overrides of `method.*` and `wire.*` apply to the main method only; all others apply to every method, so that the
    comparison stays fair. Raises FedhftError: INVALID_ARGUMENT for an override that is not key=value, INVALID_JOB.
    """
    names = [client.client for client in data.clients]
    planned = bool(devices) or profiles_file(settings) is not None
    generated = settings.data is None
    raw: dict[str, Any] = {
        "name": f"demo-{method}",
        "seed": settings.seed,
        "clients": names,
        "model": {"name": model, "max_length": 64 if generated else 128},
        "task": {
            "kind": kind_for(data.labels),
            "labels": list(data.labels),
            "text_pair": "text_pair" if data.has_pairs else None,
        },
        "method": {"preset": method},
        **(_tiers_by_memory(settings, devices) if devices else _tiers_by_name(settings, data)),
        "training": {
            "learning_rate": settings.learning_rate or _RATES.get(method, _RATE),
            "learning_rate_decay": settings.learning_rate_decay,
            "epochs": settings.epochs,
            "batch_size": 8 if generated else 16,
        },
        "rounds": {
            "total": _rounds(settings, planned),
            "min_clients": len(names),
            "quorum": 1.0,
            "deadline": settings.timeout_s,
            "join_timeout": settings.timeout_s,
            "client_timeout": settings.timeout_s,
        },
    }
    if settings.clusters is not None and method_of(method).is_clustered:
        raw["method"]["clusters"] = settings.clusters
    for override in settings.overrides:
        key, value = parse_override(override)
        if method == settings.method or key[0] not in _OF_ONE_METHOD:
            _set(raw, key, value, override)
    choices = {**PRESETS[method], **raw["method"]}
    if choices.get("mask") == MaskRule.NONE and choices.get("combine") in [one for one in Combine if one.takes_ranks]:
        _as_ranks(raw)
    elif planned and choices.get("allocation", Allocation.TIERS) == Allocation.TIERS:
        raw["method"]["allocation"] = "capacity"
    return parse_job(raw)


def _tiers_by_name(settings: DemoSettings, data: FederatedData) -> dict[str, Any]:
    names = [f"density-{density:g}" for density in settings.tiers]
    clients = [client.client for client in data.clients]
    turns = tier_of_clients(len(clients), len(names), max(data.groups) + 1)
    return {
        "tiers": {name: {"density": density} for name, density in zip(names, settings.tiers, strict=True)},
        "client_tiers": {client: names[turn] for client, turn in zip(clients, turns, strict=True)},
    }


def _tiers_by_memory(settings: DemoSettings, devices: Mapping[str, LocalDevice]) -> dict[str, Any]:
    """A tier for every density, as far as there are devices of as many memories: the more memory, the denser."""
    densities = sorted(set(settings.tiers), reverse=True)
    memories = sorted({device.memory for device in devices.values()}, reverse=True)[: len(densities)]
    least = [*memories[:-1], 0]  # the last tier takes whatever is left
    return {
        "tiers": {
            f"density-{density:g}": {"density": density, "min_memory": memory}
            for density, memory in zip(densities, least, strict=False)
        }
    }


def _as_ranks(raw: dict[str, Any]) -> None:
    """Give smaller devices fewer columns in place of fewer rows."""
    most = raw.get("adapter", {}).get("rank", AdapterSpec().rank)
    for tier in raw["tiers"].values():
        share = tier.pop("density", 1.0)
        if share < 1:
            tier.setdefault("rank", math.ceil(share * most))


def parse_override(text: str) -> tuple[tuple[str, ...], Any]:
    """`a.b=value` as (("a", "b"), value); the value is parsed as TOML if it is TOML, else it is the text itself.

    Raises FedhftError(INVALID_ARGUMENT).
    """
    key, equals, value = text.partition("=")
    path = tuple(part.strip() for part in key.split("."))
    if not equals or not all(path):
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, "set", text, "is not key=value", "write it like server.momentum=0.5"
        )
    try:
        return path, parse_toml(f"value = {value}", text, ErrorCode.INVALID_ARGUMENT)["value"]
    except FedhftError:
        return path, value.strip()


def _set(raw: dict[str, Any], path: Sequence[str], value: Any, text: str) -> None:
    section = raw
    for part in path[:-1]:
        section = section.setdefault(part, {})
        if not isinstance(section, dict):
            raise FedhftError.field(
                ErrorCode.INVALID_ARGUMENT,
                "set",
                text,
                f"{part} is not a section of the job",
                "see `fedhft job schema`",
            )
    section[path[-1]] = value
