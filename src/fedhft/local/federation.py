"""A local federation of real processes: Redis, the clusterer, the aggregator and one agent per client.

Everything talks gRPC and Redis over loopback as it would between machines. Only processes started here are ended, by
their ids, in the order agents, aggregator, clusterer, Redis. When something goes wrong, the message has the end of the
failed process's log.
"""

from __future__ import annotations

import queue
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fedhft.datasets.federated import ClientFiles
from fedhft.errors import ErrorCode, FedhftError
from fedhft.jobs.client import JobsClient, is_over
from fedhft.local.cpu_quota import cpu_quotas
from fedhft.local.cpu_share import CpuShares
from fedhft.local.devices import LocalDevice
from fedhft.local.link import Links
from fedhft.local.processes import ServiceProcess, deaf_to_interrupts, stop_all
from fedhft.local.redis import EmbeddedRedis
from fedhft.records import JobStatus
from fedhft.rpc.tls import TlsSettings
from fedhft.v1 import jobs_pb2

if TYPE_CHECKING:
    from fedhft.certs.authority import Authority, Holder

_LISTEN_S = 60.0
_POLL_S = 0.5
_PATIENCE_S = 10.0
_GRACE_S = 15.0
_HURRIED_GRACE_S = 1.0
"""How long an agent may take to stop when its state will not be used again; one importing torch would take longer."""
_SCRAPE_S = 10.0
_THREADS = "1"
_START_UP_CPU_S = 6.0
"""Most that an agent takes to import its libraries. A slow device would take minutes for it, which tell nothing."""
_HAS_STARTED = '"joining"'
"""What an agent logs when it has loaded its model, before it works anything out with it."""
_HOSTS = ("127.0.0.1",)
"""Where the services of a local federation are reached."""


@dataclass(frozen=True)
class FederationLayout:
    """Where a federation keeps its files. folder: logs, Redis data and agent states of this run only."""

    folder: Path
    model: Path | None
    """Local copy of the base model for the agents; None lets them fetch it by the job's name for it."""
    blobs: str = "redis"
    """"redis", or "directory" for large updates (all weights)."""
    tls: bool = False
    """Whether every connection is mutual TLS, with an authority made for this run in its folder."""
    device: str = "auto"
    """Where agents train."""
    agent_pages: bool = False
    """Whether agents serve metrics and health pages, on free ports."""
    devices: Mapping[str, LocalDevice] = field(default_factory=dict)
    """Client -> the device that its agent is held to; agents of others have all of this machine."""


