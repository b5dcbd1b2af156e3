"""One aggregator and ten thousand agents: `python -m benchmarks.scale`.

Real sockets: several processes of light clients, each client on a connection of its own. Idle, they wait for work in
long polls; then a round opens for a tenth of them; then rounds of a hundred participants run among few and among many
joined clients. The aggregator is given CPU seconds and memory by the kernel. What reads a whole job (a coordinator's
look, Get, Watch, the clusterer) is measured on a job written through the store: all clients, a thousand rounds.

Exit code 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

import grpc
from rich.console import Console
from rich.table import Table

from benchmarks import scale_job
from benchmarks.figures import cpu_seconds, resident_bytes
from benchmarks.scale_clients import SHAPE, Crowd
from fedhft.coordination.coordinator import Coordinator
from fedhft.coordination.describe import rounds_done
from fedhft.ids import JobId
from fedhft.job import JobSpec, parse_job
from fedhft.jobs.client import JobsClient
from fedhft.local.processes import ServiceProcess
from fedhft.local.redis import EmbeddedRedis
from fedhft.rounds.paging import HISTORY_PAGE
from fedhft.store.open import open_store
from fedhft.v1 import clustering_pb2, clustering_pb2_grpc

IDLE_CORE, IDLE_MIB, OPEN_CPU_S, LOOK_MS, TIMES_THE_COST = 0.25, 700.0, 1.2, 10.0, 1.3
_PER_PROCESS = 2500
_ROUNDS = 100
"""Rounds whose cost is measured: among ten thousand agents they take about a minute, the time between two polls."""
_PATIENCE_S = 900.0

T = TypeVar("T")


@dataclass
class Figures:
    """What was measured."""

    clients: int
    values: dict[str, float] = field(default_factory=dict)
    held: dict[str, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class Deployment:
    """Redis and an aggregator of their own."""

    redis: EmbeddedRedis
    aggregator: ServiceProcess
    server: str
    admin: str
    folder: Path


@contextmanager
def deployed() -> Iterator[Deployment]:
    """Start both; stop them at the end."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fedhft-scale-")))
        redis = stack.enter_context(EmbeddedRedis(folder / "redis"))
        arguments = ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--redis", redis.url]
        arguments += ["--metrics-port", "0", "--log-level", "warning"]
        aggregator = ServiceProcess("aggregator", "fedhft_aggregator", arguments, folder / "log", {})
        stack.callback(aggregator.kill)
        addresses = aggregator.wait_listening(60.0)
        yield Deployment(redis, aggregator, str(addresses["grpc"]), str(addresses["admin"]), folder)


class Crowds:
    """Processes of clients."""

    def __init__(self, deployment: Deployment, job: str, clients: int, deliver: bool) -> None:
        self._paths: list[Path] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        for first in range(0, clients, _PER_PROCESS):
            path = deployment.folder / f"{job}-{first}.json"
            last = min(clients, first + _PER_PROCESS) - 1
            crowd = Crowd(deployment.server, job, first, last, str(path), deliver)
            command = [sys.executable, "-m", "benchmarks.scale_clients", json.dumps(asdict(crowd))]
            self._processes.append(subprocess.Popen(command))
            self._paths.append(path)

    def total(self, name: str) -> int:
        """Sum of one figure over all processes."""
        return sum(json.loads(path.read_text(encoding="utf-8"))[name] for path in self._paths if path.exists())

    def wait(self, name: str, count: int) -> None:
        """Wait until a figure has come so far. Raises RuntimeError when it does not, or a process ended early."""
        until = time.monotonic() + _PATIENCE_S
        while (now := self.total(name)) < count:
            if time.monotonic() > until or any(process.poll() not in (None, 0) for process in self._processes):
                raise RuntimeError(f"{name}: {now} of {count}")
            time.sleep(0.02)

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.kill()
            process.wait()


def job_of(name: str, min_clients: int, rounds: int, sample: float) -> JobSpec:
    """A FedIT job without evaluation, whose rounds sample a share of its clients."""
    return parse_job(
        {
            "name": name,
            "model": {"name": "scale"},
            "task": {"labels": ["a", "b"]},
            "adapter": {"rank": SHAPE.rank},
            "method": "fedit",
            "rounds": {
                "total": rounds, "min_clients": min_clients, "sample": sample, "deadline": "1h", "join_timeout": "1h",
                "client_timeout": "10m",
            },
            "evaluation": {"every": 0, "final": False},
        }
    )  # fmt: skip


