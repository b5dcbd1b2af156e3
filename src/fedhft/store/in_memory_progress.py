"""What keeps a job from going on, in the in-memory store: pauses, attempts, updates set aside; and its deletion."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from fedhft.ids import ClientId, JobId
from fedhft.records import Attempt, EventKind, EventRecord, JobStatus, Missed, Outcome, Phase, Topic
from fedhft.store import refusals
from fedhft.store.in_memory_job import Attempts, KeptJob
from fedhft.store.in_memory_tables import InMemoryTables


class InMemoryProgress(InMemoryTables):
    """The part of InMemoryStore about jobs that do not go on."""

    async def note_attendance(
        self, job: JobId, number: int, absent: Collection[str], delivered: Collection[str], fence: int
    ) -> None:
        """See Store.note_attendance."""
        missed = self._fenced(job, fence).missed
        for client in absent:
            before = missed.get(client, Missed(0, 0))
            if before.last != number:
                missed[client] = Missed(before.in_a_row + 1, number)
        for client in delivered:
            missed.pop(client, None)

    async def missed(self, job: JobId) -> Mapping[str, Missed]:
        """See Store.missed."""
        return dict(sorted(self._of(job).missed.items()))

    async def pause_job(self, job: JobId, reason: str) -> bool:
        """See Store.pause_job."""
        its, record = self._existing(job)
        if its.paused_ms is not None or record.status.over:
            return False
        its.record = record.model_copy(update={"paused": reason})
        self._note(its, EventKind.PAUSED, text=reason)
        its.paused_ms = self._now_ms()
        for topic in Topic:
            its.wake(topic)
        return True

    async def resume_job(self, job: JobId) -> bool:
        """See Store.resume_job."""
        its, record = self._existing(job)
        if its.paused_ms is None:
            return False
        away_ms = max(0, self._now_ms() - its.paused_ms)
        its.record = record.model_copy(update={"paused": ""})
        its.paused_ms = None
        its.attempts = Attempts()
        self._note(its, EventKind.RESUMED)
        if its.round is not None and its.round.phase is Phase.COLLECTING:
            its.round = its.round.model_copy(update={"deadline_ms": its.round.deadline_ms + away_ms})
        for topic in Topic:
            its.wake(topic)
        return True

    async def set_blocked(self, job: JobId, reason: str) -> bool:
        """See Store.set_blocked."""
        its = self._jobs.get(job)
        if its is None or its.record is None or its.record.blocked == reason:
            return False
        its.record = its.record.model_copy(update={"blocked": reason})
        self._note(its, EventKind.BLOCKED if reason else EventKind.UNBLOCKED, text=reason)
        its.wake(Topic.PROGRESS)
        return True

    async def begin_attempt(self, job: JobId, step: str, fence: int, anew: bool = False) -> Attempt:
        """See Store.begin_attempt."""
        its = self._fenced(job, fence)
        if anew or its.attempts.step != step:
            its.attempts = Attempts(step)
        tried = its.attempts
        if tried.current:
            tried.suspects[tried.current] = tried.suspects.get(tried.current, 0) + 1
            tried.current = ""
        tried.count += 1
        return Attempt(tried.count, {ClientId(client): ended for client, ended in tried.suspects.items()})

    async def note_folding(self, job: JobId, client: str, fence: int) -> None:
        """See Store.note_folding."""
        tried = self._fenced(job, fence).attempts
        if tried.count:
            tried.current = client

    async def end_attempts(self, job: JobId, fence: int) -> None:
        """See Store.end_attempts."""
        self._fenced(job, fence).attempts = Attempts()

    async def set_aside(self, job: JobId, number: int, reasons: Mapping[str, str], fence: int) -> None:
        """See Store.set_aside."""
        its = self._fenced(job, fence)
        aside = its.aside.setdefault(number, {})
        for client, reason in reasons.items():
            if client not in aside:
                aside[client] = reason
                self._note(its, EventKind.SET_ASIDE, round=number, client=client, text=reason)

    async def are_set_aside(self, job: JobId, number: int) -> Mapping[str, str]:
        """See Store.are_set_aside."""
        return dict(sorted(self._of(job).aside.get(number, {}).items()))

    async def note_outcomes(self, job: JobId, outcomes: Mapping[str, Outcome], fence: int) -> None:
        """See Store.note_outcomes."""
        self._fenced(job, fence).outcomes.update(outcomes)

    async def outcomes(self, job: JobId) -> Mapping[str, Outcome]:
        """See Store.outcomes."""
        return dict(sorted(self._of(job).outcomes.items()))

    async def events(self, job: JobId) -> list[EventRecord]:
        """See Store.events."""
        its = self._of(job)
        return sorted([*its.events, *its.client_events], key=lambda event: event.at_ms)

    async def delete_job(self, job: JobId, allowed: Collection[JobStatus]) -> None:
        """See Store.delete_job."""
        its, record = self._existing(job)
        if record.status not in allowed:
            raise refusals.job_running(job, record.status)
        remembered = KeptJob(fence=its.fence + 1, counters=its.counters, moved=its.moved)
        self._jobs[job] = remembered
        for topic in Topic:
            remembered.wake(topic)
        await self._blobs.delete_job(job)
        await self._transfers.sweep(job, -1.0)
