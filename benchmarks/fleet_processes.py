"""A mixed fleet of real processes, method beside method: `python -m benchmarks.fleet_processes --data DIR`.

Eight agents (a folder of SST-2, MiniLM) are held to shares of a core from .05 to .25 and to links of 1 to 30 Mbit/s
(`fedhft.local.devices`), over real sockets. Printed per method: wall seconds of the rounds until the accuracy on the
common split has been reached, bytes, and what clients waited. With --slower NAME=ROUND=TIMES one agent becomes slower
in mid-job; the length of every round is printed then. The plans of the end are printed as `fedhft job plan` would.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.fleet import ARMS, Arm, job
from fedhft.cli.job_plan import print_plan
from fedhft.datasets.federated import ClientFiles, FederatedData
from fedhft.datasets.partition import Partition, Shares, hand_out
from fedhft.datasets.source import read_source
from fedhft.job import JobSpec
from fedhft.local.base_model import packaged_minilm
from fedhft.local.devices import LocalDevice
from fedhft.local.federation import Federation, FederationLayout
from fedhft.methods import Allocation
from fedhft.planning.device_kinds import Change
from fedhft.v1 import jobs_pb2

_SHARES = (0.25, 0.2, 0.16, 0.13, 0.1, 0.08, 0.06, 0.05)
_LINKS = (30, 4, 12, 1, 20, 2, 8, 1)
"""Mbit/s: fast and slow links do not go with fast and slow cores."""


class _ReachedError(Exception):
    """The target is reached: the rest need not be run."""


def devices(names: list[str], slower: Mapping[str, Change]) -> dict[str, LocalDevice]:
    """What each agent is held to."""
    return {
        name: LocalDevice(
            name=f"device-{place}", cpu=share, up=link * 125e3, down=2 * link * 125e3,
            changes=(slower[name],) if name in slower else (),
        )
        for place, (name, share, link) in enumerate(zip(names, _SHARES, _LINKS, strict=True))
    }  # fmt: skip


def run(arm: Arm, options: argparse.Namespace, data: FederatedData, held: Mapping[str, LocalDevice]) -> dict[str, Any]:
    """One arm, until the target is reached or the rounds are over."""
    slow_first = sorted(held, key=lambda name: held[name].cpu)
    spec = job(arm, options.seed, options.rounds, list(held), slow_first, options.scored)
    curve: list[dict[str, Any]] = []
    told: set[int] = set()

    def observe(change: jobs_pb2.Job) -> None:
        for entry in change.history:
            if entry.round in told:
                continue
            told.add(entry.round)
            curve.append(
                {
                    "round": entry.round,
                    "seconds": entry.seconds,
                    "bytes": entry.socket_bytes_up + entry.socket_bytes_down,
                    "accuracy": entry.shared_before,
                    "waiting": entry.work.waiting,
                    "depths": [entry.work.depth_least, entry.work.depth_most],
                    "accepted": entry.accepted,
                }
            )
            print(f"{arm.name}: {json.dumps(curve[-1])}", file=sys.stderr, flush=True)
            if entry.shared_before >= options.target and not options.slower:
                raise _ReachedError

    with tempfile.TemporaryDirectory(prefix="fedhft-fleet-") as folder:
        files = data.write(Path(folder) / "data")
        plan = federate(spec, Path(folder), files, held, observe, options.timeout)
    reached = next((place for place, one in enumerate(curve) if one["accuracy"] >= options.target), None)
    counted = curve if reached is None else curve[: reached + 1]
    return {
        "arm": arm.name, "reached": reached is not None, "rounds": len(counted),
        "seconds": sum(one["seconds"] for one in counted), "bytes": sum(one["bytes"] for one in counted),
        "accuracy": counted[-1]["accuracy"], "waiting": sum(one["waiting"] for one in counted) / len(counted),
        "curve": curve, "plan": plan,
    }  # fmt: skip


def federate(
    spec: JobSpec,
    folder: Path,
    files: Sequence[ClientFiles],
    held: Mapping[str, LocalDevice],
    observe: Any,
    timeout_s: float,
) -> list[dict[str, Any]]:
    """Run a job with real processes; returns the plans of its end, where it planned by capacity."""
    federation = Federation(FederationLayout(folder / "run", packaged_minilm(), devices=held))
    plans: list[dict[str, Any]] = []
    try:
        federation.start()
        federation.jobs.submit(spec)
        federation.start_agents(spec.name, [one.absolute() for one in files])
        with contextlib.suppress(_ReachedError):
            federation.follow(spec.name, timeout_s, observe)
        if spec.method.allocation is Allocation.CAPACITY:
            told = federation.jobs.plan(spec.name)
            print_plan(spec.name, told)
            plans = [
                {"client": one.client, "depth": one.depth, "steps": one.steps, "of": one.epoch_steps, "why": one.why}
                for one in told.clients
            ]
    finally:
        federation.stop(hurry=True)
    return plans


def main() -> int:
    """Run the arms that are asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with SST-2")
    parser.add_argument("--per-client", type=int, default=400, help="rows, a fifth of them held out")
    parser.add_argument("--validation", type=int, default=400, help="rows of the common split")
    parser.add_argument("--scored", type=int, default=32, help="rows that a client scores in a round, of each split")
    parser.add_argument("--target", type=float, default=0.77)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timeout", type=float, default=3600.0, help="longest time of one arm, seconds")
    parser.add_argument("--only", default="", help="names of arms that begin with one of these, separated by commas")
    parser.add_argument("--slower", default="", metavar="CLIENT=ROUND=TIMES", help="who becomes slower, and when")
    parser.add_argument("--out", type=Path, help="file for the results, JSON")
    options = parser.parse_args()
    wanted = [name.strip() for name in options.only.split(",") if name.strip()]
    arms = [arm for arm in ARMS if not wanted or any(arm.name.startswith(name) for name in wanted)]
    shares = Shares(Partition.IID, len(_SHARES), options.per_client, 1.0, 1, validation_rows=options.validation)
    probe = job(ARMS[0], 0, 1, ["a", "b"], [])
    data = hand_out(read_source(options.data, probe.task), shares, options.seed)
    slower = {}
    if options.slower:
        client, number, times = options.slower.split("=")
        names = [one.client for one in data.clients]
        if client not in names:
            parser.error(f"--slower: there is no client {client}; choose from {', '.join(names)}")
        slower[client] = Change(round=int(number), slower=float(times))
    held = devices([client.client for client in data.clients], slower)
    results = []
    for arm in arms:
        began = time.monotonic()
        results.append(run(arm, options, data, held))
        print(f"{arm.name}: {time.monotonic() - began:.0f} s with start and end", file=sys.stderr, flush=True)
    base = next((one["seconds"] for one in results if one["arm"] == "fedit fp32"), None)
    print("| method | reached | s | MB | rounds | waiting | times faster |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for one in results:
        faster = f"{base / one['seconds']:.2f}" if base else "-"
        print(
            f"| {one['arm']} | {one['accuracy']:.3f}{'' if one['reached'] else ' (not)'} | {one['seconds']:.0f} | "
            f"{one['bytes'] / 1e6:.2f} | {one['rounds']} | {one['waiting']:.0%} | {faster} |"
        )
    if options.out:
        options.out.write_text(json.dumps(results, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
