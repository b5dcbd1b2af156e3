"""What every step of a job needs: the store, the job, who holds its lease, whom to ask for memberships."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from fedhft.adapter import AdapterSchema
from fedhft.coordination.clusterer import Clusterer
from fedhft.coordination.decoded import DecodedUpdates
from fedhft.coordination.history import RoundHistory
from fedhft.errors import ErrorCode, FedhftError
from fedhft.ids import JobId
from fedhft.job import JobSpec
from fedhft.process.background import meanwhile
from fedhft.records import MembershipRecord
from fedhft.rounds.paging import KEPT_ROUNDS
from fedhft.rounds.reclustering import wants_memberships
from fedhft.store.interface import Store

log = logging.getLogger(__name__)

Reached = Callable[[str], None]
"""Called with the name of every point a round passes; tests kill the process there."""


@dataclass(frozen=True)
class Driven:
    """One job as one coordinator drives it."""

    store: Store
    job: JobId
    clusterer: Clusterer | None
    holder: str
    """Who holds the job's lease when this coordinator does."""
    lease_ms: int
    reached: Reached
    observe: Callable[[RoundHistory], None]
    """Called with every round that this coordinator published."""
    decoded: DecodedUpdates | None = None
    """Updates that this process accepted, in whichever job."""
    kept_rounds: int = KEPT_ROUNDS
    """Rounds whose figures stay in the history, beside those of the final evaluation."""

    async def schema(self) -> AdapterSchema:
        """The job's schema. Raises NOT_JOINED before there is one."""
        text = await self.store.schema(self.job)
        if text is None:
            raise FedhftError(ErrorCode.NOT_JOINED, "no client has joined with a schema yet; start the agents")
        return AdapterSchema.from_json(text)

    async def update_memberships(self, spec: JobSpec, after_round: int) -> MembershipRecord | None:
        """New memberships for the next round, once per round; the old ones stand when the clusterer is away."""
        latest = await self.store.memberships(self.job)
        if self.clusterer is None or not wants_memberships(spec, after_round, latest):
            return latest
        if not await self.store.has_signatures(self.job):
            return latest  # nothing to cluster by yet
        try:
            await self.clusterer.update_memberships(self.job, latest.version if latest else 0, after_round)
        except FedhftError as error:
            log.warning("clusterer: %s; the old memberships stand", error, extra={"job": self.job})
        return await self.store.memberships(self.job)

    @contextlib.asynccontextmanager
    async def renewed_lease(self) -> AsyncIterator[None]:
        """While something takes longer than a lease."""

        async def renew() -> None:
            while True:
                await asyncio.sleep(self.lease_ms / 3000)
                try:
                    await self.store.acquire(self.job, self.holder, self.lease_ms)
                except FedhftError as error:
                    log.warning("lease not renewed: %s", error, extra={"job": self.job})

        async with meanwhile(renew(), f"renewing the lease of {self.job}"):
            yield
