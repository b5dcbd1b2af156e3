"""The one object a demo reports: `DemoResult.as_dict()` is what `fedhft demo -o json` prints.

Keys are stable. A score is what the job's task measures: accuracy in 0..1 for labels, Pearson correlation for numbers.
*Personal* scores are personalised accuracy (a client's own held-out rows), the *shared* score is global accuracy (one
common validation split), *worst tenth* is the bottom decile. Bytes are from the kernel's TCP counters of the agents'
sockets; null means that a key does not apply or nothing was measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fedhft.aggregation.mixture import strongest
from fedhft.job import JobSpec
from fedhft.local.devices import LocalDevice
from fedhft.methods import Combine
from fedhft.reporting.rand_index import adjusted_rand_index
from fedhft.v1 import clustering_pb2, jobs_pb2, plans_pb2


@dataclass(frozen=True)
class SharedScore:
    """On the common validation split: mean over clients, each with its own mixture, before and after one more local
    training; and, before it, the score of the mass-weighted mixture.
    """

    before: float | None
    after: float | None
    mass_weighted: float | None


@dataclass(frozen=True)
class Spread:
    """Of the clients' scores on their own held-out rows. worst_tenth: mean of the tenth of clients that score lowest,
    at least one.
    """

    mean: float | None
    worst_tenth: float | None
    worst: float | None


@dataclass(frozen=True)
class PersonalScore:
    """Before and after one more local training."""

    before: Spread
    after: Spread


@dataclass(frozen=True)
class Traffic:
    """Bytes of all clients from joining to the end of the job, divided by accepted updates (clients x rounds)."""

    up_per_client_round: float | None
    down_per_client_round: float | None


@dataclass(frozen=True)
class PeakMemory:
    """Peak resident set over agents, bytes."""

    max: int | None
    mean: float | None


@dataclass(frozen=True)
class Clusters:
    """count: J. adjusted_rand_index: of each client's largest membership against the hidden groups.
    mean_max_membership: mean over clients of the largest membership.
    """

    count: int | None
    adjusted_rand_index: float | None
    mean_max_membership: float | None


@dataclass(frozen=True)
class HistoryEntry:
    """One round. validation: shared score, own mixtures, of the version this round published. seconds: wall time.

    bytes_up, bytes_down: of all clients, on the sockets; None in a simulation, which has none. Joining counts towards
    the first round; fetching the last version towards the final evaluation, which is not a round.
    """

    round: int
    seconds: float
    validation: float | None
    bytes_up: int | None
    bytes_down: int | None


@dataclass(frozen=True)
class DevicePlan:
    """A client's device, and what it was given to do in the end, by its capacity.

    device: the class that it was held to, cpu: its share of a core; None for agents that were held to nothing. layers,
    steps: 0 where it sat out; epoch_steps: of a whole pass over its rows. seconds: of its round, as estimated. why:
    what keeps it from doing more.
    """

    client: str
    device: str | None
    cpu: float | None
    layers: int
    steps: int
    epoch_steps: int
    seconds: float
    why: str


@dataclass(frozen=True)
class RunResult:
    """One method on the demo's clients. wall_seconds: from starting the first process to the end of the job."""

    method: str
    seed: int
    rounds: int
    clients: int
    wall_seconds: float
    validation: SharedScore
    personal: PersonalScore
    bytes: Traffic
    agent_peak_rss_bytes: PeakMemory
    aggregator_cpu_seconds: float | None
    clusters: Clusters
    history: tuple[HistoryEntry, ...]
    adapters: tuple[str, ...]
    devices: tuple[DevicePlan, ...] = ()
    """Where plans went by capacity."""


@dataclass(frozen=True)
class DemoResult:
    """Every run of a demo, the main method first."""

    runs: tuple[RunResult, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)


def run_result(
    job: jobs_pb2.Job,
    spec: JobSpec,
    *,
    wall_seconds: float,
    aggregator_cpu_seconds: float | None,
    groups: Mapping[str, int] | None,
    adapters: Sequence[str],
    plans: plans_pb2.ExplainPlanResponse | None = None,
    held: Mapping[str, LocalDevice] | None = None,
) -> RunResult:
    """Summarise a completed job. groups: hidden group of each client, None if there are none. plans: where it planned
    by capacity. held: client -> the device that its agent was held to.
    """
    final = job.final
    return RunResult(
        method=spec.method.preset,
        seed=spec.seed,
        rounds=job.rounds_done,
        clients=len(job.clients),
        wall_seconds=round(wall_seconds, 3),
        validation=SharedScore(
            measured(final, "shared_before"), measured(final, "shared_after"), measured(final, "shared_mass_weighted")
        ),
        personal=PersonalScore(_spread(final, "before"), _spread(final, "after")),
        bytes=_traffic(job),
        agent_peak_rss_bytes=_memory(job),
        aggregator_cpu_seconds=aggregator_cpu_seconds,
        clusters=_clusters(job.memberships, spec, groups),
        history=_history(job),
        adapters=tuple(adapters),
        devices=tuple(_device_plan(one, (held or {}).get(one.client)) for one in plans.clients) if plans else (),
    )


