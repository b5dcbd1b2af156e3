"""A mixed fleet on a virtual clock, method beside method: `python -m benchmarks.fleet --data DIR` (a folder of SST-2).

Devices compute at a tenth to the whole of a speed that is measured on this machine in the same run (seconds of MiniLM
per layer and batch, forward and backward apart, times --slower), over links of 1 to 30 Mbit/s, with memory for some or
all layers. Training is real; only time is worked out (`fedhft.simulation.virtual`). Printed per method: seconds and
bytes until the accuracy on the common split has been reached, rounds, the mean share of a round that clients wait, and
two limits: no waiting at all, and no bytes at all.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from fedhft.datasets.client_data import ClientData
from fedhft.datasets.partition import Partition, Shares, hand_out
from fedhft.datasets.source import read_source
from fedhft.job import JobSpec, parse_job
from fedhft.local.base_model import packaged_minilm
from fedhft.simulation.devices import Profile
from fedhft.simulation.virtual import VirtualSimulation
from fedhft.training.base import load_base
from fedhft.training.worker import ClientWorker
from fedhft.v1 import jobs_pb2

LABELS = ("negative", "positive")


@dataclass(frozen=True)
class Arm:
    """One line of the table. keeps: whether devices keep frozen layers' outputs."""

    name: str
    method: Mapping[str, Any]
    changes: Mapping[str, Any] = field(default_factory=dict)
    keeps: bool = True
    thirds: tuple[int, ...] = ()
    """Depths of the fast, middle and slow third; () for all alike."""
    ranks: tuple[int, ...] = ()
    """Ranks of the fast, middle and slow third; () for all alike."""
    rate: float = 1e-2


_FP32 = {"up": "fp32", "down": "fp32", "error_feedback": False}
_INT8 = {"up": "int8", "down": "int8"}
_OURS = {"preset": "fedhft", "allocation": "capacity", "clusters": 1, "mask": "none"}
ARMS = (
    Arm("fedhft (capacity)", _OURS),
    Arm("legend", {"preset": "legend"}, {"adapter": {"rank": 5}}),  # the largest rank is that of the others
    Arm("fedit fp32", {"preset": "fedit"}, {"wire": _FP32}, keeps=False),
    Arm("fedit int8", {"preset": "fedit"}, {"wire": _INT8}, keeps=False),
    Arm("tiers 6/3/1 cached int8", {"preset": "fedit", "allocation": "tiers"}, {"wire": _INT8}, thirds=(6, 3, 1)),
    Arm("tiers 3/2/1 cached int8", {"preset": "fedit", "allocation": "tiers"}, {"wire": _INT8}, thirds=(3, 2, 1)),
    Arm("depth 1 cached int8", {"preset": "fedit"}, {"wire": _INT8, "adapter": {"depth": 1}}),
    Arm("depth 2 cached int8", {"preset": "fedit"}, {"wire": _INT8, "adapter": {"depth": 2}}),
    Arm("hetlora 8/4/2", {"preset": "hetlora"}, keeps=False, ranks=(8, 4, 2)),
    Arm("flexlora 8/4/2", {"preset": "flexlora"}, keeps=False, ranks=(8, 4, 2)),
    Arm("flora 8/4/2", {"preset": "flora"}, keeps=False, ranks=(8, 4, 2)),
    Arm("fedsa-lora", {"preset": "fedsa-lora"}, keeps=False),
    Arm("without cache", _OURS, keeps=False),
    Arm("without steps", _OURS, {"planning": {"least_steps": 1.0}}),
    Arm("without depth", _OURS, {"planning": {"depth": False}}),
    Arm("without coding", _OURS, {"wire": _FP32}),
    Arm("with ranks", _OURS, {"adapter": {"rank": 8, "ranks": "progression"}}),
    Arm("legend of rank 8", {"preset": "legend"}),
)
"""Lines "without" and "with" are the first one with one part left out or added."""


class _ReachedError(Exception):
    """The target is reached: the rest need not be run."""


