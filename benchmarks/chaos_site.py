"""The federation of `benchmarks.chaos`: Redis, two aggregators, a clusterer and six light agents, all mortal."""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from benchmarks.chaos_agent import NAMES
from fedhft.coordination.history import RoundHistory
from fedhft.ids import JobId
from fedhft.job import JobSpec, parse_job
from fedhft.jobs.client import JobsClient, is_over
from fedhft.local.processes import ServiceProcess
from fedhft.local.redis import EmbeddedRedis
from fedhft.store.open import open_store

AGGREGATORS = ("aggregator-0", "aggregator-1")
KINDS = ("redis", "aggregator", "clusterer", "agent")
_WEIGHTS = {"redis": 3, "aggregator": 6, "clusterer": 2, "agent": 9}
"""How often a kind is killed, compared with the others."""
_LISTEN_S = 60.0
_TAKEOVER_S = "3"
"""Shorter than usual: more rounds for the same kills, and leases that run out in their middle."""
_MANY = 10
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


@dataclass(frozen=True)
class Size:
    """How much runs. A job has fewer rounds than the versions that are kept, so that all can be read when it ended."""

    clients: int = len(NAMES)
    rounds: int = 6


def job_of(seed: int, number: int, size: Size) -> JobSpec:
    """The job with a number: by turns in one cluster, and in two that are fitted again after every round.

    A round waits for all of its clients, however long those are dead, so its updates do not depend on chance.
    """
    return parse_job(
        {
            "name": f"chaos-{number:03d}",
            "seed": seed * 1000 + number,
            "model": {"name": "light"},
            "task": {"labels": ["a", "b"]},
            "adapter": {"rank": 8},
            "method": {"preset": "fedhft", "clusters": 1 + (seed + number) % 2},
            "rounds": {
                "total": size.rounds,
                "min_clients": size.clients,
                "quorum": 1.0,
                "deadline": "60s",
                "extensions": 100,
                "join_timeout": "1h",
                "client_timeout": "1h",
            },
            "evaluation": {"final": False, "every": 0},
        }
    )


@dataclass(frozen=True)
class RoundTrace:
    """What a round left in the store: its version's blobs, the memberships it used, whose updates were folded."""

    blobs: tuple[tuple[str, str], ...]
    membership_version: int
    accepted: int
    updates: tuple[tuple[str, str], ...]
    """(client, digest) of every recorded update."""


@dataclass(frozen=True)
class JobTrace:
    """A finished job."""

    name: str
    status: str
    seconds: float
    rounds: tuple[RoundTrace, ...] = ()


