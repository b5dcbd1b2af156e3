"""Every metric that any fedhft process exposes, in one place.

Names are `fedhft_<noun>_<unit>[_total]`. Labels have few values: direction, payload, tier, phase, outcome, code,
method, cluster. A client id is never a label. `job` is a label only where a number without it would mean nothing (the
state of a job's clusters), and `forget_job` removes it again.

Three series count bytes: what sockets carried (from the kernel), payloads after coding, and payloads before coding.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from fedhft.errors import ErrorCode

REGISTRY = CollectorRegistry()
"""Holds every metric below; `/metrics` renders it."""

_CALL_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_WORK_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
_MEMORY_BUCKETS = tuple(float(2**power) for power in range(26, 38))
"""64 MiB to 128 GiB."""

# -- calls
REFUSALS = Counter("fedhft_refusals", "Calls refused, by error code.", ["code"], registry=REGISTRY)
for _code in ErrorCode:  # present from the start, so that rates are right for the first refusal too
    REFUSALS.labels(code=_code.value)

RPC_SECONDS = Histogram(
    "fedhft_rpc_seconds",
    "Duration of served calls, long polls included, by method and gRPC status.",
    ["method", "status"],
    buckets=_CALL_BUCKETS,
    registry=REGISTRY,
)
RPCS_IN_FLIGHT = Gauge("fedhft_rpcs_in_flight", "Calls being served, by method.", ["method"], registry=REGISTRY)
QUEUE_WAIT_SECONDS = Histogram(
    "fedhft_queue_wait_seconds",
    "Time a piece of work waited before it started.",
    buckets=_CALL_BUCKETS,
    registry=REGISTRY,
)

TLS_RELOADS = Counter(
    "fedhft_tls_reloads",
    "Times that TLS files were found replaced, by outcome: used, or refused (the old ones stay in use).",
    ["outcome"],
    registry=REGISTRY,
)
for _outcome in ("used", "refused"):
    TLS_RELOADS.labels(outcome=_outcome)

CERTIFICATE_EXPIRY_SECONDS = Gauge(
    "fedhft_certificate_expiry_seconds",
    "When the certificate that this service shows ends, seconds since the epoch; 0 without TLS.",
    registry=REGISTRY,
)

# -- bytes
PAYLOAD_BYTES = Counter(
    "fedhft_payload_bytes",
    "Bytes of blobs moved, after coding. direction: up or down, as agents see it; payload: update, delta, snapshot.",
    ["direction", "payload", "tier"],
    registry=REGISTRY,
)
PAYLOAD_RAW_BYTES = Counter(
    "fedhft_payload_raw_bytes",
    "Bytes of the moved blobs before coding: kept values in float32.",
    ["direction", "payload", "tier"],
    registry=REGISTRY,
)

# -- rounds
ROUNDS = Counter(
    "fedhft_rounds",
    "Rounds by outcome: published, evaluated, extended or failed.",
    ["outcome"],
    registry=REGISTRY,
)
ROUND_PHASE_SECONDS = Histogram(
    "fedhft_round_phase_seconds",
    "Time rounds spent per phase: collecting or folding.",
    ["phase"],
    buckets=_WORK_BUCKETS,
    registry=REGISTRY,
)
UPDATES_ACCEPTED = Counter("fedhft_updates_accepted", "Updates durably recorded, by tier.", ["tier"], registry=REGISTRY)
UPDATES_SET_ASIDE = Counter(
    "fedhft_updates_set_aside", "Recorded updates that a fold left out: gone, damaged, or deadly.", registry=REGISTRY
)
UPDATES_CLIPPED = Counter("fedhft_updates_clipped", "Updates that a fold scaled down (limits.clip).", registry=REGISTRY)
UPDATES_OPPOSED = Counter(
    "fedhft_updates_opposed", "Updates left out for pointing against the others' (limits.opposed).", registry=REGISTRY
)
JOBS_PAUSED = Gauge("fedhft_jobs_paused", "Jobs that are paused until somebody resumes them.", registry=REGISTRY)
JOBS_BLOCKED = Gauge(
    "fedhft_jobs_blocked", "Jobs whose surroundings (store, volume, memory) keep them from going on.", registry=REGISTRY
)
STEPS_FAILED = Counter(
    "fedhft_steps_failed",
    "Steps of jobs that failed and are tried again, by kind: passing, surroundings or defect.",
    ["kind"],
    registry=REGISTRY,
)
FOLD_SECONDS = Histogram(
    "fedhft_fold_seconds", "Time to fold one round's updates.", buckets=_WORK_BUCKETS, registry=REGISTRY
)

# -- the store
STORE_ROUND_TRIPS = Counter(
    "fedhft_store_round_trips", "Commands and scripts sent to Redis by this process.", registry=REGISTRY
)

# -- clusters
CLUSTER_CLIENTS = Gauge(
    "fedhft_cluster_clients",
    "Clients whose largest membership is this cluster.",
    ["job", "cluster"],
    registry=REGISTRY,
)
MEMBERSHIPS_VERSION = Gauge(
    "fedhft_memberships_version", "Latest version of a job's memberships.", ["job"], registry=REGISTRY
)
CLUSTERING_SECONDS = Histogram(
    "fedhft_clustering_seconds", "Time to fit the mixture once.", buckets=_WORK_BUCKETS, registry=REGISTRY
)
CLUSTERINGS = Counter(
    "fedhft_clusterings",
    "Requests for new memberships, by outcome: published, or lost (another request published first).",
    ["outcome"],
    registry=REGISTRY,
)

# -- what agents report with their updates (agents behind NAT cannot be scraped)
AGENT_PEAK_MEMORY_BYTES = Histogram(
    "fedhft_agent_peak_memory_bytes",
    "Peak resident set of agents, one observation per report.",
    ["tier"],
    buckets=_MEMORY_BUCKETS,
    registry=REGISTRY,
)
AGENT_STEP_SECONDS = Histogram(
    "fedhft_agent_step_seconds",
    "Wall time of one optimiser step, mean per report.",
    ["tier"],
    buckets=_CALL_BUCKETS,
    registry=REGISTRY,
)

# -- what an agent counts itself, where it can be scraped
AGENT_UPDATES = Counter(
    "fedhft_agent_updates",
    "Updates trained here, by outcome: accepted, repeated (the server had it already), abandoned (refused for good) or "
    "broken_off (the round ended before training did).",
    ["outcome"],
    registry=REGISTRY,
)

AGENT_UPDATES_BOUNDED = Counter(
    "fedhft_agent_updates_bounded",
    "Accepted updates of this agent that a fold did not take as they were, as the server told it: set_aside (gone, "
    "damaged, or deadly), opposed (left out for pointing against the others') or clipped (scaled down).",
    ["outcome"],
    registry=REGISTRY,
)
for _outcome in ("set_aside", "opposed", "clipped"):
    AGENT_UPDATES_BOUNDED.labels(outcome=_outcome)

AGENT_STATE_FAULTS = Counter(
    "fedhft_agent_state_faults",
    "State files that were damaged (moved aside, named in the log) or unwritten (no room on the disk, for instance).",
    ["fault"],
    registry=REGISTRY,
)

AGENT_JOBS_BLOCKED = Gauge(
    "fedhft_agent_jobs_blocked",
    "Jobs on offer that this agent cannot serve with its data or its model, by cause: data or model.",
    ["cause"],
    registry=REGISTRY,
)
for _cause in ("data", "model"):
    AGENT_JOBS_BLOCKED.labels(cause=_cause)

# -- this process
ProcessCollector(registry=REGISTRY)
PROCESS_PEAK_MEMORY_BYTES = Gauge(
    "fedhft_process_peak_memory_bytes", "Peak resident set of this process.", registry=REGISTRY
)


def peak_memory_bytes() -> int:
    """Peak resident set of this process, bytes."""
    # VmHWM belongs to this program image; ru_maxrss survives exec, so a small child of a large parent would report the
    # parent's peak.
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


PROCESS_PEAK_MEMORY_BYTES.set_function(peak_memory_bytes)


class SocketBytesCollector(Collector):
    """Exposes what the kernel counted on this process's connections: `fedhft_socket_bytes_total{direction}`."""

    def __init__(self) -> None:
        self._sample: Callable[[], tuple[int, int]] | None = None

    def measure(self, sample: Callable[[], tuple[int, int]]) -> None:
        """Use `sample` from now on: it returns (sent, received), bytes, both growing."""
        self._sample = sample

    def collect(self) -> Iterable[Metric]:
        """One counter family; empty until something is measured."""
        family = CounterMetricFamily(
            "fedhft_socket_bytes", "TCP payload bytes, from the kernel's counters.", labels=["direction"]
        )
        if self._sample is not None:
            sent, received = self._sample()
            family.add_metric(["sent"], sent)
            family.add_metric(["received"], received)
        yield family


SOCKET_BYTES = SocketBytesCollector()
REGISTRY.register(SOCKET_BYTES)


def set_clusters(job: str, version: int, sizes: Iterable[int]) -> None:
    """Set a job's membership version and cluster sizes; clusters beyond the given ones disappear."""
    forget_job(job)
    MEMBERSHIPS_VERSION.labels(job=job).set(version)
    for cluster, size in enumerate(sizes):
        CLUSTER_CLIENTS.labels(job=job, cluster=str(cluster)).set(size)


def forget_job(job: str) -> None:
    """Drop the series of a job that is over."""
    MEMBERSHIPS_VERSION.remove_by_labels({"job": job})
    CLUSTER_CLIENTS.remove_by_labels({"job": job})


def render() -> bytes:
    """All metrics in the Prometheus text format."""
    return generate_latest(REGISTRY)
