"""What a coordinator does when a step fails: look again, wait for the surroundings, or pause the job."""

from __future__ import annotations

import contextlib
import logging
import random
import secrets

from fedhft.coordination.driven import Driven
from fedhft.errors import FedhftError
from fedhft.records import Attempt
from fedhft.rounds.patience import MOST_ATTEMPTS, NOTED_FROM, Failure, culprits, failure_of, pause_bound_s
from fedhft.telemetry import metrics

log = logging.getLogger(__name__)

_RETRY_S = 1.0


class Trouble:
    """The failures of one job's steps, as its coordinator meets them."""

    def __init__(self, driven: Driven) -> None:
        self._driven = driven
        self._in_a_row = 0
        self._defects = 0
        self._counted = 0
        self._anew = False
        self._blocked = ""

    def seen(self, blocked: str) -> None:
        """Learn what blocks the job by the store, perhaps since another coordinator's time."""
        self._blocked = blocked

    async def begin(self, step: str, number: int, fence: int) -> bool | None:
        """Count an attempt at a step of round `number` and set aside what attempts kept ending at.

        Returns whether the fold is to note whose update it is at; None when the job was paused instead, because
        attempts kept ending with their process. Raises FENCED, and the store's.
        """
        driven, name = self._driven, f"{step} {number}"
        attempt = await self._attempt(name, fence)
        if found := culprits(attempt):
            reason = f"{MOST_ATTEMPTS - NOTED_FROM} attempts to fold the round ended while this update was being folded"
            log.error("update set aside: %s", reason, extra={"job": driven.job, "round": number, "clients": found})
            await driven.store.set_aside(driven.job, number, dict.fromkeys(found, reason), fence)
            self._anew = True
            attempt = await self._attempt(name, fence)
        if attempt.count > MOST_ATTEMPTS:
            await self._pause(f"{MOST_ATTEMPTS} attempts at `{name}` ended without a result, or with their process")
            return None
        return attempt.count >= NOTED_FROM

    async def _attempt(self, name: str, fence: int) -> Attempt:
        attempt = await self._driven.store.begin_attempt(self._driven.job, name, fence, self._anew)
        self._anew, self._counted = False, attempt.count
        return attempt

    async def end(self, fence: int) -> None:
        """The step that was begun has succeeded."""
        await self._driven.store.end_attempts(self._driven.job, fence)
        self._counted = 0

    async def passed(self) -> None:
        """A look at the job, and what it led to, went well."""
        self._in_a_row = self._defects = 0
        if self._blocked:
            await self._driven.store.set_blocked(self._driven.job, "")
            self._blocked = ""
            log.info("the job goes on", extra={"job": self._driven.job})

    async def after(self, error: Exception) -> float:
        """Deal with a step that failed; returns the pause before the next try, seconds."""
        kind = failure_of(error)
        self._in_a_row += 1
        metrics.STEPS_FAILED.labels(federation=self._driven.job, kind=kind.value).inc()
        fields = {"job": self._driven.job, "code": error.code} if isinstance(error, FedhftError) else {}
        if kind is Failure.PASSING:
            log.warning("coordinator: %s; looking again", error, extra=fields)
            return _RETRY_S
        if kind is Failure.SURROUNDINGS:
            self._anew = True  # an attempt that could not be made is none
            log.warning("coordinator: %s; trying again", error, extra=fields)
            await self._block(_told(error))
            return random.uniform(0.5, 1.0) * pause_bound_s(self._in_a_row)
        self._defects += 1
        incident = secrets.token_hex(4)
        log.error("coordinator: incident %s", incident, exc_info=error, extra={"job": self._driven.job})
        if max(self._defects, self._counted) >= MOST_ATTEMPTS:
            with contextlib.suppress(FedhftError):  # the store is away: the next failure tries again
                await self._pause(_told(error), incident)
        return _RETRY_S

    async def _block(self, reason: str) -> None:
        if reason != self._blocked:
            with contextlib.suppress(FedhftError):  # the store itself is away: nobody can read it there either
                await self._driven.store.set_blocked(self._driven.job, reason)
                self._blocked = reason

    async def _pause(self, why: str, incident: str = "") -> None:
        job = self._driven.job
        incident = incident or secrets.token_hex(4)
        reason = (
            f"incident {incident}: {why}; the aggregator's log says more under this number, `fedhft job resume {job}` "
            "tries again"
        )
        log.error("job paused: %s", reason, extra={"job": job})
        await self._driven.store.pause_job(job, reason)
        self._defects = 0


def _told(error: Exception) -> str:
    return error.message if isinstance(error, FedhftError) else f"{type(error).__name__}: {error}"
