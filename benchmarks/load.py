"""One real aggregator with a real Redis under many light clients: `python -m benchmarks.load`.

Updates of 300 KB (fp32, 26 arrays) and of 24 KB, 30 clients, several runs: median CPU of the aggregator per client and
round, beside a bare grpc.aio server that only takes and sends the same bytes. 300 KB from more and fewer clients:
seconds per round, how long a push takes, memory per further client (beyond 30). 4 MiB, blobs in a directory: peak
memory, which must not grow with the number of clients. Every run has a fresh Redis (appendfsync always) and a fresh
aggregator.

Exit code 1 when a target is missed. The comparison with Flower's server (at least 0.6 CPU seconds per client and round
were measured on this shape) is printed, too.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import echo
from benchmarks.figures import cpu_seconds, peak_bytes, quantile
from benchmarks.load_clients import Load, Shape
from fedhft.job import JobSpec, parse_job
from fedhft.jobs.client import JobsClient
from fedhft.local.processes import ServiceProcess
from fedhft.local.redis import EmbeddedRedis

SMALL = Shape(layers=6, width=920, rank=4)
"""24 factors and 2 head tensors, 300 KB after coding."""
TINY = Shape(layers=3, width=144, rank=4)
"""12 factors and 2 head tensors, 24 KB after coding: what a masked int8 update of a small model takes."""
LARGE = Shape(layers=13, width=768, rank=32)
"""50 factors and 2 head tensors, 4 MiB after coding."""
FLOWER_CPU_S = 0.6
"""CPU seconds of Flower's server per client and round at 300 KB in 26 arrays; measured: 0.6 to 1.0."""
TIMES_LESS = 20
MEMORY_SPREAD = 0.2
CPU_MS = {"300 KB": 8.0, "24 KB": 5.0}
"""Most CPU of the aggregator per client and round, milliseconds."""
ROUND_TRIPS = 15
"""Most round trips to Redis per client and round."""
MIB_PER_CLIENT = 0.12
_FILLED = 30
"""From this many clients on, the 16 places for uploads and the 8 MiB for decoded updates are in use: memory that does
not grow further with the number of clients."""
_TYPICAL = 30
"""Clients of the runs whose median counts."""


@dataclass(frozen=True)
class Run:
    """One job under load. Times in seconds, sizes in bytes."""

    clients: int
    rounds: int
    blobs: str
    update_bytes: int
    arrays: int
    seconds_per_round: float
    aggregator_cpu_per_client_round: float
    redis_cpu_per_client_round: float
    push_p50: float
    push_p99: float
    pull_p50: float
    pull_p99: float
    aggregator_peak_bytes: int
    clients_cpu_seconds: float
    round_trips: float
    """To Redis, per client and round."""
    resumed: int
    """Transfers that lost their place for standing still, and went on later."""


@dataclass(frozen=True)
class Typical:
    """The median of several runs with the same clients. CPU milliseconds per client and round."""

    update: str
    cpu_ms: float
    echo_ms: float
    round_trips: float


def job_of(name: str, clients: int, rounds: int, rank: int) -> JobSpec:
    """A FedIT job (one adapter, fp32 both ways) for `clients` clients, without evaluation."""
    return parse_job(
        {
            "name": name,
            "model": {"name": "load"},
            "task": {"labels": ["a", "b"]},
            "adapter": {"rank": rank},
            "method": "fedit",
            "rounds": {"total": rounds, "min_clients": clients, "deadline": "10m", "join_timeout": "10m"},
            "evaluation": {"every": 0, "final": False},
        }
    )