@dataclass
class Site:
    """Context manager; processes are killed and started again by name."""

    folder: Path
    size: Size = Size()
    kills: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    ended: list[str] = field(default_factory=list)
    """What ended although nobody killed it."""

    def __enter__(self) -> Site:
        self._stack = ExitStack()
        self._redis = self._stack.enter_context(EmbeddedRedis(self.folder / "redis"))
        self._agents = NAMES[: self.size.clients]
        self._ports = {name: (_free(), _free()) for name in (*AGGREGATORS, "clusterer")}
        self._processes: dict[str, ServiceProcess] = {}
        self._starts = 0
        for name in ("clusterer", *AGGREGATORS, *self._agents):
            self.start(name)
        for name in ("clusterer", *AGGREGATORS):
            self._processes[name].wait_listening(_LISTEN_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes.values():
            process.kill()  # what has survived so many kills needs no asking
        self._stack.close()

    @property
    def mortals(self) -> Mapping[str, Sequence[str]]:
        """Kind -> names of its processes."""
        return {"redis": ["redis"], "aggregator": AGGREGATORS, "clusterer": ["clusterer"], "agent": self._agents}

    @property
    def redis_url(self) -> str:
        """Where the store is."""
        return self._redis.url

    def start(self, name: str) -> None:
        """Start a process that is not running."""
        if name == "redis":
            self._redis.start()
            return
        self._starts += 1
        log = self.folder / "logs" / f"{name}-{self._starts:04d}.log"
        module, arguments = self._command(name)
        self._processes[name] = ServiceProcess(name, module, arguments, log, _ENVIRONMENT)

    def kill(self, name: str) -> None:
        """SIGKILL; notes one that had ended by itself before."""
        if name == "redis":
            self._redis.kill()
        else:
            process = self._processes[name]
            if process.exit_code is not None:
                self.ended.append(str(process.failure()))
            process.kill()
        self.kills[next(kind for kind, names in self.mortals.items() if name in names)] += 1

    def check(self) -> None:
        """Start again what ended by itself, and note it."""
        for name, process in list(self._processes.items()):
            code = process.exit_code
            if code is not None and code >= 0:
                self.ended.append(str(process.failure()))
                self.start(name)

    def admin(self, patience_s: float) -> JobsClient:
        """A client of the Jobs service of the first replica, patient while it is dead."""
        return JobsClient(f"127.0.0.1:{self._ports['aggregator-0'][1]}", give_up_after_s=patience_s)

    def run_job(self, spec: JobSpec, bound_s: float) -> JobTrace:
        """Submit a job and wait for its end, at most so long."""
        started = time.monotonic()
        status = "hung"
        with self.admin(bound_s) as jobs:
            jobs.submit(spec)
            while time.monotonic() - started < bound_s:
                job = jobs.get(spec.name, last=1)
                if is_over(job):
                    status = job.status if job.status == "completed" else f"{job.status}: {job.reason}"
                    break
                time.sleep(0.1)
            else:
                status = f"hung: {job.status}, round {job.open_round}, {job.accepted} of {job.asked}; {job.blocked}"
        return JobTrace(spec.name, status, time.monotonic() - started)

    def traces(self, jobs: Sequence[JobTrace]) -> list[JobTrace]:
        """The jobs with what the store has of their rounds."""
        return asyncio.run(self._traces(jobs))

    def acknowledged(self) -> list[tuple[str, str, int, str]]:
        """(client, job, round, digest) of every update that a client was told is accepted, from the clients' files."""
        lines = []
        for client in self._agents:
            text = (self.folder / client / "acknowledged").read_text(encoding="utf-8")
            for line in text.split("\n")[:-1]:  # killed while it wrote, an agent acknowledges again
                job, number, digest = line.split(" ")
                lines.append((client, job, int(number), digest))
        return lines

    async def _traces(self, jobs: Sequence[JobTrace]) -> list[JobTrace]:
        store = open_store(self.redis_url, "redis")
        found = []
        try:
            for trace in jobs:
                job, rounds = JobId(trace.name), []
                history = [RoundHistory.from_json(text).summary for text in (await store.history(job)).entries]
                for summary in history:
                    version = await store.version(job, summary.round)
                    updates = await store.updates(job, summary.round)
                    blobs = {**version.deltas, **version.server_state} if version else {}
                    rounds.append(
                        RoundTrace(
                            blobs=tuple(sorted((scope, blob.digest) for scope, blob in blobs.items())),
                            membership_version=summary.membership_version,
                            accepted=summary.accepted - summary.set_aside_count,
                            updates=tuple(sorted((str(c), update.digest) for c, update in updates.items())),
                        )
                    )
                found.append(JobTrace(trace.name, trace.status, trace.seconds, tuple(rounds)))
        finally:
            await store.close()
        return found

    def _command(self, name: str) -> tuple[str, list[str]]:
        if name in NAMES:
            replica = AGGREGATORS[NAMES.index(name) % 2]
            server = f"127.0.0.1:{self._ports[replica][0]}"
            return "benchmarks.chaos_agent", [server, name, str(self.folder / name)]
        listen, admin = self._ports[name]
        arguments = ["--redis", self.redis_url, "--listen", f"127.0.0.1:{listen}", "--metrics-port", "0"]
        arguments += ["--log-level", "warning"]
        if name == "clusterer":
            return "fedhft_clusterer", arguments
        clusterer = f"127.0.0.1:{self._ports['clusterer'][0]}"
        arguments += ["--clusterer", clusterer, "--admin-listen", f"127.0.0.1:{admin}", "--takeover", _TAKEOVER_S]
        return "fedhft_aggregator", arguments


class Reaper:
    """Kills processes of a site at random moments and starts them again a little later."""

    def __init__(self, site: Site, seed: int, pause_s: float) -> None:
        self._site = site
        self._random = random.Random(seed)
        self._pause_s = pause_s

    def run(self, kills: int, over: Callable[[], bool]) -> None:
        """Kill so many processes, one after another; all run when this returns.

        Fewer, when it is over before, or when several have ended by themselves.
        """
        dead: dict[str, float] = {}
        done, following = 0, time.monotonic() + self._pause_s
        while dead or (done < kills and not over()):
            now = time.monotonic()
            for name in [name for name, back in dead.items() if back <= now]:
                self._site.start(name)
                del dead[name]
            if done < kills and now >= following and not over():
                victim = self._victim(dead)
                self._site.kill(victim)
                done += 1
                dead[victim] = time.monotonic() + self._random.uniform(0.05, 0.5)
                following = time.monotonic() + self._random.uniform(0.2, 2.0) * self._pause_s
            if not dead:
                self._site.check()
            if len(self._site.ended) >= _MANY:
                done = kills  # something is wrong, and killing goes on hiding it
            time.sleep(0.02)

    def _victim(self, dead: Mapping[str, float]) -> str:
        while True:
            kind = self._random.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
            name = self._random.choice(self._site.mortals[kind])
            if name not in dead:
                return name


def _free() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
