"""One coordinator task per unfinished job, in every replica; the store's lease picks the one that acts."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Callable

from fedhft.coordination.clusterer import Clusterer
from fedhft.coordination.coordinator import Coordinator
from fedhft.coordination.decoded import DecodedUpdates
from fedhft.coordination.job_cache import JobCache
from fedhft.coordination.lease import LEASE_MS
from fedhft.errors import FedhftError
from fedhft.ids import JobId
from fedhft.rounds.paging import KEPT_ROUNDS
from fedhft.store.interface import Store
from fedhft.telemetry import metrics
from fedhft.telemetry.federations import EndedFederations
from fedhft.telemetry.reminders import Reminders

log = logging.getLogger(__name__)

_DISCOVERY_S = 5.0


class JobLoops:
    """Starts, watches and stops the coordinators of one process."""

    def __init__(
        self,
        store: Store,
        cache: JobCache,
        clusterer: Clusterer | None,
        reached: Callable[[str], None],
        decoded: DecodedUpdates | None = None,
        kept_rounds: int = KEPT_ROUNDS,
        lease_ms: int = LEASE_MS,
    ) -> None:
        self._store = store
        self._cache = cache
        self._clusterer = clusterer
        self._reached = reached
        self._decoded = decoded
        self._kept_rounds = kept_rounds
        self._lease_ms = lease_ms
        self._holder = uuid.uuid4().hex
        self._tasks: dict[JobId, asyncio.Task[None]] = {}

    def start(self, job: JobId) -> None:
        """Drive a job from now on; once per job."""
        if job not in self._tasks:
            self._tasks[job] = asyncio.create_task(self._drive(job), name=f"job-{job}")

    async def discover(self) -> None:
        """Pick up jobs submitted to other replicas, or before a restart of this one. Runs until cancelled."""
        reminders, ended = Reminders(), EndedFederations(time.monotonic)
        while True:
            try:
                alive = [await self._store.job(job) for job in await self._store.open_jobs()]
                ended.sweep([record.job for record in alive])
                for record in alive:
                    self.start(JobId(record.job))
                metrics.ENROLLED_CLIENTS.set(await self._store.count_enrolled())
                reminders.over()
            except FedhftError as error:
                if reminders.due(error.message):
                    log.warning("cannot look for jobs: %s", error)
            await asyncio.sleep(_DISCOVERY_S)

    async def stop(self) -> None:
        """Stop driving and give up the leases, so that another replica takes over at once."""
        for job, task in list(self._tasks.items()):
            # A cancellation can surface as an error of the store's client, which the loop survives; so repeat it.
            while not task.done():
                task.cancel()
                await asyncio.wait([task], timeout=0.2)
            with contextlib.suppress(FedhftError):
                await self._store.release(job, self._holder)
        self._tasks.clear()

    async def _drive(self, job: JobId) -> None:
        coordinator = Coordinator(
            self._store,
            job,
            self._clusterer,
            self._holder,
            lease_ms=self._lease_ms,
            reached=self._reached,
            decoded=self._decoded,
            kept_rounds=self._kept_rounds,
        )
        try:
            await coordinator.run()
        finally:
            self._tasks.pop(job, None)
            self._cache.forget(job)