def measure(clients: int, rounds: int, shape: Shape, blobs_in_directory: bool) -> Run:
    """Run one job. Raises subprocess.CalledProcessError when the clients fail."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fedhft-load-")))
        redis = stack.enter_context(EmbeddedRedis(folder / "redis"))
        blobs = f"dir:{folder / 'blobs'}" if blobs_in_directory else "redis"
        arguments = [
            "--listen",
            "127.0.0.1:0",
            "--admin-listen",
            "127.0.0.1:0",
            "--redis",
            redis.url,
            "--blobs",
            blobs,
            "--metrics-port",
            "0",
        ]
        aggregator = ServiceProcess(
            "aggregator", "fedhft_aggregator", [*arguments, "--log-level", "warning"], folder / "log", {}
        )
        stack.callback(aggregator.kill)
        addresses = aggregator.wait_listening(30.0)
        jobs = stack.enter_context(JobsClient(str(addresses["admin"])))
        spec = job_of("load", clients, rounds, shape.rank)
        jobs.submit(spec)
        redis_pid = redis.pid or 0
        before, redis_before = cpu_seconds(aggregator.pid), cpu_seconds(redis_pid)
        load = Load(server=str(addresses["grpc"]), job=spec.name, clients=clients, shape=shape)
        ran = subprocess.run(
            [sys.executable, "-m", "benchmarks.load_clients", json.dumps(asdict(load))],
            stdout=subprocess.PIPE,
            check=True,
            timeout=3600,
        )
        figures = json.loads(ran.stdout)
        job = jobs.get(spec.name)
        client_rounds = clients * rounds
        return Run(
            clients=clients,
            rounds=rounds,
            blobs="directory" if blobs_in_directory else "redis",
            update_bytes=figures["update_bytes"],
            arrays=figures["arrays"],
            seconds_per_round=sum(entry.seconds for entry in job.history) / rounds,
            aggregator_cpu_per_client_round=(cpu_seconds(aggregator.pid) - before) / client_rounds,
            redis_cpu_per_client_round=(cpu_seconds(redis_pid) - redis_before) / client_rounds,
            push_p50=quantile(figures["pushes"], 0.50),
            push_p99=quantile(figures["pushes"], 0.99),
            pull_p50=quantile(figures["pulls"], 0.50),
            pull_p99=quantile(figures["pulls"], 0.99),
            aggregator_peak_bytes=peak_bytes(aggregator.pid),
            clients_cpu_seconds=figures["cpu_seconds"],
            round_trips=_round_trips(str(addresses["metrics"])) / client_rounds,
            resumed=figures["resumed"],
        )


def _round_trips(page: str) -> float:
    """Round trips to Redis so far, from the aggregator's metrics."""
    with urllib.request.urlopen(f"http://{page}/metrics", timeout=10) as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith("fedhft_store_round_trips_total "):
                return float(line.split()[1])
    raise RuntimeError("the aggregator's page has no fedhft_store_round_trips_total")


def typical(update: str, shape: Shape, runs: int, rounds: int) -> Typical:
    """Medians of several runs of 30 clients, each beside the bare echo of as many bytes."""
    measured, echoes = [], []
    for _ in range(runs):
        run = measure(_TYPICAL, rounds, shape, False)
        measured.append(run)
        echoes.append(echo.measure(_TYPICAL, run.update_bytes, rounds))
    return Typical(
        update=update,
        cpu_ms=1000 * statistics.median(run.aggregator_cpu_per_client_round for run in measured),
        echo_ms=1000 * statistics.median(echoes),
        round_trips=statistics.median(run.round_trips for run in measured),
    )


def verdicts(medians: Sequence[Typical], small: Sequence[Run], large: Sequence[Run]) -> dict[str, bool]:
    """Whether the figures meet each target."""
    shown = {}
    for one in medians:
        most_ms = CPU_MS[one.update]
        shown[f"{one.update}: at most {most_ms:g} ms of CPU per client-round"] = one.cpu_ms <= most_ms
        shown[f"{one.update}: at most {ROUND_TRIPS} round trips to Redis"] = one.round_trips <= ROUND_TRIPS
    filled = [run for run in small if run.clients >= _FILLED]
    if len(filled) > 1:
        fewest, most = min(filled, key=_clients), max(filled, key=_clients)
        grown = (most.aggregator_peak_bytes - fewest.aggregator_peak_bytes) / 2**20 / (most.clients - fewest.clients)
        shown[f"300 KB: {grown:.3f} MiB per further client, at most {MIB_PER_CLIENT}"] = grown <= MIB_PER_CLIENT
    if small:
        most = FLOWER_CPU_S / TIMES_LESS
        shown[f"at least {TIMES_LESS}x less CPU than Flower"] = all(
            run.aggregator_cpu_per_client_round <= most for run in small
        )
    if len(large) > 1:
        peaks = [run.aggregator_peak_bytes for run in large]
        shown[f"peak memory within {MEMORY_SPREAD:.0%}"] = max(peaks) <= (1 + MEMORY_SPREAD) * min(peaks)
    return shown


