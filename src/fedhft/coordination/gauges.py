"""What the metrics page of a job's lease holder says about the job, and no other replica's.

While a lease changes hands two replicas may show a job for a few seconds, so queries take the maximum by federation.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from fedhft.adapter import AdapterSchema
from fedhft.coordination.history import RoundHistory
from fedhft.errors import FedhftError
from fedhft.ids import JobId
from fedhft.job import JobSpec
from fedhft.readings import Look
from fedhft.records import JobStatus, Phase, RoundRecord
from fedhft.rounds.attendance import needed
from fedhft.rounds.statistics import figures_of
from fedhft.rounds.summary import ClientReport
from fedhft.store.interface import Store
from fedhft.telemetry import federations, metrics

log = logging.getLogger(__name__)


class JobGauges:
    """One job's gauges on this process's page."""

    def __init__(self, store: Store, job: JobId) -> None:
        self._store = store
        self._job = job
        self._shown = False

    async def show(self, spec: JobSpec, look: Look) -> None:
        """Show what a holder of the lease sees. Raises what the store raises for a call that it does not answer."""
        name = {"federation": self._job}
        if look.status.over and not self._shown:  # another replica showed how it ended
            federations.drop(self._job, [metrics.LEASE_HELD])
            return
        if not self._shown:
            federations.begin(self._job, spec.tiers)
            await self._recall()
            self._shown = True
        metrics.LEASE_HELD.labels(**name).set(1)
        for status in JobStatus:
            metrics.STATE.labels(**name, state=status.value).set(status is look.status)
        metrics.PAUSED.labels(**name).set(bool(look.paused) and not look.status.over)
        metrics.BLOCKED.labels(**name).set(bool(look.blocked) and not look.status.over)
        metrics.CLIENTS.labels(**name, state="live").set(look.live)
        metrics.CLIENTS.labels(**name, state="silent").set(look.joined - look.live)
        metrics.CLIENTS.labels(**name, state="declined").set(look.declined)
        metrics.ROUNDS_PLANNED.labels(**name).set(spec.rounds.total)
        self._show_round(spec, look)
        if look.status.over:
            self._shown = False
            federations.drop(self._job, [metrics.LEASE_HELD])

    def hide(self) -> None:
        """Another replica holds the lease: show nothing but that."""
        if self._shown:
            federations.drop(self._job, federations.HOLDERS)
            self._shown = False
        metrics.LEASE_HELD.labels(federation=self._job).set(0)

    def gone(self) -> None:
        """The job was deleted."""
        self._shown = False
        federations.drop(self._job)

    def _show_round(self, spec: JobSpec, look: Look) -> None:
        name, current = {"federation": self._job}, look.round
        metrics.ROUND.labels(**name).set(current.number if current else 0)
        if current is None:
            return
        metrics.ROUND_OPENED_SECONDS.labels(**name).set(current.opened_ms / 1000)
        metrics.ROUND_ASKED.labels(**name).set(current.asked)
        metrics.ROUND_DELIVERED.labels(**name).set(look.accepted)
        metrics.ROUND_QUORUM.labels(**name).set(needed(spec.rounds, current))
        if current.phase is Phase.PUBLISHED or look.status.over:
            federations.drop(self._job, [metrics.ROUND_DEADLINE_SECONDS])
        else:
            metrics.ROUND_DEADLINE_SECONDS.labels(**name).set(current.deadline_ms / 1000)

    async def _recall(self) -> None:
        """Show what the holder before has seen. A record that cannot be read is the business of who needs it."""
        try:
            schema, current = await self._store.schema(self._job), await self._store.round(self._job)
            if schema is not None and current is not None:
                show_plans(self._job, AdapterSchema.from_json(schema), current)
            allocated = await self._store.allocated(self._job)
            if allocated is not None:
                show_horizon(self._job, allocated.horizon)
            for text in (await self._store.history(self._job, -1)).entries:
                _show_summary(self._job, RoundHistory.from_json(text).summary)
        except FedhftError as error:
            log.warning("metrics: %s", error, extra={"job": self._job})


def show_plans(job: JobId, schema: AdapterSchema, current: RoundRecord) -> None:
    """Show what the clients of a round train, by tier."""
    families = (metrics.PLAN_DEPTH, metrics.PLAN_RANK_SUM, metrics.PLAN_DENSITY)
    federations.drop(job, families)
    different = {(part.plan.depth, part.plan.rank): part.plan for part in current.participants.values()}
    ranks = {key: sum(plan.rank_of(slot) for slot in plan.slots(schema)) for key, plan in different.items()}
    by_tier: dict[str, list[tuple[float, ...]]] = {}
    for part in current.participants.values():
        plan = part.plan
        by_tier.setdefault(plan.tier, []).append((plan.depth, ranks[plan.depth, plan.rank], plan.density))
    for tier, figures in by_tier.items():
        for family, column in zip(families, zip(*figures, strict=True), strict=True):
            family.labels(federation=job, tier=tier).set(sum(column) / len(column))


def show_horizon(job: JobId, seconds: float) -> None:
    """Show how long a round takes by the plans in force."""
    metrics.PLAN_HORIZON_SECONDS.labels(federation=job).set(seconds)


def show_published(job: JobId, entry: RoundHistory, reports: Sequence[ClientReport]) -> None:
    """Show the figures of a round that this process has published."""
    _show_summary(job, entry.summary)
    for figure in figures_of(reports, entry.summary):
        labels = {"federation": job, "split": figure.split, "moment": figure.moment, "statistic": figure.statistic}
        metrics.SCORE.labels(**labels).set(figure.score)
        metrics.LOSS.labels(**labels).set(figure.loss)
    outcome = "evaluated" if entry.evaluation else "published"
    metrics.ROUNDS.labels(federation=job, outcome=outcome).inc()


def _show_summary(job: JobId, summary: Any) -> None:
    # summary: a RoundSummary, whose optional fields the types name one by one.
    federations.drop(
        job,
        [
            metrics.SCORE,
            metrics.LOSS,
            metrics.TASK_METRIC,
            metrics.MAJORITY_SCORE,
            metrics.PEAK_MEMORY_BYTES,
            metrics.CLUSTER_PARTICIPANTS,
            metrics.ROUND_WAITING,
            metrics.ROUND_CLIENT_SECONDS,
        ],
    )
    for split, moment, statistic, field in _OF_SUMMARY:
        if summary.HasField(field):
            labels = {"federation": job, "split": split, "moment": moment, "statistic": statistic}
            metrics.SCORE.labels(**labels).set(getattr(summary, field))
    for moment in ("before", "after"):
        if summary.HasField(field := f"personal_loss_{moment}_median"):
            labels = {"federation": job, "split": "personal", "moment": moment, "statistic": "median"}
            metrics.LOSS.labels(**labels).set(getattr(summary, field))
    for one in summary.metrics:
        for split, moment, field in _OF_METRIC:
            if one.HasField(field):
                metrics.TASK_METRIC.labels(federation=job, metric=one.name, split=split, moment=moment).set(
                    getattr(one, field)
                )
    if summary.HasField("personal_majority_mean"):
        metrics.MAJORITY_SCORE.labels(federation=job).set(summary.personal_majority_mean)
    for figures in summary.tiers:
        if figures.peak_rss_bytes_max:  # it was measured
            metrics.PEAK_MEMORY_BYTES.labels(federation=job, tier=figures.tier).set(figures.peak_rss_bytes_max)
    if summary.HasField("work"):
        metrics.ROUND_WAITING.labels(federation=job).set(summary.work.waiting)
        for field in summary.work.seconds.DESCRIPTOR.fields if summary.work.HasField("seconds") else ():
            seconds = getattr(summary.work.seconds, field.name)
            metrics.ROUND_CLIENT_SECONDS.labels(federation=job, activity=field.name).set(seconds)
    metrics.ROUND_MEMBERSHIPS_VERSION.labels(federation=job).set(summary.membership_version)
    for cluster, size in enumerate(summary.cluster_sizes):
        metrics.CLUSTER_PARTICIPANTS.labels(federation=job, cluster=str(cluster)).set(size)


_OF_METRIC = (
    ("personal", "before", "personal_before"),
    ("personal", "after", "personal_after"),
    ("personal", "constant", "floor"),
    ("shared", "before", "shared_before"),
    ("shared", "after", "shared_after"),
)
"""(split, moment, field) of a metric's figures."""
_OF_SUMMARY: Sequence[tuple[str, str, str, str]] = (
    ("personal", "before", "mean", "personal_before_mean"),
    ("personal", "before", "worst_decile", "personal_before_worst_tenth"),
    ("personal", "after", "mean", "personal_after_mean"),
    ("personal", "after", "worst_decile", "personal_after_worst_tenth"),
    ("shared", "before", "mean", "shared_before"),
    ("shared", "after", "mean", "shared_after"),
)
