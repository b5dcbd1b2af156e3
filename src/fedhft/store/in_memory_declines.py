"""Declines of the in-memory store: the clients that will not serve a job, and why."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from fedhft.ids import ClientId, JobId
from fedhft.records import DeclineRecord, EventKind
from fedhft.store.in_memory_tables import InMemoryTables


class InMemoryDeclines(InMemoryTables):
    """The part of InMemoryStore that keeps declines."""

    async def decline(self, job: JobId, client: ClientId, reason: str) -> bool:
        """See Store.decline."""
        its, _ = self._existing(job)
        if client in its.clients:
            return False
        before = its.declines.get(client)
        its.declines[client] = DeclineRecord(client=client, reason=reason, declined_ms=self._now_ms())
        if before is None or before.reason != reason:  # an agent looks again every half hour
            self._note(its, EventKind.DECLINED, client=client, text=reason)
        return True

    async def declined(self, job: JobId) -> list[ClientId]:
        """See Store.declined."""
        return sorted(self._of(job).declines)

    async def declines(self, job: JobId, clients: Collection[ClientId]) -> Mapping[ClientId, DeclineRecord]:
        """See Store.declines."""
        kept = self._of(job).declines
        return {client: kept[client] for client in sorted(clients) if client in kept}
