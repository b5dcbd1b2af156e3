"""Whether a service can do its work right now, checked in the background.

A service is ready while its check (usually: the store answers) succeeds. The gRPC health service, `/readyz` and
other listeners follow within one interval, in both directions.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from fedhft.errors import FedhftError
from fedhft.telemetry.reminders import Reminders

logger = logging.getLogger(__name__)

Check = Callable[[], Awaitable[object]]
"""Returns when the service can work, raises FedhftError when not. A str tells what people should know all the same."""
Tell = Callable[[bool], Awaitable[None]]
"""Is told after every check whether all is well."""


class ReadinessWatch:
    """Repeats a check and keeps its answer. Why a service is not ready is logged when that begins, and seldom then."""

    def __init__(
        self,
        check: Check,
        interval_s: float = 1.0,
        answer_s: float = 2.0,
        reminders: Reminders | None = None,
    ) -> None:
        self._check = check
        self._tell: Tell = _nobody
        self._interval_s = interval_s
        self._answer_s = answer_s
        self._reminders = reminders or Reminders()
        self._state: tuple[bool, str] = (False, "starting")
        self._task: asyncio.Task[None] | None = None

    def ready(self) -> tuple[bool, str]:
        """The last answer and, when not ready, why; or what does not work although the service is ready.

        Any thread may call it; it does not block.
        """
        return self._state

    async def start(self, tell: Tell) -> None:
        """Check once, tell the outcome, then go on in the background."""
        self._tell = tell
        await self._once()
        self._task = asyncio.create_task(self._repeat(), name="readiness")

    async def stop(self, reason: str = "stopping") -> None:
        """End the checks; not ready from now on."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._state = (False, reason)
        await self._tell(False)

    async def _repeat(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            await self._once()

    async def _once(self) -> None:
        try:
            async with asyncio.timeout(self._answer_s):
                known = await self._check()
            state = (True, known if isinstance(known, str) else "")
        except TimeoutError:
            state = (False, f"no answer within {self._answer_s:g} s")
        except FedhftError as error:
            state = (False, error.message)
        except Exception as error:
            # The watch must survive unexpected failures, or the service would stay ready for ever.
            logger.exception("the readiness check failed unexpectedly")
            state = (False, f"the check failed: {type(error).__name__}")
        before, self._state = self._state, state
        if state[0]:
            self._reminders.over()
            if not before[0]:
                logger.info("ready")
        elif self._reminders.due(state[1]):
            logger.warning("not ready", extra={"reason": state[1]})
        await self._tell(state[0])


async def _nobody(ready: bool) -> None:
    """Who is told before the watch starts."""
