"""Targets of `benchmarks.fuzz` about devices: what agents measure, and files of devices as they are or might be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

import numpy as np
from google.protobuf.message import DecodeError
from pydantic import TypeAdapter

from benchmarks.fuzz_inputs import Target, from_bytes, from_messages
from fedhft.adapter import AdapterSchema
from fedhft.cli.job_plan import read_what_if
from fedhft.coordination.plan_explained import check_what_if, supposed
from fedhft.job import JobSpec
from fedhft.plan import AdapterPlan
from fedhft.planning.allocation import Candidate, allocate
from fedhft.planning.estimates import Capacity, Durations, bounded, estimated
from fedhft.planning.explanation import explain
from fedhft.planning.kept_rows import with_kept_rows
from fedhft.simulation.devices import LocalWork, read_profiles
from fedhft.v1 import capacity_pb2

KNOWN = Capacity(0.02, 0.03, 0.5, 4.0, 1e6, 2e6, keeps=True, reports=3, energy=250.0)
NAMES = ("ash", "oak")
_CAPACITY = TypeAdapter(Capacity)

WHAT_IF = b"""[devices.all]
slower = 2.5
[devices.ash]
up = "2 Mbit/s"
down = 300000
deepest = 1
"""
PROFILES = b"""[devices.phone]
clients = ["ash"]
forward = 0.12
backward = 0.1
fixed = 1.0
up = "2 Mbit/s"
down = 1250000.0
deepest = 1
absent = [3, 4]
[[devices.phone.changes]]
round = 6
slower = 10.0
[devices.box]
count = 1
forward = 0.01
backward = 0.01
keeps_frozen_layers = false
"""


def capacity_targets(folder: Path, spec: JobSpec, schema: AdapterSchema) -> list[Target]:
    """Durations, `job plan --what-if`, `simulate --devices`. spec: of a job that plans by capacity."""
    plan = AdapterPlan("", schema.layers, 1.0, 1.0, 0, train_a=True, train_b=True)
    offered = {name: Candidate(10.0, 12, 12, plan) for name in NAMES}
    path = folder / "devices.toml"

    def planned(known: Mapping[str, Capacity]) -> None:
        made = allocate(spec, schema, 1, offered, known, None)
        if made is None or not math.isfinite(made.horizon) or set(made.plans) != set(NAMES):
            raise AssertionError(f"devices that were accepted cannot be planned for: {made}")
        if not all(math.isfinite(one.seconds) for one in explain(spec, schema, 1, offered, known, made)):
            raise AssertionError("a plan takes no finite time")

    def durations(data: bytes) -> None:
        try:
            told = Durations.of(capacity_pb2.Durations.FromString(data))
        except DecodeError:
            return
        if told.problem(1, 2):
            return
        for before, seen in ((Capacity(), 0.0), (KNOWN, 5.0)):
            found = with_kept_rows(estimated(before, bounded(told, seen, 1.0)), told, 1, schema.layers, 2, 12)
            values = [value for one in fields(found) for value in np.ravel(getattr(found, one.name)).tolist()]
            if not all(value is None or math.isfinite(value) for value in values):
                raise AssertionError(f"an estimate is not finite: {found}")
            if _CAPACITY.validate_json(_CAPACITY.dump_json(found)) != found:
                raise AssertionError("an estimate does not come back from the store")
            if found.is_measured:
                planned({"ash": found, "oak": KNOWN})

    def what_if(data: bytes) -> None:
        path.write_bytes(data)
        devices = read_what_if(path)
        known = dict.fromkeys(NAMES, KNOWN)
        check_what_if(devices, known)
        planned(supposed(known, devices))

    def profiles(data: bytes) -> None:
        path.write_bytes(data)
        for profile in read_profiles(path, NAMES).values():
            told = Durations.of(profile.durations(6, LocalWork(forward=6.0, backward=6.0)))
            told.problem()

    measured = capacity_pb2.Durations(
        forward_seconds=1.5, forward_layer_steps=12, backward_seconds=2.0, backward_layer_steps=6, up_seconds=0.5,
        up_bytes=10**5, down_seconds=0.2, down_bytes=10**6, other_seconds=1.0, scoring_batches=3,
        keeps_frozen_layers=True, energy_joules=300.0,
    )  # fmt: skip
    return [
        Target("durations", from_messages(capacity_pb2.Durations, [measured.SerializeToString()]), durations),
        Target("what-if", from_bytes([WHAT_IF]), what_if),
        Target("devices", from_bytes([PROFILES]), profiles),
    ]
