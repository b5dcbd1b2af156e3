"""What a coordinator knows beyond the store while it holds a job's lease: when it began to watch, what it saw last."""

from __future__ import annotations

from dataclasses import dataclass, replace

LONGEST_WAIT_MS = 5_000
"""Longest time between two full looks at a job."""
_SHORTEST_WAIT_S = 0.05


@dataclass(frozen=True)
class Watch:
    """One holder's watch over a job. Times are the store's clock, milliseconds.

    fence: the fencing token under which it began. since_ms: when it began; time without a coordinator does not count as
    silence of clients. short_since_ms: since when fewer clients than wanted are live; None while there are enough.
    """

    fence: int
    since_ms: int
    short_since_ms: int | None = None

    def counting(self, live: int, wanted: int, now_ms: int) -> Watch:
        """The watch after a count of live clients."""
        if live >= wanted:
            return replace(self, short_since_ms=None)
        return self if self.short_since_ms is not None else replace(self, short_since_ms=now_ms)


def watch_of(watch: Watch | None, fence: int, now_ms: int) -> Watch:
    """The watch to go on with: the same under the same fence, else one that begins now."""
    return watch if watch is not None and watch.fence == fence else Watch(fence, now_ms)


def pause_s(until_ms: int, now_ms: int) -> float:
    """Seconds from now to a point in time, but enough to avoid spinning."""
    return max(_SHORTEST_WAIT_S, (until_ms - now_ms) / 1000)
