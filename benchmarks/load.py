"""One real aggregator with a real Redis under many light clients: `python -m benchmarks.load`.

Small updates (300 KB each way, fp32, 26 arrays): seconds per round, CPU seconds of the aggregator per client and round,
and how long a push takes. Large updates (4 MiB, blobs in a directory): the aggregator's peak memory, which must not
grow with the number of clients. Every run has a fresh Redis (appendfsync always) and a fresh aggregator.

Exit code 1 when the aggregator spends more than a twentieth of Flower's CPU (at least 0.6 CPU seconds per client and
round were measured on this shape), or when its peak memory differs by more than 20 percent between the large runs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.figures import cpu_seconds, peak_bytes, quantile
from benchmarks.load_clients import Load, Shape
from fedhft.job import JobSpec, parse_job
from fedhft.jobs.client import JobsClient
from fedhft.local.processes import ServiceProcess
from fedhft.local.redis import EmbeddedRedis

SMALL = Shape(layers=6, width=920, rank=4)
"""24 factors and 2 head tensors, 300 KB after coding."""
LARGE = Shape(layers=13, width=768, rank=32)
"""50 factors and 2 head tensors, 4 MiB after coding."""
FLOWER_CPU_S = 0.6
"""CPU seconds of Flower's server per client and round at 300 KB in 26 arrays; measured: 0.6 to 1.0."""
TIMES_LESS = 20
MEMORY_SPREAD = 0.2


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
        )


def verdicts(small: Sequence[Run], large: Sequence[Run]) -> dict[str, bool]:
    """Whether the figures meet each target."""
    shown = {}
    if small:
        most = FLOWER_CPU_S / TIMES_LESS
        shown[f"at least {TIMES_LESS}x less CPU than Flower"] = all(
            run.aggregator_cpu_per_client_round <= most for run in small
        )
    if len(large) > 1:
        peaks = [run.aggregator_peak_bytes for run in large]
        shown[f"peak memory within {MEMORY_SPREAD:.0%}"] = max(peaks) <= (1 + MEMORY_SPREAD) * min(peaks)
    return shown


def show(title: str, runs: Sequence[Run], console: Console) -> None:
    """Print one table."""
    table = Table(title=title)
    for heading in (
        "clients", "KB up", "s/round", "aggregator CPU s per client-round", "against Flower", "redis CPU s",
        "push p50 s", "push p99 s", "pull p50 s", "pull p99 s", "peak MiB", "clients' CPU s",
    ):  # fmt: skip
        table.add_column(heading, justify="right")
    for run in runs:
        cpu = run.aggregator_cpu_per_client_round
        table.add_row(
            str(run.clients), f"{run.update_bytes / 1000:.0f}", f"{run.seconds_per_round:.2f}", f"{cpu:.4f}",
            f"{FLOWER_CPU_S / cpu:.0f}x less" if run.blobs == "redis" else "-", f"{run.redis_cpu_per_client_round:.4f}",
            f"{run.push_p50:.3f}", f"{run.push_p99:.3f}", f"{run.pull_p50:.3f}", f"{run.pull_p99:.3f}",
            f"{run.aggregator_peak_bytes / 2**20:.0f}", f"{run.clients_cpu_seconds:.1f}",
        )  # fmt: skip
    console.print(table)


def main() -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__.splitlines()[0])
    parser.add_argument("--clients", default="10,30,200", help="client counts of the 300 KB runs; empty: none")
    parser.add_argument("--large-clients", default="20,200", help="client counts of the 4 MiB runs; empty: none")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of every run")
    parser.add_argument("--format", choices=("table", "json"), default="table", help="for people or for programs")
    options = parser.parse_args()
    small = [measure(clients, options.rounds, SMALL, False) for clients in counts(options.clients)]
    large = [measure(clients, options.rounds, LARGE, True) for clients in counts(options.large_clients)]
    shown = verdicts(small, large)
    if options.format == "json":
        print(json.dumps({"small": [asdict(r) for r in small], "large": [asdict(r) for r in large], "shown": shown}))
    else:
        console = Console(width=160)
        if small:
            show("300 KB updates, blobs in Redis", small, console)
        if large:
            show("4 MiB updates, blobs in a directory", large, console)
        for what, held in shown.items():
            console.print(f"{'yes' if held else 'NO '}  {what}")
    return 0 if all(shown.values()) else 1


def counts(text: str) -> list[int]:
    """Client counts of "10,30,200"."""
    return [int(part) for part in text.split(",") if part.strip()]


if __name__ == "__main__":
    sys.exit(main())
