"""Drives one job: reads the situation, asks `rounds.decision.decide`, carries out the answer.

Several processes may run a coordinator for the same job; the store's lease lets one act at a time, and its fencing
token voids what a coordinator writes after losing the lease. The next holder can repeat every step.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

from fedhft.coordination.closing import close_round
from fedhft.coordination.clusterer import Clusterer
from fedhft.coordination.decoded import DecodedUpdates
from fedhft.coordination.driven import Driven, Reached
from fedhft.coordination.gauges import JobGauges
from fedhft.coordination.history import RoundHistory, best_so_far
from fedhft.coordination.lease import LEASE_MS
from fedhft.coordination.opening import open_next
from fedhft.coordination.trouble import Trouble
from fedhft.errors import ErrorCode, FedhftError
from fedhft.ids import JobId
from fedhft.job import JobSpec, load_canonical
from fedhft.readings import Look
from fedhft.records import JobStatus, Phase, Topic
from fedhft.rounds.best import reason_to_stop
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
from fedhft.rounds.paging import KEPT_ROUNDS
from fedhft.rounds.watching import LONGEST_WAIT_MS, Watch, pause_s, watch_of
from fedhft.store.interface import Store
from fedhft.telemetry import metrics

log = logging.getLogger(__name__)

_ALIVE = tuple(status for status in JobStatus if not status.over)


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
        decoded: DecodedUpdates | None = None,
        kept_rounds: int = KEPT_ROUNDS,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._driven = Driven(store, job, clusterer, holder, lease_ms, reached, observe, decoded, kept_rounds)
        self._store = store
        self._job = job
        self._holder = holder
        self._lease_ms = lease_ms
        self._spec: JobSpec | None = None
        self._watch: Watch | None = None
        self._trouble = Trouble(self._driven)
        self._gauges = JobGauges(store, job)
        self._monotonic = monotonic
        self._sleep = sleep

    async def run(self) -> None:
        """Run until the job is over or the task is cancelled. Waits for a store that is away."""
        while True:
            try:
                seen = await self._store.changes(self._job, Topic.ARRIVALS)
                wait_s = await self.step()
                if wait_s is None:
                    return
                await self._trouble.passed()
                if wait_s > 0:
                    # A wait may not outlast the lease: every step renews it.
                    longest_ms = min(LONGEST_WAIT_MS, self._lease_ms / 3)
                    await self._store.wait_change(self._job, Topic.ARRIVALS, seen, min(wait_s, longest_ms / 1000))
            except Exception as error:  # noqa: BLE001
                # Whatever it is, it ends neither the job nor this loop: it is waited for, or the job is paused.
                if isinstance(error, FedhftError) and error.code is ErrorCode.UNKNOWN_JOB:
                    self._gauges.gone()
                    return
                await self._sleep(await self._trouble.after(error))

    async def step(self) -> float | None:
        """Make one decision. Returns seconds until the next is due (0: at once), None when the job is over."""
        fence = await self._store.acquire(self._job, self._holder, self._lease_ms)
        if fence is None:
            self._gauges.hide()
            return self._lease_ms / 3000
        spec = await self._spec_of()
        look = await self._store.look(self._job, int(spec.rounds.client_timeout * 1000))
        now = look.now_ms
        self._trouble.seen(look.blocked)
        await self._gauges.show(spec, look)
        self._watch = watch_of(self._watch, fence, now, int(self._monotonic() * 1000))
        situation = self._situation(spec, look, self._watch, await self._reason_to_stop(spec, look))
        if situation.paused:
            self._watch = None  # a pause is not silence of clients
        decision = decide(situation, now)
        if isinstance(decision, Over):
            await self._store.release(self._job, self._holder)
            return None
        if isinstance(decision, Wait):
            return pause_s(decision.until_ms, now)
        await self._carry_out(decision, situation, fence)
        return 0.0

    async def _spec_of(self) -> JobSpec:
        if self._spec is None:
            self._spec = load_canonical((await self._store.job(self._job)).spec_json)
        return self._spec

    async def _reason_to_stop(self, spec: JobSpec, look: Look) -> str:
        """Why no round should follow the one that was published last; empty where one may."""
        current = look.round
        if not spec.stopping.patience or current is None or current.phase is not Phase.PUBLISHED or current.evaluation:
            return ""
        return reason_to_stop(spec, await best_so_far(self._store, self._job))

    def _situation(self, spec: JobSpec, look: Look, watch: Watch, stop: str) -> Situation:
        situation = Situation(
            spec=spec,
            status=look.status,
            created_ms=look.created_ms,
            round=look.round,
            accepted=look.accepted,
            live=look.live,
            joined=look.joined,
            watched_since_ms=watch.since_ms,
            paused=look.paused,
            reason=look.reason,
            stop=stop,
        )
        self._watch = watch.counting(situation.live, situation.wanted, look.now_ms)
        return replace(situation, short_since_ms=self._watch.short_since_ms)

    async def _carry_out(self, decision: Decision, situation: Situation, fence: int) -> None:
        job, store = self._job, self._store
        match decision:
            case Start():
                await store.set_status(job, JobStatus.RUNNING, "", [JobStatus.WAITING], fence)
            case OpenRound(number, evaluation):
                if await self._trouble.begin("open", number, fence) is not None:
                    await open_next(self._driven, situation.spec, number, evaluation, situation.round, fence)
                    await self._trouble.end(fence)
            case Extend(number, deadline_ms, counted):
                if counted:
                    log.warning("round extended", extra={"job": job, "round": number})
                    metrics.ROUNDS.labels(federation=job, outcome="extended").inc()
                await store.extend_round(job, number, deadline_ms, fence, counted)
            case Fold(number):
                noting = await self._trouble.begin("fold", number, fence)
                if noting is not None:
                    await close_round(self._driven, situation.spec, situation.round, number, fence, noting)
                    await self._trouble.end(fence)
            case Evaluate(reason):
                await store.set_status(job, JobStatus.EVALUATING, reason, [JobStatus.RUNNING], fence)
            case Complete(reason):
                running = [JobStatus.RUNNING, JobStatus.EVALUATING]
                await store.set_status(job, JobStatus.COMPLETED, reason, running, fence)
                log.info("job completed", extra={"job": job, "reason": reason} if reason else {"job": job})
            case Fail(reason):
                log.error("job failed: %s", reason, extra={"job": job})
                metrics.ROUNDS.labels(federation=job, outcome="failed").inc()
                await store.set_status(job, JobStatus.FAILED, reason, _ALIVE, fence)
            case Wait() | Over():
                pass
