"""A real aggregator process, and agents on a tiny model: inside the test's process, or as processes of their own."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedhft_agent.connection import Connection, Peer
from fedhft_agent.energy import NO_METER, EnergyMeter
from fedhft_agent.heartbeat import INTERVAL_S
from fedhft_agent.owner_rules import NO_RULES, OwnerRules
from fedhft_agent.session import Enlistment, Session
from redis import Redis

from fedhft.datasets.client_data import load_client_data
from fedhft.ids import ClientId
from fedhft.job import JobSpec, parse_job
from fedhft.jobs.client import JobsClient, is_over
from fedhft.local.processes import ServiceProcess, stop_all
from fedhft.process.signals import StopSignal
from fedhft.rpc.retry import Backoff
from fedhft.training.base import load_base
from fedhft.training.worker import ClientWorker
from fedhft.v1 import federation_pb2, jobs_pb2
from tests.models import rows, tiny_model

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}


def free_address() -> str:
    """An address of this machine for a server that has to be found there again after a restart."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@dataclass(frozen=True)
class Site:
    """Where everything is."""

    folder: Path
    server: str
    admin: str
    model: Path

    def job(self, name: str, **sections: Any) -> JobSpec:
        """A two-class job on the tiny model for one client; sections are merged into the defaults."""
        raw: dict[str, Any] = {
            "name": name,
            "model": {"name": str(self.model), "max_length": 32},
            "task": {"labels": ["bad", "good"]},
            "adapter": {"rank": 4},
            "method": {"preset": "fedhft", "clusters": 1},
            "training": {"learning_rate": 0.01, "batch_size": 8},
            "rounds": {"total": 2, "min_clients": 1, "quorum": 1.0, "deadline": "60s", "join_timeout": "60s"},
            "evaluation": {"final": False},
        }
        for section, value in sections.items():
            raw[section] = {**raw[section], **value} if isinstance(value, dict) and section in raw else value
        return parse_job(raw)

    def submit(self, name: str, **sections: Any) -> JobSpec:
        spec = self.job(name, **sections)
        with JobsClient(self.admin) as jobs:
            jobs.submit(spec)
        return spec

    def get(self, name: str) -> jobs_pb2.Job:
        with JobsClient(self.admin) as jobs:
            return jobs.get(name)

    def ended(self, name: str) -> jobs_pb2.Job:
        with JobsClient(self.admin) as jobs:
            for job in jobs.watch(name):
                if is_over(job):
                    return job
        raise AssertionError("the watch ended before the job")

    def data(self, client: str, count: int = 40) -> Path:
        path = self.folder / f"{client}.jsonl"
        if not path.exists():
            path.write_text("\n".join(json.dumps(row) for row in rows(count, 7 * len(client))), encoding="utf-8")
        return path

    def process(self, client: str, *arguments: str, data: Path | None = None, state: str = "") -> ServiceProcess:
        """A real agent."""
        given = ["--server", self.server, "--client", client, "--data", str(data or self.data(client))]
        given += ["--state-dir", str(self.folder / (state or f"state-{client}")), "--threads", "1", *arguments]
        log = self.folder / f"{client}-{len(list(self.folder.glob('*.log')))}.log"
        return ServiceProcess(client, "fedhft_agent", given, log, ENVIRONMENT)


class InProcessAgent:
    """The parts of an agent, put together for one job, with its worker at hand. A context manager."""

    def __init__(
        self,
        site: Site,
        spec: JobSpec,
        client: str = "ash",
        *,
        state: Path | None = None,
        memory_bytes: int = 0,
        tier: str = "",
        model: Path | None = None,
        stop: StopSignal | None = None,
        heartbeat_s: float = INTERVAL_S,
        rules: OwnerRules = NO_RULES,
        energy: EnergyMeter = NO_METER,
    ) -> None:
        base = load_base(spec, str(model) if model else None)
        data = load_client_data(spec, client, site.data(client))
        self.trained: list[int] = []
        self.worker = _Counting(spec, client, base, data, state, memory_bytes, self.trained)
        self.stop = stop or StopSignal()
        peer = Peer(site.server, ClientId(client), memory_bytes=memory_bytes, backoff=Backoff(0.05, 0.5))
        self.connection = Connection(peer, self.stop)
        enlistment = Enlistment(tier=tier)
        self.session = Session(self.connection, self.stop, spec, self.worker, enlistment, rules, heartbeat_s, energy)

    def __enter__(self) -> InProcessAgent:
        self.connection.__enter__()
        self.connection.enroll()
        return self

    def __exit__(self, *failure: Any) -> None:
        self.connection.__exit__(*failure)

    def run(self) -> federation_pb2.FinishedTask:
        return self.session.run()


class _Counting(ClientWorker):
    """A worker that remembers which rounds it trained, and lets a test act before or after."""

    before_training: Callable[[], None] = staticmethod(lambda: None)

    def __init__(
        self, spec: JobSpec, client: str, base: Any, data: Any, state: Path | None, memory: int, trained: list[int]
    ) -> None:
        super().__init__(spec, client, base, data, state, memory)
        self._trained = trained

    def train(self, task: federation_pb2.TrainTask, should_stop: Callable[[], bool] = lambda: False) -> Any:
        self._trained.append(task.round)
        self.before_training()
        return super().train(task, should_stop)


@contextmanager
def running_site(folder: Path, redis_url: str) -> Iterator[Site]:
    """A site with an aggregator of its own, stopped at the end, and this Redis, emptied of other jobs."""
    with Redis.from_url(redis_url) as client:
        client.flushall()
    arguments = [
        "--redis",
        redis_url,
        "--listen",
        "127.0.0.1:0",
        "--admin-listen",
        "127.0.0.1:0",
        "--metrics-port",
        "0",
    ]
    aggregator = ServiceProcess("aggregator", "fedhft_aggregator", arguments, folder / "aggregator.log", ENVIRONMENT)
    try:
        found = aggregator.wait_listening(60)
        yield Site(folder, found["grpc"], found["admin"], tiny_model(folder / "model", layers=2))
    finally:
        stop_all([aggregator], 0.0, 15.0)
