"""A federation whose processes are killed at random: `python -m benchmarks.chaos --kills 200`.

SIGKILL falls on Redis (its append-only file synced at every write), on two aggregators, on the clusterer and on agents,
each of which is started again a moment later, while job after job runs to its end. Agents are light: the real
connection, transfers and state files without a model (`benchmarks.chaos_agent`). Then the same jobs run undisturbed.

Exit code 1 unless all of this holds:

* every update that a client was told is accepted is recorded under the same digest, and was folded;
* every published blob equals that of the undisturbed run. A round whose memberships differ, because the clusterer was
  dead when it was asked, cannot be compared, nor can those after it in the job: they are counted and shown;
* every job completed, within its bound, and nothing ended that was not killed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.chaos_site import KINDS, JobTrace, Reaper, Site, Size, job_of
from fedhft.errors import FedhftError

WHOLE = Size()
BOUND_S = 300.0
"""Longest that a job may take, killed as its processes are."""


@dataclass
class Verdict:
    """What was found. Empty `faults` is what this is about."""

    kills: dict[str, int]
    jobs: int
    rounds: int
    seconds: float
    acknowledged: int
    folded: int
    compared: int
    """Rounds whose published bytes were compared."""
    slowest_s: float
    faults: list[str] = field(default_factory=list)


def run(folder: Path, kills: int, seed: int, pause_s: float, size: Size = WHOLE, bound_s: float = BOUND_S) -> Verdict:
    """Kill, then compare with an undisturbed run of the same jobs."""
    started = time.monotonic()
    faults: list[str] = []
    with Site(folder / "killed", size) as site:
        disturbed, failure = _disturbed(site, kills, seed, pause_s, bound_s)
        faults += failure
        site.check()
        faults += [f"ended by itself: {text}" for text in site.ended]
        acknowledged = site.acknowledged()
        traces = site.traces(disturbed)
    with Site(folder / "undisturbed", size) as calm:
        references = calm.traces([calm.run_job(job_of(seed, i, size), bound_s) for i in range(len(traces))])
        faults += [f"undisturbed, and yet ended by itself: {text}" for text in calm.ended]
    faults += [f"job {trace.name} ended as {trace.status}" for trace in traces if trace.status != "completed"]
    folded = {
        (client, trace.name, number, digest)
        for trace in traces
        for number, round_ in enumerate(trace.rounds, 1)
        if round_.accepted == size.clients
        for client, digest in round_.updates
    }
    faults += [f"acknowledged, not folded: {update}" for update in sorted(set(acknowledged) - folded)]
    compared = 0
    for trace, reference in zip(traces, references, strict=True):
        same, differing = _compare(trace, reference)
        compared += same
        faults += differing
    return Verdict(
        kills=site.kills,
        jobs=len(traces),
        rounds=sum(len(trace.rounds) for trace in traces),
        seconds=time.monotonic() - started,
        acknowledged=len(set(acknowledged)),
        folded=len(folded),
        compared=compared,
        slowest_s=max(trace.seconds for trace in traces),
        faults=faults,
    )


def _disturbed(site: Site, kills: int, seed: int, pause_s: float, bound_s: float) -> tuple[list[JobTrace], list[str]]:
    """Jobs, one after another, until all kills are done and the job of that moment is over."""
    finished: list[JobTrace] = []
    faults: list[str] = []
    enough = threading.Event()

    def work() -> None:
        while not enough.is_set() or not finished:
            try:
                finished.append(site.run_job(job_of(seed, len(finished), site.size), bound_s))
            except FedhftError as error:
                faults.append(f"job {len(finished)} could not be followed: {error}")
                return
            if finished[-1].status != "completed":
                return

    worker = threading.Thread(target=work, name="jobs", daemon=True)  # an interrupt does not wait for a job
    worker.start()
    Reaper(site, seed, pause_s).run(kills, lambda: not worker.is_alive())
    enough.set()
    worker.join(bound_s + 60.0)
    if worker.is_alive():
        faults.append("the last job did not end within its bound")
    return finished, faults


def _compare(trace: JobTrace, reference: JobTrace) -> tuple[int, list[str]]:
    """How many rounds published the same bytes, until memberships part; and what differs before that."""
    same = 0
    for number, (found, expected) in enumerate(zip(trace.rounds, reference.rounds, strict=False), 1):
        if found.membership_version != expected.membership_version:
            break
        if not found.blobs:
            return same, [f"job {trace.name} round {number}: nothing was published"]
        if found.blobs != expected.blobs:
            return same, [f"job {trace.name} round {number}: published bytes differ from the undisturbed run"]
        same += 1
    return same, []


def show(verdict: Verdict, console: Console) -> None:
    """Print the table and what is wrong."""
    table = Table(title="kills", title_justify="left")
    for kind in (*KINDS, "all"):
        table.add_column(kind, justify="right")
    table.add_row(*(str(count) for count in (*verdict.kills.values(), sum(verdict.kills.values()))))
    console.print(table)
    console.print(
        f"{verdict.jobs} jobs, {verdict.rounds} rounds in {verdict.seconds:.0f} s; "
        f"the slowest job took {verdict.slowest_s:.0f} s"
    )
    console.print(f"updates: {verdict.acknowledged} acknowledged, {verdict.folded} folded")
    console.print(f"published bytes: {verdict.compared} of {verdict.rounds} rounds compared with the undisturbed run")
    for fault in verdict.faults:
        console.print(f"FAULT {fault}", markup=False)
    console.print("failed" if verdict.faults else "passed")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks.chaos", description="Kill processes of a federation at random.")
    parser.add_argument("--kills", type=int, default=200, help="how many processes to kill")
    parser.add_argument("--seed", type=int, default=1, help="seed of jobs, victims and moments")
    parser.add_argument("--pause", type=float, default=1.5, help="mean seconds between two kills, about")
    parser.add_argument("--keep", type=Path, default=None, help="folder for logs and state, kept")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="fedhft-chaos-") as temporary:
        verdict = run(given.keep or Path(temporary), given.kills, given.seed, given.pause)
    show(verdict, Console())
    return 1 if verdict.faults else 0


if __name__ == "__main__":
    sys.exit(main())
