"""Moves one job on: reads the situation, asks `rounds.decide`, carries the answer out.

Several processes may run a coordinator for the same job; the store's lease lets one act at a time, and its fencing
token makes the acts of one that lost the lease void. Every act can be repeated by the next holder.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace

from fedhft.adapter import AdapterSchema
from fedhft.aggregation.versions import expand_clusters
from fedhft.coordination.closing import describe, fold_round
from fedhft.coordination.clusterer import Clusterer, SignedClient
from fedhft.coordination.history import RoundHistory
from fedhft.coordination.job_cache import KEPT_VERSIONS
from fedhft.coordination.state_blobs import digests_of, save_state
from fedhft.errors import ErrorCode, FedhftError
from fedhft.ids import ClientId, JobId
from fedhft.job import JobSpec, load_canonical
from fedhft.methods import Combine, SignatureKind
from fedhft.records import (
    JobStatus,
    MembershipRecord,
    Phase,
    RoundRecord,
    Topic,
    UpdateRecord,
    VersionRecord,
)
from fedhft.rounds.decision import (
    Complete,
    Decision,
    Evaluate,
    Extend,
    Fail,
    Fold,
    OpenRound,
    Over,
    Situation,
    Start,
    Wait,
    decide,
)
from fedhft.rounds.opening import live_clients, open_round
from fedhft.rounds.summary import ClientReport, Traffic, reports_of, results_of, summarise
from fedhft.store.interface import Store
from fedhft.telemetry import metrics

log = logging.getLogger(__name__)

LEASE_MS = 15_000
_LONGEST_WAIT_S = 5.0
_MOST_FAILURES = 5
"""Times in a row that a step may fail in a way that repeating does not mend, before the job fails."""
_KEPT_SNAPSHOTS = 2
_ORPHAN_AGE_S = 3600.0

_ALIVE = tuple(status for status in JobStatus if not status.over)

Reached = Callable[[str], None]
"""Called with the name of every point a round passes; tests stop the process there."""


class Coordinator:
    """Drives one job over a store."""

    def __init__(
        self,
        store: Store,
        job: JobId,
        clusterer: Clusterer | None,
        holder: str,
        *,
        lease_ms: int = LEASE_MS,
        reached: Reached = lambda point: None,
        observe: Callable[[RoundHistory], None] = lambda history: None,
    ) -> None:
        self._store = store
        self._job = job
        self._clusterer = clusterer
        self._holder = holder
        self._lease_ms = lease_ms
        self._reached = reached
        self._observe = observe
        self._spec: JobSpec | None = None
        self._collecting: tuple[int, int, int, int, int] | None = None
        self._failures = 0
        self._fence: int | None = None
        self._watched_since_ms = 0
        self._short_since_ms: int | None = None

    async def run(self) -> None:
        """Until the job is over or the task is cancelled. A store that is away is waited for."""
        while True:
            try:
                seen = await self._store.changes(self._job, Topic.ARRIVALS)
                wait_s = await self.step()
                if wait_s is None:
                    return
                if wait_s > 0:
                    await self._store.wait_change(self._job, Topic.ARRIVALS, seen, min(wait_s, _LONGEST_WAIT_S))
                self._failures = 0
            except FedhftError as error:
                if error.code is ErrorCode.UNKNOWN_JOB:
                    return
                log.warning("coordinator: %s; trying again", error, extra={"job": self._job, "code": error.code})
                await self._failed(error)
            except Exception as error:
                # Whatever a round's data can make go wrong ends in a failed job with a reason, not in a silent loop.
                log.exception("coordinator: unforeseen failure", extra={"job": self._job})
                await self._failed(FedhftError(ErrorCode.INTERNAL, f"{type(error).__name__}: {error}"))

    async def _failed(self, error: FedhftError) -> None:
        """Wait a second; give the job up after several failures that repeating does not mend."""
        passing = error.outcome.retryable or error.code in (ErrorCode.FENCED, ErrorCode.ROUND_CLOSED)
        self._failures = 0 if passing else self._failures + 1
        if self._failures >= _MOST_FAILURES:
            reason = f"the job cannot go on: {error.message}"
            with contextlib.suppress(FedhftError):  # the store is away: the next failure tries again
                fence = await self._store.acquire(self._job, self._holder, self._lease_ms)
                if fence is not None:
                    await self._store.set_status(self._job, JobStatus.FAILED, reason, _ALIVE, fence)
        await asyncio.sleep(1.0)

    async def step(self) -> float | None:
        """One decision. Returns seconds until the next makes sense (0: at once), None when the job is over."""
        fence = await self._store.acquire(self._job, self._holder, self._lease_ms)
        if fence is None:
            self._collecting = None
            return self._lease_ms / 3000
        if self._collecting is not None and (wait_s := await self._still_collecting(*self._collecting, fence)):
            return wait_s
        now = await self._store.now_ms()
        if fence != self._fence:
            self._fence, self._watched_since_ms, self._short_since_ms = fence, now, None
        situation = await self._situation(now)
        decision = decide(situation, now)
        if isinstance(decision, Over):
            await self._store.release(self._job, self._holder)
            return None
        if isinstance(decision, Wait):
            if situation.round is not None and situation.round.phase is Phase.COLLECTING:
                self._collecting = (situation.round.number, situation.round.target, decision.until_ms, fence, now)
            return max(0.05, (decision.until_ms - now) / 1000)
        await self._carry_out(decision, situation, fence)
        return 0.0

    async def _still_collecting(
        self, number: int, target: int, deadline_ms: int, fence: int, read_ms: int, now_fence: int
    ) -> float | None:
        """Cheap answer for each arrival of an open round: seconds to wait on, None when it is time for a full look.

        Only the holder of the fence changes a collecting round, so what was read under it stands; a cancelled job is
        noticed by the full look every few seconds.
        """
        now = await self._store.now_ms()
        fresh = fence == now_fence and now < deadline_ms and now - read_ms < _LONGEST_WAIT_S * 1000
        if fresh and await self._store.accepted_count(self._job, number) < target:
            return max(0.05, min(deadline_ms - now, read_ms + _LONGEST_WAIT_S * 1000 - now) / 1000)
        self._collecting = None
        return None

    async def _situation(self, now_ms: int) -> Situation:
        record = await self._store.job(self._job)
        if self._spec is None:
            self._spec = load_canonical(record.spec_json)
        clients = await self._store.clients(self._job)
        agents = await self._store.agents(list(clients))
        current = await self._store.round(self._job)
        accepted = 0
        if current is not None and current.phase is Phase.COLLECTING:
            accepted = await self._store.accepted_count(self._job, current.number)
        situation = Situation(
            spec=self._spec,
            status=record.status,
            created_ms=record.created_ms,
            round=current,
            accepted=accepted,
            live=len(live_clients(self._spec, clients, agents, now_ms)),  # type: ignore[arg-type]
            joined=len(clients),
            watched_since_ms=self._watched_since_ms,
        )
        if situation.live >= situation.wanted:
            self._short_since_ms = None
        elif self._short_since_ms is None:
            self._short_since_ms = now_ms
        return replace(situation, short_since_ms=self._short_since_ms)

    async def _carry_out(self, decision: Decision, situation: Situation, fence: int) -> None:
        job, store = self._job, self._store
        match decision:
            case Start():
                await store.set_status(job, JobStatus.RUNNING, "", [JobStatus.WAITING], fence)
            case OpenRound(number, evaluation):
                await self._open(situation.spec, number, evaluation, situation.round, fence)
            case Extend(number, deadline_ms):
                log.warning("round extended", extra={"job": job, "round": number})
                metrics.ROUNDS.labels(outcome="extended").inc()
                await store.extend_round(job, number, deadline_ms, fence)
            case Fold(number):
                await self._close(situation, number, fence)
            case Evaluate():
                await store.set_status(job, JobStatus.EVALUATING, "", [JobStatus.RUNNING], fence)
            case Complete():
                running = [JobStatus.RUNNING, JobStatus.EVALUATING]
                await store.set_status(job, JobStatus.COMPLETED, "", running, fence)
                log.info("job completed", extra={"job": job})
            case Fail(reason):
                log.error("job failed: %s", reason, extra={"job": job})
                metrics.ROUNDS.labels(outcome="failed").inc()
                await store.set_status(job, JobStatus.FAILED, reason, _ALIVE, fence)
            case Wait() | Over():
                pass

    # -- opening
    async def _open(self, spec: JobSpec, number: int, evaluation: bool, last: RoundRecord | None, fence: int) -> None:
        schema = await self._schema()
        if number == 1 and spec.method.is_clustered and spec.method.signature is SignatureKind.ANCHOR:
            async with self._renewed_lease():
                await self._update_memberships(spec, after_round=0)
        base = await self._store.version(self._job)
        memberships = await self._store.memberships(self._job)
        if base is not None and memberships is not None and memberships.clusters != base.clusters:
            # Published after the fold gave up waiting for them: the version has no such clusters (yet).
            memberships = _uniform(base.clusters)
        clients = await self._store.clients(self._job)
        agents = await self._store.agents(list(clients))
        now = await self._store.now_ms()
        record = open_round(
            spec,
            schema,
            number=number,
            evaluation=evaluation,
            base_version=0 if last is None else number - 1,
            memberships=memberships,
            clients={str(client): value for client, value in clients.items()},
            live=live_clients(spec, clients, agents, now),  # type: ignore[arg-type]
            now_ms=now,
        )
        if not record.participants:
            return  # the last live client fell silent meanwhile; look again
        self._reached("open")
        await self._store.open_round(self._job, record, fence)
        log.info("round opened", extra={"job": self._job, "round": number, "asked": len(record.participants)})

    async def _schema(self) -> AdapterSchema:
        text = await self._store.schema(self._job)
        if text is None:
            raise FedhftError(ErrorCode.NOT_JOINED, "no client has joined with a schema yet; start the agents")
        return AdapterSchema.from_json(text)

    async def _update_memberships(self, spec: JobSpec, after_round: int) -> MembershipRecord | None:
        """New memberships for the next round, once per round; the old ones stand when the clusterer is away."""
        latest = await self._store.memberships(self._job)
        if self._clusterer is None or (latest is not None and latest.round >= after_round):
            return latest
        clients = await self._store.clients(self._job)
        signed = [
            SignedClient(str(client), record.samples, record.signature)
            for client, record in sorted(clients.items())
            if record.signature
        ]
        if not signed:
            return latest
        wanted = spec.method.clusters if isinstance(spec.method.clusters, int) else 0
        try:
            await self._clusterer.update_memberships(
                self._job, latest.version if latest else 0, signed, wanted, after_round
            )
        except FedhftError as error:
            log.warning("clusterer: %s; the old memberships stand", error, extra={"job": self._job})
        return await self._store.memberships(self._job)

    # -- closing
    async def _close(self, situation: Situation, number: int, fence: int) -> None:
        job, store, spec = self._job, self._store, situation.spec
        pinned = await store.begin_fold(job, number, fence)
        self._reached("folding")
        current = await store.round(job)
        if current is None or current.number != number:
            return
        accepted = await store.updates(job, number)
        updates = {str(client): accepted[client] for client in pinned}
        reports = reports_of(current, updates)
        past = [RoundHistory.from_json(text) for text in await store.history(job)]
        previous = await store.version(job)
        if current.evaluation:
            version = previous or VersionRecord(version=0, round=0, clusters=current.clusters)
            figures: dict[str, float] = {}
        else:
            async with self._renewed_lease():
                version, figures = await self._fold(spec, current, pinned, updates, reports, previous)
        entry = self._entry(current, reports, past, figures, await store.now_ms())
        self._reached("folded")
        first = await store.publish(job, number, version, entry.to_json(), fence)
        self._reached("published")
        if not first:
            return
        self._observe(entry)
        log.info(
            "round published",
            extra={"job": job, "round": number, "accepted": len(pinned), "seconds": round(entry.summary.seconds, 3)},
        )
        await self._retain(version, updates)

    async def _fold(
        self,
        spec: JobSpec,
        current: RoundRecord,
        pinned: tuple[ClientId, ...],
        updates: Mapping[str, UpdateRecord],
        reports: tuple[ClientReport, ...],
        previous: VersionRecord | None,
    ) -> tuple[VersionRecord, dict[str, float]]:
        job, store = self._job, self._store
        number = current.number
        if spec.method.combine is Combine.NONE:
            return VersionRecord(version=number, round=number, clusters=1), {}
        schema = await self._schema()
        published = await fold_round(store, job, spec, schema, current, pinned, updates, previous)
        state = published.state
        clustering = spec.method.is_clustered and (
            spec.method.signature is SignatureKind.ANCHOR or number >= spec.clustering.warmup_rounds
        )
        if clustering:
            if spec.method.signature is SignatureKind.UPDATE:
                for report in reports:
                    if report.signature:
                        await store.set_signature(job, ClientId(report.client), report.signature)
            memberships = await self._update_memberships(spec, after_round=number)
            if memberships is not None and memberships.clusters > state.state.clusters:
                state = expand_clusters(state, memberships.clusters)
        version = await save_state(store.blobs, job, schema, state, published.blobs, number)
        return version, describe(published.report)

    def _entry(
        self,
        current: RoundRecord,
        reports: tuple[ClientReport, ...],
        past: list[RoundHistory],
        figures: dict[str, float],
        now_ms: int,
    ) -> RoundHistory:
        before: dict[str, Traffic] = dict(past[-1].traffic) if past else {}
        summary = summarise(current, reports, before, now_ms)
        for name, value in figures.items():
            setattr(summary, name, value)
        return RoundHistory(
            summary=summary,
            traffic={**before, **{report.client: report.traffic for report in reports}},
            results=tuple(results_of(reports)) if current.evaluation else (),
            evaluation=current.evaluation,
        )

    async def _retain(self, version: VersionRecord, updates: Mapping[str, UpdateRecord]) -> None:
        """Delete what no client and no restart can need any more."""
        store, job = self._store, self._job
        kept: set[str] = set()
        dropped: set[str] = {record.digest for record in updates.values() if record.digest}
        for old in await store.drop_versions(job, below=version.version - KEPT_VERSIONS + 1):
            dropped |= digests_of(old)
        for number in range(max(1, version.version - KEPT_VERSIONS + 1), version.version + 1):
            record = await store.version(job, number)
            if record is None:
                continue
            kept |= {blob.digest for blob in record.deltas.values()}
            private = {b.digest for group in (record.snapshots, record.server_state) for b in group.values()}
            if number > version.version - _KEPT_SNAPSHOTS:
                kept |= private
            else:
                dropped |= private
        await store.blobs.delete(job, dropped - kept)
        await store.blobs.sweep(job, kept, _ORPHAN_AGE_S)

    @contextlib.asynccontextmanager
    async def _renewed_lease(self) -> AsyncIterator[None]:
        async def renew() -> None:
            while True:
                await asyncio.sleep(self._lease_ms / 3000)
                try:
                    await self._store.acquire(self._job, self._holder, self._lease_ms)
                except FedhftError as error:
                    log.warning("lease not renewed: %s", error, extra={"job": self._job})

        task = asyncio.create_task(renew())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


def _uniform(clusters: int) -> MembershipRecord | None:
    """Memberships that spread everybody evenly; None stands for the one cluster there is before clustering."""
    return None if clusters == 1 else MembershipRecord(version=0, round=0, clusters=clusters, rows={})
