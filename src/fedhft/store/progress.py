"""The part of the store's interface about jobs that do not go on, or are to go: see `interface`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

from fedhft.ids import JobId
from fedhft.records import Attempt, EventRecord, JobStatus, Missed, Outcome


class ProgressStore(Protocol):
    """Attendance, pauses, attempts, updates set aside and other outcomes, deletion."""

    # -- who delivers
    async def note_attendance(
        self, job: JobId, number: int, absent: Collection[str], delivered: Collection[str], fence: int
    ) -> None:
        """Count a round that clients missed; who delivered has missed none in a row. Repeatable. Raises FENCED."""
        ...

    async def missed(self, job: JobId) -> Mapping[str, Missed]:
        """Clients that missed the last rounds in which they took part."""
        ...

    # -- what keeps a job from going on
    async def pause_job(self, job: JobId, reason: str) -> bool:
        """Pause a job; False when it is paused already, or over. Wakes all topics. Raises UNKNOWN_JOB.

        A paused job still accepts updates of the open round.
        """
        ...

    async def resume_job(self, job: JobId) -> bool:
        """Let a paused job go on; False when it was not paused. Wakes all topics. Raises UNKNOWN_JOB.

        The deadline of an open round moves by the length of the pause; attempts counted so far are forgotten.
        """
        ...

    async def set_blocked(self, job: JobId, reason: str) -> bool:
        """Note what a job waits for, empty for nothing; whether that changed. Wakes PROGRESS if so.

        Works in a store that is out of memory, too.
        """
        ...

    async def begin_attempt(self, job: JobId, step: str, fence: int, anew: bool = False) -> Attempt:
        """Count an attempt at a step before it begins. Another step, or `anew`, starts from 1. Raises FENCED."""
        ...

    async def note_folding(self, job: JobId, client: str, fence: int) -> None:
        """Note whose update is folded now, empty when that is over; the next attempt counts it. Raises FENCED."""
        ...

    async def end_attempts(self, job: JobId, fence: int) -> None:
        """The step succeeded: forget its attempts. Raises FENCED."""
        ...

    async def set_aside(self, job: JobId, number: int, reasons: Mapping[str, str], fence: int) -> None:
        """Note, client -> reason, whose updates the fold of a round leaves out; the first reason stands.

        Kept for SET_ASIDE_TTL_S. Raises FENCED.
        """
        ...

    async def are_set_aside(self, job: JobId, number: int) -> Mapping[str, str]:
        """What `set_aside` noted for a round."""
        ...

    async def note_outcomes(self, job: JobId, outcomes: Mapping[str, Outcome], fence: int) -> None:
        """Note for clients what a fold did with their updates, each in place of its last outcome. Raises FENCED."""
        ...

    async def outcomes(self, job: JobId) -> Mapping[str, Outcome]:
        """The last outcome of every client that has one; one that cannot be read counts as none."""
        ...

    # -- what happened
    async def events(self, job: JobId) -> list[EventRecord]:
        """What happened to a job and its clients, in order: the last KEPT_EVENTS of each.

        Written by the transitions themselves, in the same step, so that nothing is missing and nothing is told twice.
        """
        ...

    async def delete_job(self, job: JobId, allowed: Collection[JobStatus]) -> None:
        """Delete a job in one of these states, all it has, in bounded steps; repeat it when it was interrupted.

        From the beginning of it the job does not exist. Wakes all topics. Raises UNKNOWN_JOB, JOB_RUNNING.
        """
        ...