def measured(spec: JobSpec, data: ClientData) -> tuple[float, float]:
    """Seconds of one layer and batch on this machine, forward and backward: medians of three trials."""
    worker = ClientWorker(spec, "trial", load_base(spec), data)
    worker.trial()
    found = [worker.trial() for _ in range(3)]
    return (
        median(one.forward_seconds / one.forward_layer_steps for one in found),
        median(one.backward_seconds / one.backward_layer_steps for one in found),
    )


def fleet(count: int, seed: int, forward: float, backward: float, layers: int) -> dict[str, dict[str, Any]]:
    """Devices with a spread of 10 in speed, 30 in links, and memory that a quarter of them has not for all layers."""
    draw = np.random.default_rng(seed)
    found = {}
    for place in range(count):
        slow = 10 ** draw.uniform()
        deepest = int(draw.integers(1, layers + 1)) if draw.uniform() < 0.25 else layers
        found[f"d{place:03}"] = {
            "forward": forward * slow,
            "backward": backward * slow,
            "fixed": 0.3,
            "up": 30 ** draw.uniform() * 125e3,
            "down": 30 ** draw.uniform() * 125e3,
            "deepest": deepest,
        }
    return found


def job(
    arm: Arm, seed: int, rounds: int, devices: Sequence[str], slow_first: Sequence[str], scored: int = 0
) -> JobSpec:
    """The job of an arm; depth or rank per third of devices where the arm has them. scored: rows per round; 0: all."""
    raw: dict[str, Any] = {
        "name": "fleet",
        "seed": seed,
        "model": {"name": str(packaged_minilm()), "max_length": 64},
        "task": {"labels": list(LABELS)},
        "adapter": {"rank": 8},
        "method": dict(arm.method),
        "training": {"learning_rate": arm.rate},
        "rounds": {"total": rounds, "deadline": "10d", "min_clients": len(devices)},
        "evaluation": {"final": False, "rows": scored},
        **arm.changes,
    }
    if thirds := arm.thirds or arm.ranks:
        names = ("slow", "middle", "fast")
        what = "depth" if arm.thirds else "rank"
        raw["tiers"] = {name: {what: given} for name, given in zip(names, reversed(thirds), strict=True)}
        raw["client_tiers"] = {device: names[3 * place // len(slow_first)] for place, device in enumerate(slow_first)}
    return parse_job(raw)


def clients_rows(
    options: argparse.Namespace, spec: JobSpec, devices: Sequence[str], seed: int
) -> dict[str, ClientData]:
    """Rows of every device, as many of them as drawn between --rows; a fifth of them held out."""
    least, most = options.rows
    data = hand_out(read_source(options.data, spec.task), Shares(Partition.IID, len(devices), most, 1.0, 1), seed)
    common = data.shared[0][: options.validation]
    draw = np.random.default_rng([seed, 1])
    found = {}
    for device, own in zip(devices, data.clients, strict=True):
        share = draw.integers(least, most, endpoint=True) / most
        train, holdout = (part[: round(share * len(part))] for part in (own.train, own.holdout))
        found[device] = ClientData.of(train, holdout, common)
    return found


def run(arm: Arm, options: argparse.Namespace, seed: int, profiles: Mapping[str, Any]) -> dict[str, Any]:
    """One arm on one seed, until the target is reached or the rounds are over."""
    slow_first = sorted(profiles, key=lambda name: -profiles[name]["forward"])
    spec = job(arm, seed, options.most_rounds, list(profiles), slow_first, options.scored)
    rows = clients_rows(options, spec, list(profiles), seed)
    # What the whole model needs in memory is not the question here for methods that do not choose a depth.
    kept = {name: Profile.model_validate({**one, "keeps_frozen_layers": arm.keeps}) for name, one in profiles.items()}
    curve: list[dict[str, float]] = []
    began = time.monotonic()

    def observe(told: jobs_pb2.Job) -> None:
        last = told.history[-1]
        curve.append(
            {
                "seconds": sum(one.seconds for one in told.history),
                "bytes": sum(one.payload_bytes_up + one.payload_bytes_down for one in told.history),
                "accuracy": last.shared_before,
                "asked": last.asked,
            }
        )
        if last.shared_before >= options.target:
            raise _ReachedError

    simulation = VirtualSimulation(spec, rows, load_base(spec), observe, profiles=kept)
    reached = False
    try:
        asyncio.run(simulation.run())
    except _ReachedError:
        reached = True
    last = curve[-1]
    busy = simulation.busy
    waiting = [1 - sum(taken) / len(taken) / max(taken) for taken in busy.values() if taken]
    result = {
        "arm": arm.name, "seed": seed, "reached": reached, "rounds": len(curve), **last,
        "waiting": sum(waiting) / len(waiting) if waiting else 0.0,
        "no waiting": sum(sum(taken) / len(taken) for taken in busy.values() if taken),
        "no bytes": sum(max(taken) for taken in simulation.computing.values() if taken),
        "curve": curve, "wall": time.monotonic() - began,
    }  # fmt: skip
    print(
        f"{arm.name:28s} seed {seed}: {'' if reached else 'NOT '}reached {last['accuracy']:.3f} "
        f"in {last['seconds']:.1f} s, {len(curve)} rounds, {last['bytes'] / 1e6:.2f} MB, "
        f"waiting {result['waiting']:.0%} ({result['wall']:.0f} s of this machine)",
        file=sys.stderr,
        flush=True,
    )
    return result


def _range(text: str) -> tuple[int, int]:
    least, most = map(int, text.split(","))
    return least, most


def main() -> int:
    """Run the arms that are asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with SST-2")
    parser.add_argument("--devices", type=int, default=40)
    parser.add_argument("--rows", type=_range, default=(100, 500), metavar="LEAST,MOST", help="of a device")
    parser.add_argument("--scored", type=int, default=32, help="rows that a client scores in a round, of each split")
    parser.add_argument("--validation", type=int, default=400, help="rows of the common split")
    parser.add_argument("--target", type=float, default=0.77)
    parser.add_argument("--most-rounds", type=int, default=40, help="rounds after which a method is given up")
    parser.add_argument("--slower", type=float, default=8.0, help="the fastest device against this machine")
    parser.add_argument(
        "--step", default="", metavar="MS,MS", help="forward, backward as another process of the same run measured them"
    )
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--only", default="", help="names of arms that begin with one of these, separated by commas")
    parser.add_argument("--out", type=Path, help="file for the results, JSON")
    options = parser.parse_args()
    wanted = [name.strip() for name in options.only.split(",") if name.strip()]
    arms = [arm for arm in ARMS if not wanted or any(arm.name.startswith(name) for name in wanted)]
    if options.step:
        forward, backward = (float(part) / 1e3 for part in options.step.split(","))
    else:
        probe = job(ARMS[2], 0, 1, ["a", "b"], [])
        forward, backward = measured(probe, clients_rows(options, probe, ["a", "b"], 0)["a"])
    print(f"measured: {1e3 * forward:.2f} ms forward, {1e3 * backward:.2f} ms backward per layer and batch of 16")
    results = []
    for seed in map(int, options.seeds.split(",")):
        profiles = fleet(options.devices, seed, options.slower * forward, options.slower * backward, 6)
        results += [run(arm, options, seed, profiles) for arm in arms]
    base = {one["seed"]: one for one in results if one["arm"] == "fedit fp32"}
    print(
        "| method | seed | reached | s | MB | rounds | waiting | s without waiting | s without bytes | times faster |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for one in results:
        faster = base[one["seed"]]["seconds"] / one["seconds"] if one["seed"] in base else float("nan")
        print(
            f"| {one['arm']} | {one['seed']} | {one['accuracy']:.3f} | {one['seconds']:.1f} | {one['bytes'] / 1e6:.2f} "
            f"| {one['rounds']} | {one['waiting']:.0%} | {one['no waiting']:.1f} | {one['no bytes']:.1f} | "
            f"{faster:.2f} |"
        )
    if options.out:
        options.out.write_text(json.dumps(results, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
