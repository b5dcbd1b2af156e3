"""Whether the clusterer can be reached, found out before a round needs it.

An aggregator serves without its clusterer, on the memberships there are. So that nobody learns of a wrong certificate
only when the first fit is due, the way there is looked at from the start; what is wrong is logged and on `/readyz`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from fedhft.errors import ErrorCode, FedhftError
from fedhft.process.background import meanwhile
from fedhft.rpc.diagnosis import diagnose
from fedhft.rpc.tls import TlsSettings
from fedhft.telemetry.reminders import Reminders

log = logging.getLogger(__name__)

INTERVAL_S = 30.0
"""Between two looks while all is well."""
AGAIN_S = 5.0
"""Between two looks while something is wrong."""


class ClustererWatch:
    """Looks at the way to one clusterer while it is entered."""

    def __init__(
        self, server: str, tls: TlsSettings | None, interval_s: float = INTERVAL_S, again_s: float = AGAIN_S
    ) -> None:
        self._server = server
        self._tls = tls
        self._interval_s = interval_s
        self._again_s = again_s
        self._reminders = Reminders()
        self._away_before = False
        self.trouble = ""
        """Why the clusterer cannot be reached; empty while it can be, as far as is known."""

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Look now and again."""
        async with meanwhile(self._repeat(), "clusterer-watch"):
            yield

    async def _repeat(self) -> None:
        while True:
            found = await asyncio.to_thread(diagnose, self._server, self._tls)
            self._note(found)
            await asyncio.sleep(self._interval_s if found is None else self._again_s)

    def _note(self, found: FedhftError | None) -> None:
        away = found is not None and found.code is ErrorCode.SERVER_UNAVAILABLE
        if found is None:
            if self.trouble:
                log.info("the clusterer can be reached again")
            self.trouble = ""
            self._reminders.over()
        elif not away or self._away_before:  # processes that start together wait a moment for each other
            self.trouble = f"clusterer: {found.message}; the memberships there are stand meanwhile"
            if self._reminders.due(found.message):
                log.warning(
                    "the clusterer cannot be reached", extra={"code": found.code.value, "reason": found.message}
                )
        self._away_before = away
