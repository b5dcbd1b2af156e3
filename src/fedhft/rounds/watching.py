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
    ahead_ms: by how much the store's clock is ahead of this process's own, which nobody sets.
    """

    fence: int
    since_ms: int
    short_since_ms: int | None = None
    ahead_ms: int = 0

    def counting(self, live: int, wanted: int, now_ms: int) -> Watch:
        """The watch after a count of live clients."""
        if live >= wanted:
            return replace(self, short_since_ms=None)
        return self if self.short_since_ms is not None else replace(self, short_since_ms=now_ms)


def watch_of(watch: Watch | None, fence: int, now_ms: int, own_ms: int) -> Watch:
    """The watch to go on with: the same under the same fence, else one that begins now.

    own_ms: this process's monotonic clock. When the store's clock has moved differently by more than LONGEST_WAIT_MS,
    it was set, and the times of the watch move with it: otherwise hours of silence would seem to have passed.
    """
    ahead_ms = now_ms - own_ms
    if watch is None or watch.fence != fence:
        return Watch(fence, now_ms, None, ahead_ms)
    jump_ms = ahead_ms - watch.ahead_ms
    if abs(jump_ms) <= LONGEST_WAIT_MS:
        return watch
    short = None if watch.short_since_ms is None else watch.short_since_ms + jump_ms
    return Watch(fence, watch.since_ms + jump_ms, short, ahead_ms)


def pause_s(until_ms: int, now_ms: int) -> float:
    """Seconds from now to a point in time, but enough to avoid spinning."""
    return max(_SHORTEST_WAIT_S, (until_ms - now_ms) / 1000)
