"""The store in this process: for simulation and tests. Same transitions as Redis, no durability.

No method awaits between reading and writing, so on one event loop every transition is atomic.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from fedhft.ids import JobId
from fedhft.records import Topic
from fedhft.store.blobs import BlobStore
from fedhft.store.blobs_in_memory import InMemoryBlobs
from fedhft.store.in_memory_agents import InMemoryAgents
from fedhft.store.in_memory_capacities import InMemoryCapacities
from fedhft.store.in_memory_declines import InMemoryDeclines
from fedhft.store.in_memory_job import KeptJob
from fedhft.store.in_memory_jobs import InMemoryJobs
from fedhft.store.in_memory_progress import InMemoryProgress
from fedhft.store.in_memory_revocations import InMemoryRevocations
from fedhft.store.in_memory_rounds import InMemoryRounds
from fedhft.store.interface import BlobBackEnd
from fedhft.store.transfers import TransferStore
from fedhft.store.transfers_in_memory import InMemoryTransfers


class InMemoryStore(
    InMemoryAgents,
    InMemoryJobs,
    InMemoryDeclines,
    InMemoryCapacities,
    InMemoryProgress,
    InMemoryRounds,
    InMemoryRevocations,
):
    """Store in dictionaries; blobs and transfers there too unless another back end is given."""

    def __init__(self, back_end: BlobBackEnd | None = None, clock: Callable[[], float] = time.time) -> None:
        super().__init__(clock)
        if back_end is None:
            blobs = InMemoryBlobs(clock)
            back_end = BlobBackEnd(blobs, InMemoryTransfers(blobs, clock))
        self._blobs, self._transfers = back_end.blobs, back_end.transfers

    @property
    def blobs(self) -> BlobStore:
        """See Store.blobs."""
        return self._blobs

    @property
    def transfers(self) -> TransferStore:
        """See Store.transfers."""
        return self._transfers

    async def ping(self) -> None:
        """See Store.ping."""
        await self._blobs.ping()

    async def now_ms(self) -> int:
        """See Store.now_ms."""
        return self._now_ms()

    async def close(self) -> None:
        """See Store.close."""
        await self._blobs.close()

    # -- waiting
    async def changes(self, job: JobId, topic: Topic) -> int:
        """See Store.changes."""
        its = self._jobs.get(job)
        return its.counters[topic] if its else 0

    async def wait_change(self, job: JobId, topic: Topic, seen: int, timeout_s: float) -> int:
        """See Store.wait_change."""
        its = self._jobs.setdefault(job, KeptJob())
        try:
            async with asyncio.timeout(max(timeout_s, 0)):
                while its.counters[topic] == seen:
                    await its.moved[topic].wait()
        except TimeoutError:
            pass
        return its.counters[topic]
