"""The deny list of the in-memory store."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from fedhft.records import Revocation
from fedhft.store.in_memory_tables import InMemoryTables
from fedhft.store.keys import REVOCATION_SLACK_MS


class InMemoryRevocations(InMemoryTables):
    """The deny list part of InMemoryStore."""

    async def revoke(self, serial: str, revocation: Revocation) -> None:
        """See Store.revoke."""
        oldest_ms = self._now_ms() - REVOCATION_SLACK_MS
        kept = {known: record for known, record in self._revoked.items() if record.not_after_ms >= oldest_ms}
        self._revoked = {**kept, serial: revocation}
        self._revocation_changes += 1
        self._revocation_moved.set()
        self._revocation_moved = asyncio.Event()

    async def revocations(self) -> Mapping[str, Revocation]:
        """See Store.revocations."""
        return self._revoked

    async def revocation_changes(self) -> int:
        """See Store.revocation_changes."""
        return self._revocation_changes

    async def wait_revocation(self, seen: int, timeout_s: float) -> int:
        """See Store.wait_revocation."""
        try:
            async with asyncio.timeout(max(timeout_s, 0)):
                while self._revocation_changes == seen:
                    await self._revocation_moved.wait()
        except TimeoutError:
            pass
        return self._revocation_changes