def idle_and_opening(figures: Figures, idle_s: float) -> None:
    """All clients wait; then one more joins, and a round opens for a tenth of them."""
    clients = figures.clients
    with deployed() as deployment, JobsClient(deployment.admin) as jobs, ExitStack() as stack:
        pid = deployment.aggregator.pid
        jobs.submit(job_of("idle", clients + 1, 1, 0.1))
        crowds = Crowds(deployment, "idle", clients, deliver=False)
        stack.callback(crowds.close)
        before = cpu_seconds(pid)
        crowds.wait("joined", clients)
        figures.values["CPU ms of an agent's enrolment and join"] = 1000 * (cpu_seconds(pid) - before) / clients
        time.sleep(80.0)  # every client's first long poll is over: polls are spread out from now on
        before, began = cpu_seconds(pid), time.monotonic()
        time.sleep(idle_s)
        core = (cpu_seconds(pid) - before) / (time.monotonic() - began)
        mib = resident_bytes(pid) / 2**20
        figures.values["polls repeated until then"] = crowds.total("repeated")
        figures.values["idle: cores"] = core
        figures.values["idle: MiB"] = mib
        figures.held[f"idle agents cost at most {IDLE_CORE} cores"] = core <= IDLE_CORE
        figures.held[f"and at most {IDLE_MIB:.0f} MiB"] = mib <= IDLE_MIB
        extra = Crowd(deployment.server, "idle", clients, clients, str(deployment.folder / "extra.json"), False)
        before, began = cpu_seconds(pid), time.monotonic()
        process = subprocess.Popen([sys.executable, "-m", "benchmarks.scale_clients", json.dumps(asdict(extra))])
        stack.callback(process.kill)
        asked = (clients + 1 + 9) // 10
        extra_path = deployment.folder / "extra.json"

        def received() -> int:
            own = json.loads(extra_path.read_text(encoding="utf-8"))["tasks"] if extra_path.exists() else 0
            return crowds.total("tasks") + int(own)

        _until(lambda: received() >= asked, f"{asked} tasks")
        used, wall = cpu_seconds(pid) - before, time.monotonic() - began
        figures.values["opening: CPU s until all have their tasks, idle agents included"] = used
        figures.values["opening: CPU s less what the idle agents cost meanwhile"] = used - core * wall
        figures.values["opening: participants"] = asked
        figures.held[f"a round reaches its participants within {OPEN_CPU_S} CPU s"] = used - core * wall <= OPEN_CPU_S


def cost_per_client_round(joined: int, asked: int, rounds: int) -> tuple[float, float]:
    """CPU milliseconds of the aggregator per participant and round: in all, and less what the idle ones cost."""
    with deployed() as deployment, JobsClient(deployment.admin) as jobs, ExitStack() as stack:
        pid = deployment.aggregator.pid
        # More rounds than are looked at, because at the end of a job all its agents are told at once.
        jobs.submit(job_of("rounds", joined + 1, rounds + 10, asked / (joined + 1)))
        crowds = Crowds(deployment, "rounds", joined, deliver=True)
        stack.callback(crowds.close)
        crowds.wait("joined", joined)
        time.sleep(60.0 if joined > 1000 else 3.0)
        before, began = cpu_seconds(pid), time.monotonic()
        time.sleep(55.0)  # the time between two polls of an agent: they joined together, and poll together
        core = (cpu_seconds(pid) - before) / (time.monotonic() - began)
        extra = Crowd(deployment.server, "rounds", joined, joined, str(deployment.folder / "extra.json"), True)
        before, began = cpu_seconds(pid), time.monotonic()
        process = subprocess.Popen([sys.executable, "-m", "benchmarks.scale_clients", json.dumps(asdict(extra))])
        stack.callback(process.kill)
        # Not with Get, which names every client: ten thousand, five times a second, for the aggregator to pay.
        _until(lambda: asyncio.run(_rounds_done(deployment, "rounds")) >= rounds, f"{rounds} rounds", 0.2)
        used, wall = cpu_seconds(pid) - before, time.monotonic() - began
        count = rounds * asked
        return 1000 * used / count, 1000 * max(0.0, used - core * wall) / count


async def _rounds_done(deployment: Deployment, job: str) -> int:
    store = open_store(deployment.redis.url, "redis")
    try:
        return rounds_done((await store.look(JobId(job), 0)).round)
    finally:
        await store.close()


def reading(figures: Figures, rounds: int) -> None:
    """A coordinator's look, Get, Watch and clustering of a job with everything in it."""
    clients = figures.clients
    with deployed() as deployment, ExitStack() as stack:
        asyncio.run(_written(deployment, clients, rounds, figures))
        jobs = stack.enter_context(JobsClient(deployment.admin))
        _read_history(jobs, figures, rounds)
        clusterer = ServiceProcess(
            "clusterer",
            "fedhft_clusterer",
            ["--listen", "127.0.0.1:0", "--redis", deployment.redis.url, "--metrics-port", "0"],
            deployment.folder / "clusterer.log",
            {},
        )
        stack.callback(clusterer.kill)
        address = str(clusterer.wait_listening(60.0)["grpc"])
        channel = stack.enter_context(grpc.insecure_channel(address))
        stub = clustering_pb2_grpc.ClusteringStub(channel)
        request = clustering_pb2.UpdateMembershipsRequest(job="look", expected_version=0, round=0)
        began = time.monotonic()
        answer = stub.UpdateMemberships(request, timeout=600)
        figures.values["clustering: seconds"] = time.monotonic() - began
        figures.values["clustering: clusters"] = answer.clusters
        figures.held["clustering publishes the three groups"] = (answer.version, answer.clusters) == (
            1,
            scale_job.GROUPS,
        )