def measured(
    message: jobs_pb2.RoundSummary | jobs_pb2.ClientResult | jobs_pb2.MetricFigures, name: str
) -> float | None:
    """An optional figure of a message; None when it was not measured."""
    return float(getattr(message, name)) if message.HasField(name) else None  # type: ignore[arg-type]


def clusters_of(memberships: clustering_pb2.Memberships) -> dict[str, int]:
    """Cluster of each client's largest membership, the first among equals."""
    return {row.client: strongest(row.weights) for row in memberships.rows}


def _device_plan(plan: plans_pb2.ClientPlan, held: LocalDevice | None) -> DevicePlan:
    return DevicePlan(
        client=plan.client,
        device=None if held is None else held.name,
        cpu=None if held is None else held.cpu,
        layers=plan.depth if plan.steps else 0,
        steps=plan.steps,
        epoch_steps=plan.epoch_steps,
        seconds=round(plan.seconds, 3),
        why=plan.why,
    )


def _spread(final: jobs_pb2.RoundSummary, moment: str) -> Spread:
    return Spread(
        measured(final, f"personal_{moment}_mean"),
        measured(final, f"personal_{moment}_worst_tenth"),
        measured(final, f"personal_{moment}_worst"),
    )


def _traffic(job: jobs_pb2.Job) -> Traffic:
    updates = sum(entry.accepted for entry in job.history)
    if not updates or not _has_sockets(job):
        return Traffic(None, None)
    if job.results:
        up = sum(client.socket_bytes_sent for client in job.results)
        down = sum(client.socket_bytes_received for client in job.results)
    else:
        up = sum(entry.socket_bytes_up for entry in job.history)
        down = sum(entry.socket_bytes_down for entry in job.history)
    return Traffic(up / updates, down / updates)


def _has_sockets(job: jobs_pb2.Job) -> bool:
    """Whether bytes on sockets were counted: a simulation has no sockets, and with real ones the counts are not 0."""
    return any(entry.socket_bytes_up and entry.socket_bytes_down for entry in (*job.history, job.final))


def _memory(job: jobs_pb2.Job) -> PeakMemory:
    peaks = [client.peak_rss_bytes for client in job.results if client.peak_rss_bytes]
    return PeakMemory(max(peaks), sum(peaks) / len(peaks)) if peaks else PeakMemory(None, None)


def _clusters(memberships: clustering_pb2.Memberships, spec: JobSpec, groups: Mapping[str, int] | None) -> Clusters:
    if spec.method.combine is Combine.NONE:
        return Clusters(None, None, None)
    if not spec.method.is_clustered:
        return Clusters(1, None, None)
    found = clusters_of(memberships)
    if not found:
        return Clusters(1, None, None)
    index = None
    if groups is not None and len(set(groups.values())) > 1:
        clients = sorted(found.keys() & groups.keys())
        index = adjusted_rand_index([groups[c] for c in clients], [found[c] for c in clients])
    largest = [max(row.weights) for row in memberships.rows]
    return Clusters(memberships.clusters, index, sum(largest) / len(largest))


def _history(job: jobs_pb2.Job) -> tuple[HistoryEntry, ...]:
    # A round's version is scored once clients hold it: at the start of the next round, or in the final evaluation.
    # Likewise an update crosses the socket only after its report was written, so the next report counts it.
    following = [*job.history[1:], job.final][: len(job.history)]
    counted = _has_sockets(job)
    return tuple(
        HistoryEntry(
            round=entry.round,
            seconds=entry.seconds,
            validation=measured(after, "shared_before"),
            bytes_up=after.socket_bytes_up + (entry.socket_bytes_up if place == 0 else 0) if counted else None,
            bytes_down=entry.socket_bytes_down if counted else None,
        )
        for place, (entry, after) in enumerate(zip(job.history, following, strict=True))
    )
