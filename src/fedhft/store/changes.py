"""Waiting for changes without polling: one subscription per process, however many wait.

A message is only a hint that a counter moved; the counter in Redis is the truth and is read once for all waiters. While
the subscription is lost, the counters with waiters are read once a second, all in one command.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Iterable
from dataclasses import dataclass, field

from redis.asyncio.client import PubSub
from redis.exceptions import RedisError

from fedhft.errors import FedhftError
from fedhft.store.connection import RedisConnection
from fedhft.store.keys import CHANGE_PATTERN

log = logging.getLogger(__name__)

_IDLE_S = 5.0
_RETRY_S = 1.0


@dataclass
class _Counter:
    value: int | None = None
    """Last value read; None when not read since the subscription began."""
    waiters: int = 0
    moved: asyncio.Event = field(default_factory=asyncio.Event)


class ChangeFeed:
    """The change counters that have waiters in this process."""

    def __init__(self, redis: RedisConnection) -> None:
        self._redis = redis
        self._counters: dict[str, _Counter] = {}
        self._subscribed = False
        self._task: asyncio.Task[None] | None = None

    async def read(self, key: str) -> int:
        """The counter's value now."""
        return int(await self._redis.call("GET", key) or 0)

    async def wait(self, key: str, seen: int, timeout_s: float) -> int:
        """Wait until the counter differs from `seen`, at most `timeout_s`. Raises STORE_UNAVAILABLE."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._listen(), name="fedhft-store-changes")
        counter = self._counters.setdefault(key, _Counter())
        counter.waiters += 1
        try:
            async with asyncio.timeout(max(timeout_s, 0)):
                if self._subscribed and counter.value is None:
                    await self._refresh([key])
                while counter.value is None or counter.value == seen:
                    await counter.moved.wait()
        except TimeoutError:
            # The answer, below, is what is known by then.
            pass
        finally:
            counter.waiters -= 1
            if not counter.waiters:
                del self._counters[key]
        if counter.value is None or (counter.value == seen and not self._subscribed):
            return await self.read(key)
        return counter.value

    async def close(self) -> None:
        """Stop listening. Waiters run into their timeouts."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _listen(self) -> None:
        while True:
            subscription = self._redis.subscriber()
            try:
                await self._follow(subscription)
            except (RedisError, OSError, FedhftError) as error:
                if self._subscribed:
                    log.warning("lost the change subscription of %s: %s", self._redis.where, error)
            finally:
                self._subscribed = False
                await _close(subscription)
            await self._refresh(self._counters)
            await asyncio.sleep(_RETRY_S * random.uniform(0.8, 1.2))

    async def _follow(self, subscription: PubSub) -> None:
        """Follow one subscription until it breaks; only ever ends by raising."""
        async with self._redis.bounded():
            await subscription.psubscribe(CHANGE_PATTERN)
        asked = False
        while True:
            message = await subscription.get_message(timeout=_IDLE_S)
            if message is None:
                if asked:
                    raise ConnectionResetError("no answer to a ping")
                async with self._redis.bounded():
                    await subscription.ping()
                asked = True
                continue
            asked = False
            if message["type"] == "psubscribe":
                # From now on no change is missed. What was read earlier may be out of date, so it is read again.
                for counter in self._counters.values():
                    counter.value = None
                self._subscribed = True
                await self._refresh(self._counters)
            elif message["type"] == "pmessage":
                key = message["channel"].decode()
                counter_or_none = self._counters.get(key)
                # A value that is known already is an old hint. Databases of one server share channels, so a value is
                # never taken from the message.
                if counter_or_none and (counter_or_none.value is None or int(message["data"]) > counter_or_none.value):
                    await self._refresh([key])
            else:
                await self._refresh(key for key, counter in self._counters.items() if counter.value is None)

    async def _refresh(self, keys: Iterable[str]) -> None:
        """Read counters in one command and wake the waiters of those that moved; an outage is only logged."""
        wanted = list(keys)
        if not wanted:
            return
        try:
            values = await self._redis.call("MGET", *wanted)
        except FedhftError as error:
            log.debug("could not read change counters: %s", error)
            return
        for key, raw in zip(wanted, values, strict=True):
            counter = self._counters.get(key)
            value = int(raw or 0)
            # Two reads may be answered in either order: counters only grow, except across a subscription.
            if counter and (counter.value is None or value > counter.value):
                counter.value = value
                counter.moved.set()
                counter.moved = asyncio.Event()


async def _close(subscription: PubSub) -> None:
    with contextlib.suppress(RedisError, OSError):
        await subscription.aclose()  # type: ignore[no-untyped-call]
    with contextlib.suppress(RedisError, OSError):
        await subscription.connection_pool.disconnect()
