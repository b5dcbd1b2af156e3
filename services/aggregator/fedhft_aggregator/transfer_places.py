"""Places for streams that carry tensors: so many at once, one per client, and none kept by those who do not move.

While nobody waits, a stream keeps its place as long as something moves now and then. While others wait, it must move
every few seconds and gives its place up after a while; what it has carried stays, and it resumes at its next turn. So
clients that stall or trickle, however many there are, delay another one by a bounded time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fedhft.errors import ErrorCode, FedhftError
from fedhft.ids import ClientId
from fedhft.telemetry import metrics

IDLE_S = 60.0
"""How long a stream may carry nothing while nobody waits."""
CROWDED_IDLE_S = 5.0
"""The same while others wait."""
CROWDED_TURN_S = 30.0
"""How long a stream keeps its place while others wait."""


_NOTED_EVERY_S = 1.0
"""While nobody waits, progress is noted no more often."""


class Place:
    """One stream's place. `moved` is called with every piece that it carried."""

    def __init__(self, limit: asyncio.Timeout) -> None:
        self._limit = limit
        self._begun_s = self._last_s = asyncio.get_running_loop().time()
        self.superseded = False

    def moved(self, crowded: bool) -> None:
        """Note progress, and whether others wait."""
        now_s = asyncio.get_running_loop().time()
        if crowded or now_s - self._last_s > _NOTED_EVERY_S:
            self._last_s = now_s
            self.hurry(crowded)

    def hurry(self, crowded: bool) -> None:
        """Set the limit by whether others wait now."""
        until = self._last_s + IDLE_S
        if crowded:
            until = min(self._last_s + CROWDED_IDLE_S, self._begun_s + CROWDED_TURN_S)
        if not self._limit.expired():
            self._limit.reschedule(until)

    def supersede(self) -> None:
        """End this stream now: its client has begun another one."""
        self.superseded = True
        if not self._limit.expired():
            self._limit.reschedule(asyncio.get_running_loop().time())


class TransferPlaces:
    """The places of one process for one direction."""

    def __init__(self, most: int, direction: str) -> None:
        """direction: "up" or "down", under which those that wait are counted."""
        self._free = asyncio.Semaphore(most)
        self._shown = metrics.TRANSFERS_WAITING.labels(direction=direction)
        self._waiting = 0
        self._taken: dict[ClientId, Place] = {}
        self._latest: dict[ClientId, object] = {}

    @asynccontextmanager
    async def place(self, client: ClientId) -> AsyncIterator[Turn]:
        """Wait for a place and keep it while inside.

        Raises FedhftError(TRUNCATED_STREAM), also inside, when the place is lost: nothing moved for too long, others
        had waited for their turn, or the client began another stream.
        """
        mine = object()
        self._latest[client] = mine
        if (older := self._taken.get(client)) is not None:
            older.supersede()
        try:
            await self._acquire()
            try:
                if self._latest.get(client) is not mine:
                    raise _lost("the client began another transfer; one at a time")
                async with self._held(client) as turn:
                    yield turn
            finally:
                self._free.release()
        finally:
            if self._latest.get(client) is mine:
                del self._latest[client]

    async def _acquire(self) -> None:
        if self._free.locked():
            self._waiting += 1
            self._shown.inc()
            for place in self._taken.values():
                place.hurry(crowded=True)
            try:
                with metrics.QUEUE_WAIT_SECONDS.time():
                    await self._free.acquire()
            finally:
                self._waiting -= 1
                self._shown.dec()
        else:
            metrics.QUEUE_WAIT_SECONDS.observe(0.0)
            await self._free.acquire()

    @asynccontextmanager
    async def _held(self, client: ClientId) -> AsyncIterator[Turn]:
        place: Place | None = None
        try:
            async with asyncio.timeout(None) as limit:
                place = self._taken[client] = Place(limit)
                place.hurry(self._waiting > 0)
                yield Turn(self, place)
        except TimeoutError as error:
            if place is None or not limit.expired():
                raise
            if place.superseded:
                raise _lost("the client began another transfer; one at a time") from error
            raise _lost("nothing moved for too long, or others waited for their turn") from error
        finally:
            if self._taken.get(client) is place:
                del self._taken[client]

    @property
    def crowded(self) -> bool:
        """Whether somebody waits."""
        return self._waiting > 0


class Turn:
    """What a stream holds while it has a place."""

    def __init__(self, places: TransferPlaces, place: Place) -> None:
        self._places = places
        self._place = place

    @property
    def crowded(self) -> bool:
        """Whether others wait for a place."""
        return self._places.crowded

    def moved(self) -> None:
        """Say that something was carried."""
        self._place.moved(self._places.crowded)


def _lost(why: str) -> FedhftError:
    return FedhftError(ErrorCode.TRUNCATED_STREAM, f"the stream lost its place: {why}; resume where it ended")
