"""The part of the store's interface about what devices can do, and the plans made from it: see `interface`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

from fedhft.ids import ClientId, JobId
from fedhft.planning.allocation import Allocated
from fedhft.planning.estimates import Capacity


class CapacityStore(Protocol):
    """Estimates per client, and the plans in force."""

    async def note_capacity(self, job: JobId, client: ClientId, capacity: Capacity) -> None:
        """Keep what is known of one client's device, in place of what was. For a client that joins."""
        ...

    async def note_capacities(self, job: JobId, capacities: Mapping[str, Capacity], fence: int) -> None:
        """The same for the clients of a round. Raises FENCED."""
        ...

    async def capacities(self, job: JobId, clients: Collection[str]) -> Mapping[str, Capacity]:
        """What is known of those among `clients`; one that cannot be read is not known."""
        ...

    async def keep_allocated(self, job: JobId, allocated: Allocated, fence: int) -> None:
        """Keep the plans in force, in place of those before. Raises FENCED."""
        ...

    async def allocated(self, job: JobId) -> Allocated | None:
        """The plans in force; None before there are any, or where they cannot be read."""
        ...
