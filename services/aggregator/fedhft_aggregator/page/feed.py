"""Follows the jobs that somebody looks at, on a thread with an event loop and a store connection of its own.

So the page takes nothing from the loop that serves agents, and without a viewer it does nothing at all.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import CancelledError
from typing import Any

from fedhft.errors import ErrorCode, FedhftError
from fedhft.ids import JobId
from fedhft.records import Topic
from fedhft.store.interface import Store
from fedhft_aggregator.page.board import Board
from fedhft_aggregator.page.kept import SHARE
from fedhft_aggregator.page.readings import Readings
from fedhft_aggregator.page.views import encoded

log = logging.getLogger(__name__)

JOBS = "jobs"
"""Name of the list of jobs on the board."""
_ANSWER_S = 10.0
_OPEN_S = 1.0
"""Updates arrive without a change that people are woken for, so an open round is looked at so often."""
_LIST_S = 4.0
_IDLE_S = 10.0
_RETRY_S = 2.0


def note_of(job: str) -> str:
    """Name of a job on the board."""
    return f"job/{job}"


class Feed:
    """Start it, ask it, watch with it, stop it; from any thread."""

    def __init__(self, open_store: Callable[[], Store]) -> None:
        """open_store: called on the feed's own thread."""
        self._open_store = open_store
        self.board = Board()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="page-feed", daemon=True)
        self._store: Store | None = None
        self._readings: Readings | None = None
        self._watched: dict[str, int] = {}
        self._followers: dict[str, asyncio.Task[None]] = {}
        self._started = threading.Event()
        self._failure: FedhftError | None = None

    def start(self) -> None:
        """Open the store on the feed's thread. Raises what opening it raises."""
        self._thread.start()
        self._started.wait()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """End every watch, then the thread; waits at most five seconds for it."""
        self.board.close()
        if self._thread.ident is None:  # never started
            self._loop.close()
            return
        with contextlib.suppress(RuntimeError):  # it ended at its start
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=5.0)

    def ask(self, read: Callable[[Readings], Awaitable[Any]]) -> Any:
        """What a reading returns. Raises FedhftError: what it raises; STORE_UNAVAILABLE when it takes too long."""

        async def bounded() -> Any:
            async with asyncio.timeout(_ANSWER_S):
                return await read(self._known)

        answer = bounded()
        try:
            return asyncio.run_coroutine_threadsafe(answer, self._loop).result(_ANSWER_S + 1.0)
        except (RuntimeError, CancelledError):
            answer.close()
            raise FedhftError(ErrorCode.SERVER_UNAVAILABLE, "the aggregator is stopping; try again") from None
        except TimeoutError:
            raise FedhftError(
                ErrorCode.STORE_UNAVAILABLE, f"the store did not answer within {_ANSWER_S:g} s; try again"
            ) from None

    @contextlib.contextmanager
    def watching(self, job: str | None) -> Iterator[tuple[str, ...]]:
        """While inside, the list of jobs and one job are followed; yields their names on the board."""
        names = (JOBS,) if job is None else (JOBS, note_of(job))
        self._loop.call_soon_threadsafe(self._watch, names)
        try:
            yield names
        finally:
            with contextlib.suppress(RuntimeError):  # the loop was closed
                self._loop.call_soon_threadsafe(self._unwatch, names)

    @property
    def _known(self) -> Readings:
        if self._readings is None:
            raise FedhftError(ErrorCode.STORE_UNAVAILABLE, "the page is starting; try again")
        return self._readings

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._store = self._open_store()
            self._readings = Readings(self._store)
        except FedhftError as error:
            self._failure = error
            self._loop.close()
            return
        finally:
            self._started.set()
        try:
            self._loop.run_forever()
            self._loop.run_until_complete(self._close(self._store))
        finally:
            self._loop.close()

    async def _close(self, store: Store) -> None:
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with contextlib.suppress(FedhftError):
            await store.close()

    def _watch(self, names: tuple[str, ...]) -> None:
        for name in names:
            self._watched[name] = self._watched.get(name, 0) + 1
            if name not in self._followers:
                step = self._list_jobs if name == JOBS else self._look_at
                self._followers[name] = self._loop.create_task(self._follow(name, step), name=f"page {name}")

    def _unwatch(self, names: tuple[str, ...]) -> None:
        for name in names:
            self._watched[name] -= 1
            if not self._watched[name]:
                del self._watched[name]
                self._followers.pop(name).cancel()
                self.board.erase(name)

    async def _follow(self, name: str, step: Callable[[str], Awaitable[float]]) -> None:
        while True:
            try:
                pause = await step(name)
            except FedhftError as error:
                gone = error.code is ErrorCode.UNKNOWN_JOB
                self.board.write(name, encoded({"error": error.message, "gone": gone}))
                pause = _RETRY_S
            except Exception:
                log.exception("the page cannot follow %s", name)
                self.board.write(name, encoded({"error": "this cannot be read; see the aggregator's log"}))
                pause = _IDLE_S
            await asyncio.sleep(pause)

    async def _list_jobs(self, name: str) -> float:
        """Write the list of jobs; returns how long to wait, seconds."""
        begun = time.thread_time()
        self.board.write(name, encoded(await self._known.jobs()))
        return max(_LIST_S, SHARE * (time.thread_time() - begun))

    async def _look_at(self, name: str) -> float:
        """Write one job, and wait for its next change; returns how long to wait at least before it is read again."""
        job = JobId(name.partition("/")[2])
        if self._store is None:
            raise FedhftError(ErrorCode.STORE_UNAVAILABLE, "the page is starting; try again")
        seen = await self._store.changes(job, Topic.PROGRESS)
        begun = time.thread_time()
        view = await self._known.news(job)
        cost = time.thread_time() - begun
        self.board.write(name, encoded(view))
        await self._store.wait_change(job, Topic.PROGRESS, seen, _OPEN_S if view["open"] else _IDLE_S)
        return max(0.1, SHARE * cost)
