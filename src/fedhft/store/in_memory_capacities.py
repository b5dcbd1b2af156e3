"""What devices can do, and the plans made from it, in the in-memory store."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from fedhft.ids import ClientId, JobId
from fedhft.planning.allocation import Allocated
from fedhft.planning.estimates import Capacity
from fedhft.store.in_memory_tables import InMemoryTables


class InMemoryCapacities(InMemoryTables):
    """The part of InMemoryStore about devices."""

    async def note_capacity(self, job: JobId, client: ClientId, capacity: Capacity) -> None:
        """See Store.note_capacity."""
        self._existing(job)[0].capacities[client] = capacity

    async def note_capacities(self, job: JobId, capacities: Mapping[str, Capacity], fence: int) -> None:
        """See Store.note_capacities."""
        self._fenced(job, fence).capacities.update(capacities)

    async def capacities(self, job: JobId, clients: Collection[str]) -> Mapping[str, Capacity]:
        """See Store.capacities."""
        known = self._of(job).capacities
        return {client: known[client] for client in clients if client in known}

    async def keep_allocated(self, job: JobId, allocated: Allocated, fence: int) -> None:
        """See Store.keep_allocated."""
        self._fenced(job, fence).allocated = allocated

    async def allocated(self, job: JobId) -> Allocated | None:
        """See Store.allocated."""
        return self._of(job).allocated
