"""A virtual clock, and what happens on it: clients that finish when their devices would."""

from __future__ import annotations

import heapq
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

START_S = 1_000_000.0
"""Where the clock begins: far from zero, which means "never" in places."""


class VirtualClock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = START_S

    def __call__(self) -> float:
        """The time."""
        return self.now

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return self.now - START_S


@dataclass(order=True)
class Event:
    """Something that happens at a time; equal times happen in the order of `name`."""

    at: float
    name: str
    round: int = field(compare=False)
    happen: Callable[[], Awaitable[None]] = field(compare=False)


class Timeline:
    """Events to come, in order."""

    def __init__(self) -> None:
        self._events: list[Event] = []

    def add(self, event: Event) -> None:
        """Let something happen."""
        heapq.heappush(self._events, event)

    def next_within(self, until: float) -> Event | None:
        """The next event, if it happens by then."""
        if not self._events or self._events[0].at > until:
            return None
        return heapq.heappop(self._events)

    def forget(self, number: int) -> None:
        """Nothing of earlier rounds than this one happens any more: they are closed."""
        self._events = [event for event in self._events if event.round >= number]
        heapq.heapify(self._events)