def _clients(run: Run) -> int:
    return run.clients


def show_medians(medians: Sequence[Typical], runs: int, console: Console) -> None:
    """Print the medians beside the echo."""
    table = Table(title=f"{_TYPICAL} clients, blobs in Redis, medians of {runs} runs; per client and round")
    for heading in ("update", "aggregator CPU ms", "bare echo CPU ms", "times the echo", "round trips to Redis"):
        table.add_column(heading, justify="right")
    for one in medians:
        cells = (f"{one.cpu_ms:.2f}", f"{one.echo_ms:.2f}", f"{one.cpu_ms / one.echo_ms:.1f}", f"{one.round_trips:.1f}")
        table.add_row(one.update, *cells)
    console.print(table)


def show(title: str, runs: Sequence[Run], console: Console) -> None:
    """Print one table."""
    table = Table(title=title)
    for heading in (
        "clients", "KB up", "s/round", "aggregator CPU s per client-round", "against Flower", "redis CPU s",
        "push p50 s", "push p99 s", "pull p50 s", "pull p99 s", "resumed", "peak MiB", "clients' CPU s",
    ):  # fmt: skip
        table.add_column(heading, justify="right")
    for run in runs:
        cpu = run.aggregator_cpu_per_client_round
        table.add_row(
            str(run.clients), f"{run.update_bytes / 1000:.0f}", f"{run.seconds_per_round:.2f}", f"{cpu:.4f}",
            f"{FLOWER_CPU_S / cpu:.0f}x less" if run.blobs == "redis" else "-", f"{run.redis_cpu_per_client_round:.4f}",
            f"{run.push_p50:.3f}", f"{run.push_p99:.3f}", f"{run.pull_p50:.3f}", f"{run.pull_p99:.3f}",
            str(run.resumed), f"{run.aggregator_peak_bytes / 2**20:.0f}", f"{run.clients_cpu_seconds:.1f}",
        )  # fmt: skip
    console.print(table)


def main() -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__.splitlines()[0])
    parser.add_argument("--clients", default="10,30,200", help="client counts of the 300 KB runs; empty: none")
    parser.add_argument("--large-clients", default="20,200", help="client counts of the 4 MiB runs; empty: none")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of every run")
    parser.add_argument("--runs", type=int, default=5, help="runs of 30 clients whose median counts; 0: none")
    parser.add_argument("--typical-rounds", type=int, default=20, help="rounds of each of them")
    parser.add_argument("--format", choices=("table", "json"), default="table", help="for people or for programs")
    options = parser.parse_args()
    console = Console(width=160) if options.format == "table" else Console(width=160, quiet=True)
    medians = []
    if options.runs:
        for update, shape in (("300 KB", SMALL), ("24 KB", TINY)):
            medians.append(typical(update, shape, options.runs, options.typical_rounds))
        show_medians(medians, options.runs, console)
    small = [measure(clients, options.rounds, SMALL, False) for clients in counts(options.clients)]
    if small:
        show("300 KB updates, blobs in Redis", small, console)
    large = [measure(clients, options.rounds, LARGE, True) for clients in counts(options.large_clients)]
    if large:
        show("4 MiB updates, blobs in a directory", large, console)
    shown = verdicts(medians, small, large)
    if options.format == "json":
        given = {"medians": [asdict(m) for m in medians]}
        print(
            json.dumps(
                {**given, "small": [asdict(r) for r in small], "large": [asdict(r) for r in large], "shown": shown}
            )
        )
    else:
        for what, held in shown.items():
            console.print(f"{'yes' if held else 'NO '}  {what}")
    return 0 if all(shown.values()) else 1


def counts(text: str) -> list[int]:
    """Client counts of "10,30,200"."""
    return [int(part) for part in text.split(",") if part.strip()]


if __name__ == "__main__":
    sys.exit(main())
