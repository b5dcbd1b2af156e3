"""Drives one job: reads the situation, asks `rounds.decision.decide`, carries out the answer.

Several processes may run a coordinator for the same job; the store's lease lets one act at a time, and its fencing
token voids what a coordinator writes after losing the lease. The next holder can repeat every step.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import replace

from fedhft.adapter import AdapterSchema
from fedhft.aggregation.versions import expand_clusters
from fedhft.coordination.clusterer import Clusterer
from fedhft.coordination.folding import fold_figures, fold_round
from fedhft.coordination.history import RoundHistory
from fedhft.coordination.state_blobs import save_state
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
    Traffic,
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
from fedhft.rounds.patience import failures_after, gives_up
from fedhft.rounds.reclustering import usable_memberships, wants_memberships
from fedhft.rounds.retention import oldest_kept, retention
from fedhft.rounds.summary import ClientReport, reports_of, results_of, summarise
from fedhft.rounds.watching import LONGEST_WAIT_MS, Collecting, Watch, pause_s, watch_of
from fedhft.store.interface import Store
from fedhft.telemetry import metrics

log = logging.getLogger(__name__)

LEASE_MS = 15_000
_RETRY_S = 1.0
_ORPHAN_AGE_S = 3600.0

_ALIVE = tuple(status for status in JobStatus if not status.over)

Reached = Callable[[str], None]
"""Called with the name of every point a round passes; tests kill the process there."""


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
        self._watch: Watch | None = None
        self._collecting: Collecting | None = None
        self._failures = 0

    async def run(self) -> None:
        """Run until the job is over or the task is cancelled. Waits for a store that is away."""
        while True:
            try:
                seen = await self._store.changes(self._job, Topic.ARRIVALS)
                wait_s = await self.step()
                if wait_s is None:
                    return
                if wait_s > 0:
                    longest = min(wait_s, LONGEST_WAIT_MS / 1000)
                    await self._store.wait_change(self._job, Topic.ARRIVALS, seen, longest)
                self._failures = 0
            except FedhftError as error:
                if error.code is ErrorCode.UNKNOWN_JOB:
                    return
                log.warning("coordinator: %s; trying again", error, extra={"job": self._job, "code": error.code})
                await self._failed(error)
            except Exception as error:
                # Whatever goes wrong with a round's data must end in a failed job with a reason, not a silent loop.
                log.exception("coordinator: unforeseen failure", extra={"job": self._job})
                await self._failed(FedhftError(ErrorCode.INTERNAL, f"{type(error).__name__}: {error}"))

    async def _failed(self, error: FedhftError) -> None:
        """Wait a little; fail the job after several failures that retrying cannot fix."""
        self._failures = failures_after(self._failures, error)
        if gives_up(self._failures):
            reason = f"the job cannot go on: {error.message}"
            with contextlib.suppress(FedhftError):  # the store is away: the next failure tries again
                fence = await self._store.acquire(self._job, self._holder, self._lease_ms)
                if fence is not None:
                    await self._store.set_status(self._job, JobStatus.FAILED, reason, _ALIVE, fence)
        await asyncio.sleep(_RETRY_S)

    async def step(self) -> float | None:
        """Make one decision. Returns seconds until the next is due (0: at once), None when the job is over."""
        fence = await self._store.acquire(self._job, self._holder, self._lease_ms)
        if fence is None:
            self._collecting = None
            return self._lease_ms / 3000
        now = await self._store.now_ms()
        if (wait_s := await self._still_collecting(fence, now)) is not None:
            return wait_s
        self._watch = watch_of(self._watch, fence, now)
        situation = await self._situation(self._watch, now)
        decision = decide(situation, now)
        if isinstance(decision, Over):
            await self._store.release(self._job, self._holder)
            return None
        if isinstance(decision, Wait):
            current = situation.round
            if current is not None and current.phase is Phase.COLLECTING:
                self._collecting = Collecting(current.number, current.target, decision.until_ms, fence, now)
            return pause_s(decision.until_ms, now)
        await self._carry_out(decision, situation, fence)
        return 0.0

    async def _still_collecting(self, fence: int, now_ms: int) -> float | None:
        """Cheap answer to an arrival in an open round: seconds left to wait, None when a full look is due."""
        collecting, self._collecting = self._collecting, None
        if collecting is None or not collecting.still_valid(fence, now_ms):
            return None
        wait_s = collecting.wait_s(await self._store.accepted_count(self._job, collecting.number), now_ms)
        if wait_s is not None:
            self._collecting = collecting
        return wait_s

    async def _situation(self, watch: Watch, now_ms: int) -> Situation:
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
            watched_since_ms=watch.since_ms,
        )
        self._watch = watch.counting(situation.live, situation.wanted, now_ms)
        return replace(situation, short_since_ms=self._watch.short_since_ms)

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
        if number == 1:
            async with self._renewed_lease():
                await self._update_memberships(spec, after_round=0)
        base = await self._store.version(self._job)
        memberships = usable_memberships(await self._store.memberships(self._job), base)
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
        if self._clusterer is None or not wants_memberships(spec, after_round, latest):
            return latest
        if not any(client.signature for client in (await self._store.clients(self._job)).values()):
            return latest  # nothing to cluster by yet
        try:
            await self._clusterer.update_memberships(self._job, latest.version if latest else 0, after_round)
        except FedhftError as error:
            log.warning("clusterer: %s; the old memberships stand", error, extra={"job": self._job})
        return await self._store.memberships(self._job)

    # -- closing
    async def _close(self, situation: Situation, number: int, fence: int) -> None:
        job, store, spec = self._job, self._store, situation.spec
        pinned = await store.begin_fold(job, number, fence)
        folding_since_ms = await store.now_ms()
        self._reached("folding")
        current = await store.round(job)
        if current is None or current.number != number:
            return
        if situation.round is not None and situation.round.phase is Phase.COLLECTING:  # not when a fold is repeated
            _observe_phase("collecting", current.opened_ms, folding_since_ms)
        accepted = await store.updates(job, number)
        updates = {str(client): accepted[client] for client in pinned}
        reports = reports_of(current, updates)
        before = await self._traffic(updates)
        previous = await store.version(job)
        if current.evaluation:
            version = previous or VersionRecord(version=0, round=0, clusters=current.clusters)
            figures: dict[str, float] = {}
        else:
            async with self._renewed_lease():
                version, figures = await self._fold(spec, current, pinned, updates, reports, previous)
        now_ms = await store.now_ms()
        entry = _entry(current, reports, before, figures, now_ms)
        self._reached("folded")
        moved = {**before, **{report.client: report.traffic for report in reports}}
        first = await store.publish(job, number, version, entry.to_json(), fence, moved)
        self._reached("published")
        if not first:
            return
        _observe_phase("folding", folding_since_ms, now_ms)
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
        if spec.method.signature is SignatureKind.UPDATE:
            await self._note_signatures(spec, number, reports)
        memberships = await self._update_memberships(spec, after_round=number)
        if memberships is not None and memberships.clusters > state.state.clusters:
            state = expand_clusters(state, memberships.clusters)
        version = await save_state(store.blobs, job, schema, state, published.blobs, number)
        return version, fold_figures(published.report)

    async def _note_signatures(self, spec: JobSpec, number: int, reports: tuple[ClientReport, ...]) -> None:
        """Store the signatures that came with updates, where clients are clustered by those."""
        if wants_memberships(spec, number, await self._store.memberships(self._job)):
            for report in reports:
                if report.signature:
                    await self._store.set_signature(self._job, ClientId(report.client), report.signature)

    async def _traffic(self, clients: Collection[str]) -> dict[str, Traffic]:
        """Byte counters as of the clients' last reports.

        Where an earlier release wrote the last entry, it holds those of all clients, newer than what the store has.
        """
        last = await self._store.history(self._job, -1)
        earlier = RoundHistory.from_json(last[0]).earlier_traffic if last else {}
        return {**await self._store.traffic(self._job, clients), **earlier}

    async def _retain(self, version: VersionRecord, updates: Mapping[str, UpdateRecord]) -> None:
        """Delete what neither a client nor a restart can still need."""
        store, job, latest = self._store, self._job, version.version
        forgotten = await store.drop_versions(job, below=oldest_kept(latest))
        found = [await store.version(job, number) for number in range(oldest_kept(latest), latest + 1)]
        verdict = retention(latest, [one for one in found if one is not None], forgotten, updates.values())
        await store.blobs.delete(job, verdict.dropped)
        await store.blobs.sweep(job, verdict.kept, _ORPHAN_AGE_S)
        await store.transfers.sweep(job, _ORPHAN_AGE_S)

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


def _observe_phase(phase: str, since_ms: int, until_ms: int) -> None:
    metrics.ROUND_PHASE_SECONDS.labels(phase=phase).observe((until_ms - since_ms) / 1000)


def _entry(
    current: RoundRecord,
    reports: tuple[ClientReport, ...],
    before: Mapping[str, Traffic],
    figures: dict[str, float],
    now_ms: int,
) -> RoundHistory:
    summary = summarise(current, reports, before, now_ms)
    for name, value in figures.items():
        setattr(summary, name, value)
    results = tuple(results_of(reports)) if current.evaluation else ()
    return RoundHistory(summary, results, current.evaluation)
