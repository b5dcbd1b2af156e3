"""Readings of the store that are kept for a while, so that many viewers cost no more than one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

SHARE = 20
"""A reading is kept this many times as long as it took of the processor: all take a twentieth of it at most."""
_MOST = 128


@dataclass(frozen=True)
class _Reading:
    value: Any
    until: float


class Kept:
    """Readings by key. At most 128 of them; the one that was read first is forgotten."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, processor: Callable[[], float] = time.thread_time
    ) -> None:
        self._clock = clock
        self._processor = processor
        self._readings: dict[tuple[object, ...], _Reading] = {}
        self._locks: dict[tuple[object, ...], asyncio.Lock] = {}

    async def get(self, key: tuple[object, ...], read: Callable[[], Awaitable[Any]], least_s: float = 1.0) -> Any:
        """What `read` returned at most `least_s` seconds ago (longer, if it took long), or returns now.

        Whoever asks meanwhile waits for the same reading. What `read` raises is not kept.
        """
        lock = self._locks.setdefault(key, asyncio.Lock())
        try:
            async with lock:
                known = self._readings.pop(key, None)
                if known is None or known.until <= self._clock():
                    begun = self._processor()
                    value = await read()
                    cost = self._processor() - begun
                    known = _Reading(value, self._clock() + max(least_s, SHARE * cost))
                self._readings[key] = known
                while len(self._readings) > _MOST:
                    del self._readings[next(iter(self._readings))]
                return known.value
        finally:
            if not lock.locked() and self._locks.get(key) is lock:
                del self._locks[key]