class Federation:
    """The processes of a federation. After `start`, even one that failed, `stop` must be called."""

    def __init__(self, layout: FederationLayout) -> None:
        self._layout = layout
        self._redis = EmbeddedRedis(layout.folder / "redis")
        self._services: list[ServiceProcess] = []
        self._agents: list[ServiceProcess] = []
        self._client: JobsClient | None = None
        self._metrics = ""
        self._server = ""
        self._shares = CpuShares(cpu_quotas() if layout.devices else None)
        self._links = Links()
        self._held_for = 1
        self.certificates: Authority | None = None
        """The authority of this run, where it uses TLS."""

    @property
    def jobs(self) -> JobsClient:
        """A client of the aggregator."""
        if self._client is None:
            raise FedhftError(ErrorCode.SERVER_UNAVAILABLE, "the federation is not running; start it first")
        return self._client

    @property
    def metrics(self) -> str:
        """host:port of the aggregator's pages."""
        return self._metrics

    @property
    def pages(self) -> Mapping[str, str]:
        """Name -> host:port of the pages of every process that serves some. Waits for agents that are starting."""
        paged = [*self._services, *(self._agents if self._layout.agent_pages else ())]
        return {process.name: str(process.wait_listening(_LISTEN_S)["metrics"]) for process in paged}

    @property
    def processes(self) -> Mapping[str, int]:
        """Name -> process id of everything that was started and still runs."""
        running = {p.name: p.pid for p in (*self._services, *self._agents) if p.exit_code is None}
        return {**running, **({"redis": self._redis.pid} if self._redis.pid else {})}

    def start(self) -> None:
        """Start Redis, the clusterer and the aggregator; returns when they listen. Raises FedhftError."""
        self._redis.start()
        if self._layout.tls:
            from fedhft.certs.authority import Authority  # cryptography, which only a run with TLS needs

            self.certificates = Authority.init(self._layout.folder / "certs", "demo.local")
        pages = ["--listen", "127.0.0.1:0", "--metrics-port", "0", "--redis", self._redis.url]
        clusterer = self._start("clusterer", "fedhft_clusterer", [*pages, *self._tls("clusterer")])
        self._services.append(clusterer)
        blobs = "redis" if self._layout.blobs == "redis" else f"dir:{self._layout.folder / 'blobs'}"
        address = clusterer.wait_listening(_LISTEN_S)["grpc"]
        own = ["--blobs", blobs, "--clusterer", str(address), "--admin-listen", "127.0.0.1:0"]
        aggregator = self._start("aggregator", "fedhft_aggregator", [*pages, *own, *self._tls("aggregator")])
        self._services.append(aggregator)
        addresses = aggregator.wait_listening(_LISTEN_S)
        self._server, self._metrics = str(addresses["grpc"]), str(addresses["metrics"])
        holder = self._holder("operator/demo")
        tls = TlsSettings(holder.certificate, holder.key, holder.authority) if holder is not None else None
        self._client = JobsClient(str(addresses["admin"]), tls, give_up_after_s=30.0)

    def start_agents(self, job: str, files: Sequence[ClientFiles]) -> None:
        """Start one agent per client, each for this one job, on its device."""
        for own in files:
            device = self._layout.devices.get(own.client)
            server = self._server
            if device is not None:
                server = self._links.open(server, device.up, device.down).address
            arguments = [
                "--server", server, "--client", own.client, "--job", job, "--once", "--threads", _THREADS,
                "--data", str(own.train), "--holdout", str(own.holdout), "--shared-validation", str(own.shared),
                "--state-dir", str(self._layout.folder / "state" / own.client), *self._tls(f"agent/{own.client}"),
            ]  # fmt: skip
            arguments += ["--device", self._layout.device]
            if self._layout.model is not None:
                arguments += ["--model", str(self._layout.model)]
            if self._layout.agent_pages:
                arguments += ["--metrics-port", "0"]
            if device is not None and device.memory:
                arguments += ["--memory", str(device.memory)]
            agent = self._start(own.client, "fedhft_agent", arguments)
            self._agents.append(agent)
            if device is not None:
                self._shares.hold(agent.pid, device.share(1), _START_UP_CPU_S, partial(_has_started, agent.log))

    def hold_to_devices(self, round_number: int) -> None:
        """Hold agents to the shares of a core that their devices have in a round."""
        if round_number == self._held_for:
            return
        self._held_for = round_number
        for agent in self._agents:
            device = self._layout.devices.get(agent.name)
            if device is not None:
                self._shares.hold(agent.pid, device.share(round_number))

    def follow(self, job: str, timeout_s: float, on_change: Callable[[jobs_pb2.Job], None]) -> jobs_pb2.Job:
        """Report every change of a job until it is completed; returns it.

        Raises FedhftError: JOB_FAILED when the job ends any other way or takes too long; when a process ends early, the
        error that its exit code stands for.
        """
        changes: queue.Queue[jobs_pb2.Job | FedhftError] = queue.Queue()

        def watch() -> None:
            try:
                for change in self.jobs.watch(job, last=None):
                    changes.put(change)
            except FedhftError as error:
                changes.put(error)

        threading.Thread(target=watch, name=f"watch-{job}", daemon=True).start()
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                change = changes.get(timeout=_POLL_S)
            except queue.Empty:
                self._check_processes()
                if time.monotonic() > deadline:
                    raise self._ended(job, f"took longer than {timeout_s:g} s") from None
                continue
            if isinstance(change, FedhftError):
                self._check_processes()
                raise change
            if change.open_round:
                self.hold_to_devices(change.open_round)
            on_change(change)
            if is_over(change):
                if change.status != JobStatus.COMPLETED:
                    self._check_processes()
                    raise self._ended(job, f"ended as {change.status}: {change.reason}")
                return change

    def aggregator_cpu_seconds(self) -> float:
        """CPU time of the aggregator so far, seconds, from its metrics page."""
        with urllib.request.urlopen(f"http://{self._metrics}/metrics", timeout=_SCRAPE_S) as page:
            for line in page.read().decode().splitlines():
                if line.startswith("process_cpu_seconds_total "):
                    return float(line.split()[1])
        raise FedhftError(ErrorCode.INTERNAL, f"http://{self._metrics}/metrics has no process_cpu_seconds_total")

    def stop(self, patience_s: float = _PATIENCE_S, hurry: bool = False) -> None:
        """End every process. May be called again.

        patience_s: how long agents may take to exit by themselves, as they do when their job is over. With `hurry` they
        are told to stop at once, and killed a moment later if they have not.
        """
        with deaf_to_interrupts():
            self._shares.close()  # who is stopped could not end
            if hurry:
                stop_all(self._agents, 0.0, _HURRIED_GRACE_S)
            else:
                stop_all(self._agents, patience_s, _GRACE_S)
            if self._client is not None:
                self._client.close()
            for process in reversed(self._services):
                stop_all([process], 0.0, _GRACE_S)
            self._links.close()
            self._redis.stop()

    def _holder(self, path: str) -> Holder | None:
        """The files of a process that is to use TLS, issued when first asked for."""
        if self.certificates is None:
            return None
        identity = self.certificates.identity(path)
        self.certificates.issue(identity, _HOSTS if identity.role.serves else ())
        return self.certificates.holder(identity)

    def _tls(self, path: str) -> list[str]:
        """The TLS options of a process."""
        own = self._holder(path)
        if own is None:
            return []
        flags = ("--tls-certificate", own.certificate), ("--tls-key", own.key), ("--tls-authority", own.authority)
        return [str(part) for pair in flags for part in pair]

    def _start(self, name: str, module: str, arguments: Sequence[str]) -> ServiceProcess:
        environment = {
            "OMP_NUM_THREADS": _THREADS,
            "MKL_NUM_THREADS": _THREADS,
            "OPENBLAS_NUM_THREADS": _THREADS,
            "TOKENIZERS_PARALLELISM": "false",
            "PYTHONUNBUFFERED": "1",
            **({"HF_HUB_OFFLINE": "1"} if self._layout.model is not None else {}),
        }
        return ServiceProcess(name, module, arguments, self._layout.folder / "logs" / f"{name}.log", environment)

    def _check_processes(self) -> None:
        for process in self._services:
            if process.exit_code is not None:
                raise process.failure()
        for process in self._agents:
            if process.exit_code:
                raise process.failure()
        if self._redis.pid is None:
            raise FedhftError(ErrorCode.STORE_UNAVAILABLE, f"Redis ended; see {self._layout.folder / 'redis'}")

    def _ended(self, job: str, how: str) -> FedhftError:
        log = next(process for process in self._services if process.name == "aggregator").describe_log()
        return FedhftError(ErrorCode.JOB_FAILED, f"job {job} {how}\n{log}")


def _has_started(log: Path) -> bool:
    """Whether an agent is through with its start-up."""
    try:
        return _HAS_STARTED in log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
