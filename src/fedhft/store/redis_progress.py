"""What keeps a job from going on, in Redis: pauses, attempts, updates set aside; and its deletion."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping

from pydantic import ValidationError

from fedhft.ids import ClientId, JobId
from fedhft.records import Attempt, EventRecord, JobStatus, Missed, Outcome, Topic
from fedhft.store import refusals
from fedhft.store.blobs import BlobStore
from fedhft.store.connection import RedisConnection
from fedhft.store.keys import JOBS, REMEMBERED_S, SET_ASIDE_TTL_S, JobKeys
from fedhft.store.reading import reading

log = logging.getLogger(__name__)

_SCANNED_AT_ONCE = 1000


class RedisProgress:
    """The part of RedisStore about jobs that do not go on."""

    _redis: RedisConnection
    _blobs: BlobStore

    async def note_attendance(
        self, job: JobId, number: int, absent: Collection[str], delivered: Collection[str], fence: int
    ) -> None:
        """See Store.note_attendance."""
        its = JobKeys(job)
        (outcome,) = await self._redis.run(
            "note_attendance", (its.fence, its.missed), fence, number, len(absent), *absent, *delivered
        )
        if outcome == b"fenced":
            raise refusals.fenced(job, fence)

    async def missed(self, job: JobId) -> Mapping[str, Missed]:
        """See Store.missed."""
        found = await self._redis.call("HGETALL", JobKeys(job).missed)
        return {client.decode(): _missed(counts) for client, counts in sorted(found.items())}

    async def pause_job(self, job: JobId, reason: str) -> bool:
        """See Store.pause_job."""
        its = JobKeys(job)
        outcome, *changed = await self._redis.run("pause_job", (its.job, *its.all_changes, its.events), reason)
        if outcome == b"unknown_job":
            raise refusals.unknown_job(job)
        return bool(changed[0])

    async def resume_job(self, job: JobId) -> bool:
        """See Store.resume_job."""
        its = JobKeys(job)
        outcome, *changed = await self._redis.run(
            "resume_job",
            (its.job, its.round, its.attempts, *its.all_changes, its.events),
        )
        if outcome == b"unknown_job":
            raise refusals.unknown_job(job)
        return bool(changed[0])

    async def set_blocked(self, job: JobId, reason: str) -> bool:
        """See Store.set_blocked."""
        its = JobKeys(job)
        _, changed = await self._redis.run("set_blocked", (its.job, its.changes(Topic.PROGRESS), its.events), reason)
        return bool(changed)

    async def begin_attempt(self, job: JobId, step: str, fence: int, anew: bool = False) -> Attempt:
        """See Store.begin_attempt."""
        its = JobKeys(job)
        outcome, *told = await self._redis.run(
            "begin_attempt", (its.fence, its.attempts), fence, step, "1" if anew else "0"
        )
        if outcome == b"fenced":
            raise refusals.fenced(job, fence)
        count, *suspects = told
        pairs = zip(suspects[::2], suspects[1::2], strict=True)
        return Attempt(int(count), {ClientId(client.decode()): int(ended) for client, ended in pairs})

    async def note_folding(self, job: JobId, client: str, fence: int) -> None:
        """See Store.note_folding."""
        its = JobKeys(job)
        (outcome,) = await self._redis.run("note_folding", (its.fence, its.attempts), fence, client)
        if outcome == b"fenced":
            raise refusals.fenced(job, fence)

    async def end_attempts(self, job: JobId, fence: int) -> None:
        """See Store.end_attempts."""
        its = JobKeys(job)
        (outcome,) = await self._redis.run("end_attempts", (its.fence, its.attempts), fence)
        if outcome == b"fenced":
            raise refusals.fenced(job, fence)

    async def set_aside(self, job: JobId, number: int, reasons: Mapping[str, str], fence: int) -> None:
        """See Store.set_aside."""
        its = JobKeys(job)
        pairs = (text for pair in reasons.items() for text in pair)
        (outcome,) = await self._redis.run(
            "set_aside",
            (its.fence, its.set_aside(number), its.client_events),
            fence,
            SET_ASIDE_TTL_S,
            number,
            *pairs,
        )
        if outcome == b"fenced":
            raise refusals.fenced(job, fence)

    async def are_set_aside(self, job: JobId, number: int) -> Mapping[str, str]:
        """See Store.are_set_aside."""
        found = await self._redis.call("HGETALL", JobKeys(job).set_aside(number))
        return {client.decode(): reason.decode() for client, reason in sorted(found.items())}

    async def note_outcomes(self, job: JobId, outcomes: Mapping[str, Outcome], fence: int) -> None:
        """See Store.note_outcomes."""
        its = JobKeys(job)
        pairs = (text for client, outcome in outcomes.items() for text in (client, outcome.model_dump_json()))
        (outcome,) = await self._redis.run("note_outcomes", (its.fence, its.outcomes), fence, *pairs)
        if outcome == b"fenced":
            raise refusals.fenced(job, fence)

    async def outcomes(self, job: JobId) -> Mapping[str, Outcome]:
        """See Store.outcomes."""
        found = await self._redis.call("HGETALL", JobKeys(job).outcomes)
        outcomes = {}
        for raw, text in sorted(found.items()):
            client = raw.decode(errors="replace")
            try:
                outcomes[client] = Outcome.model_validate_json(text)
            except ValidationError:  # what only informs must not keep agents from their tasks
                log.warning("an outcome cannot be read", extra={"job": job, "client": client})
        return outcomes

    async def events(self, job: JobId) -> list[EventRecord]:
        """See Store.events."""
        its = JobKeys(job)
        found = await self._redis.together(*(("LRANGE", key, 0, -1) for key in (its.events, its.client_events)))
        with reading(f"an event of job {job}"):
            events = [EventRecord.model_validate_json(text) for texts in found for text in texts]
        return sorted(events, key=lambda event: event.at_ms)

    async def delete_job(self, job: JobId, allowed: Collection[JobStatus]) -> None:
        """See Store.delete_job."""
        its = JobKeys(job)
        counters = (its.fence, *its.all_changes)
        outcome, *detail = await self._redis.run(
            "begin_delete", (JOBS, its.job, *counters), job, REMEMBERED_S, *(status.value for status in allowed)
        )
        if outcome == b"unknown_job":
            raise refusals.unknown_job(job)
        if outcome == b"job_running":
            raise refusals.job_running(job, detail[0].decode())
        await self._blobs.delete_job(job)
        cursor = 0
        while True:
            answer = await self._redis.call("SCAN", cursor, "MATCH", f"{its.prefix}*", "COUNT", _SCANNED_AT_ONCE)
            cursor, found = int(answer[0]), answer[1]
            gone = [key for key in found if key.decode() not in counters]
            if gone:
                await self._redis.call("UNLINK", *gone)
            if cursor == 0:
                break
        await self._redis.call("LREM", JOBS, 0, job)


def _missed(counts: bytes) -> Missed:
    in_a_row, last = counts.split()
    return Missed(int(in_a_row), int(last))
