"""Agents that wait for work. When a job changes, those whom the change concerns are woken; the others sleep on."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable

from fedhft.coordination.job_cache import CachedJob, JobCache
from fedhft.errors import ErrorCode, FedhftError
from fedhft.ids import ClientId, JobId
from fedhft.records import Phase, Topic
from fedhft.store.interface import Store

log = logging.getLogger(__name__)

_FOLLOW_S = 300.0
_RETRY_S = 1.0


class Waiting:
    """Everybody who waits in this process, by job. One task per job follows its changes."""

    def __init__(self, store: Store, cache: JobCache) -> None:
        self._store = store
        self._cache = cache
        self._rooms: dict[JobId, _Room] = {}

    async def wait(self, job: JobId, client: ClientId, seen: int, timeout_s: float) -> CachedJob | None:
        """Until there may be work for the client, the job has ended, or time is up.

        seen: the job's TASKS counter as the caller knows it; when it has moved since, this returns at once. Returns the
        job as it is now when a round that the client takes part in opened, or goes on after a pause or a fold in vain.
        """
        room = self._rooms.get(job)
        if room is None:
            room = self._rooms[job] = _Room(self._store, self._cache, job, seen)
        try:
            return await room.wait(client, seen, timeout_s)
        finally:
            if room.is_empty and self._rooms.get(job) is room:
                del self._rooms[job]
                await room.close()

    def recall(self, client: ClientId) -> None:
        """Let a client's calls that wait here ask the store again."""
        for room in self._rooms.values():
            room.recall(client)


class _Room:
    """Who waits for one job."""

    def __init__(self, store: Store, cache: JobCache, job: JobId, seen: int) -> None:
        self._store = store
        self._cache = cache
        self._job = job
        self._seen = seen
        self._waiting: dict[ClientId, list[asyncio.Future[CachedJob | None]]] = {}
        self._task = asyncio.create_task(self._follow(), name=f"waiting for {job}")

    @property
    def is_empty(self) -> bool:
        """Whether nobody waits here."""
        return not self._waiting

    async def wait(self, client: ClientId, seen: int, timeout_s: float) -> CachedJob | None:
        """See Waiting.wait."""
        if self._seen > seen:
            return None
        loop = asyncio.get_running_loop()
        woken: asyncio.Future[CachedJob | None] = loop.create_future()
        timer = loop.call_later(max(0.0, timeout_s), _wake, woken, None)
        self._waiting.setdefault(client, []).append(woken)
        try:
            return await woken
        finally:
            timer.cancel()
            mine = self._waiting.get(client, [])
            if woken in mine:
                mine.remove(woken)
            if not mine:
                self._waiting.pop(client, None)

    def recall(self, client: ClientId) -> None:
        """See Waiting.recall."""
        self._wake([client], None)

    async def close(self) -> None:
        """Stop following the job."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _follow(self) -> None:
        while True:
            try:
                now = await self._store.wait_change(self._job, Topic.TASKS, self._seen, _FOLLOW_S)
                if now == self._seen:
                    continue
                cached = await self._cache.get(self._job, now)
            except FedhftError as error:
                if error.code is ErrorCode.UNKNOWN_JOB:
                    self._wake(list(self._waiting), None)  # they ask again and are told
                else:
                    log.warning("cannot follow a job: %s", error, extra={"job": self._job})
                await asyncio.sleep(_RETRY_S)
                continue
            self._seen = now
            self._tell(cached)

    def _tell(self, cached: CachedJob) -> None:
        """Wake those whom the change concerns."""
        current = cached.round
        if cached.record.status.over:
            self._wake(list(self._waiting), None)
        elif current is not None and current.phase is Phase.COLLECTING:
            self._wake([client for client in self._waiting if client in current.participants], cached)

    def _wake(self, clients: Iterable[ClientId], news: CachedJob | None) -> None:
        for client in clients:
            for woken in self._waiting.pop(client, ()):
                _wake(woken, news)


def _wake(woken: asyncio.Future[CachedJob | None], news: CachedJob | None) -> None:
    if not woken.done():
        woken.set_result(news)
