"""What a coordinator knows beyond the store while it holds a job's lease: since when it looks, and what it saw last."""

from __future__ import annotations

from dataclasses import dataclass, replace

LONGEST_WAIT_MS = 5_000
"""Between two full looks at a job, at most."""
_SHORTEST_WAIT_S = 0.05


@dataclass(frozen=True)
class Watch:
    """One holder's watch over a job. Times are the store's clock, milliseconds.

    fence: the fencing token under which it began. since_ms: its beginning; time without a coordinator does not count as
    silence of clients. short_since_ms: since when fewer clients than wanted are live; None while there are enough.
    """

    fence: int
    since_ms: int
    short_since_ms: int | None = None

    def counting(self, live: int, wanted: int, now_ms: int) -> Watch:
        """The watch after so many live clients were seen."""
        if live >= wanted:
            return replace(self, short_since_ms=None)
        return self if self.short_since_ms is not None else replace(self, short_since_ms=now_ms)


def watch_of(watch: Watch | None, fence: int, now_ms: int) -> Watch:
    """The watch to go on with: the same under the same fence, else one that begins now."""
    return watch if watch is not None and watch.fence == fence else Watch(fence, now_ms)


@dataclass(frozen=True)
class Collecting:
    """An open round as the last full look found it, so that most arrivals need no other.

    Only the holder of the fence changes a collecting round, so what was read under it stands. A job that was cancelled
    is noticed by the next full look.
    """

    number: int
    target: int
    """Updates that close the round."""
    deadline_ms: int
    fence: int
    read_ms: int

    def still_valid(self, fence: int, now_ms: int) -> bool:
        """Whether nothing but arrivals can have changed since: same holder, before the deadline, not too long ago."""
        return fence == self.fence and now_ms < self.deadline_ms and now_ms - self.read_ms < LONGEST_WAIT_MS

    def wait_s(self, accepted: int, now_ms: int) -> float | None:
        """Seconds to wait on after so many updates; None when the round can close."""
        if accepted >= self.target:
            return None
        until_ms = min(self.deadline_ms, self.read_ms + LONGEST_WAIT_MS)
        return pause_s(until_ms, now_ms)


def pause_s(until_ms: int, now_ms: int) -> float:
    """Seconds from now to a point in time, never so few that waiting becomes spinning."""
    return max(_SHORTEST_WAIT_S, (until_ms - now_ms) / 1000)