def _read_history(jobs: JobsClient, figures: Figures, rounds: int) -> None:
    """What people wait for: the present with the newest rounds, and every round there is."""
    newest, clients = min(rounds, HISTORY_PAGE), figures.clients
    for call, ask in (
        ("Get", lambda: jobs.get("history", HISTORY_PAGE)),
        ("Watch", lambda: next(jobs.watch("history"))),
    ):
        seconds, job = _timed(ask)
        figures.values[f"{call}: seconds until the first message"] = seconds
        figures.values[f"{call}: bytes of it"] = job.ByteSize()
        figures.held[f"the first message of {call} brings the newest rounds, clients and memberships"] = (
            [entry.round for entry in job.history] == list(range(rounds - newest + 1, rounds + 1))
            and len(job.clients) == clients
            and len(job.memberships.rows) == clients
        )
    for name, ask in (
        ("Get", lambda: jobs.get("history")),
        ("Watch", lambda: next(jobs.watch("history", last=None))),
    ):
        figures.values[f"{name}: seconds until all rounds are there, page by page"], job = _timed(ask)
        figures.held[f"{name} brings every round once"] = [entry.round for entry in job.history] == list(
            range(1, rounds + 1)
        )


async def _written(deployment: Deployment, clients: int, rounds: int, figures: Figures) -> None:
    store = open_store(deployment.redis.url, "redis")
    try:
        for name in ("look", "history"):
            job = JobId(name)
            await store.create_job(job, scale_job.big_job(name, clients, rounds + 1).canonical())
            await store.acquire(job, scale_job.HOLDER, 3_600_000)  # before the aggregator discovers it
            await scale_job.write_clients(store, job, clients)
        coordinator = Coordinator(store, JobId("look"), None, scale_job.HOLDER)
        await coordinator.step()
        looks = []
        for _ in range(50):
            began = time.process_time()
            await coordinator.step()
            looks.append(1000 * (time.process_time() - began))
        figures.values["a coordinator's look: CPU ms"] = statistics.median(looks)
        figures.held[f"a look takes at most {LOOK_MS:.0f} ms"] = statistics.median(looks) <= LOOK_MS
        await scale_job.write_history(store, JobId("history"), clients, rounds)
    finally:
        await store.close()


def _timed(call: Callable[[], T]) -> tuple[float, T]:
    began = time.monotonic()
    answer = call()
    return time.monotonic() - began, answer


def _until(done: Callable[[], bool], what: str, pause_s: float = 0.02) -> None:
    until = time.monotonic() + _PATIENCE_S
    while not done():
        if time.monotonic() > until:
            raise RuntimeError(f"waited {_PATIENCE_S:.0f} s for {what}")
        time.sleep(pause_s)


def main() -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=10_000, help="agents")
    parser.add_argument("--idle-seconds", type=float, default=60.0, help="how long the idle agents are watched")
    parser.add_argument("--rounds", type=int, default=1000, help="rounds in the history of the job that is read")
    parser.add_argument("--only", default="idle,cost,reading", help="parts to run")
    parser.add_argument("--format", choices=("table", "json"), default="table", help="for people or for programs")
    options = parser.parse_args()
    parts = options.only.split(",")
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if most < options.clients + 200:
        print(f"this needs {options.clients + 200} open files; the limit here is {most}", file=sys.stderr)
        return 2
    figures = Figures(options.clients)
    if "idle" in parts:
        idle_and_opening(figures, options.idle_seconds)
    if "cost" in parts:
        few, few_net = cost_per_client_round(100, 101, _ROUNDS)
        many, many_net = cost_per_client_round(options.clients, 101, _ROUNDS)
        figures.values["100 joined: CPU ms per client-round"] = few
        figures.values["100 joined: less idle"] = few_net
        figures.values[f"{options.clients} joined: CPU ms per client-round"] = many
        figures.values[f"{options.clients} joined: less idle"] = many_net
        figures.held[f"a client-round among many costs at most {TIMES_THE_COST} times one among few"] = (
            many_net <= TIMES_THE_COST * few_net
        )
    if "reading" in parts:
        reading(figures, options.rounds)
    if options.format == "json":
        print(json.dumps(asdict(figures)))
    else:
        show(figures, Console(width=120))
    return 0 if all(figures.held.values()) else 1


def show(figures: Figures, console: Console) -> None:
    """Print the figures and the verdicts."""
    table = Table(title=f"{figures.clients} agents, {os.cpu_count()} cores shared with all of them")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for name, value in figures.values.items():
        table.add_row(name, f"{value:,.3f}" if value < 1000 else f"{value:,.0f}")
    console.print(table)
    for what, held in figures.held.items():
        console.print(f"{'yes' if held else 'NO '}  {what}")


if __name__ == "__main__":
    sys.exit(main())
