"""When a call that waits in vain ends, so that agents that came together do not ask again together."""

from __future__ import annotations

import zlib


class Turns:
    """Ends of waits, on one monotonic clock.

    After a restart thousands of agents come back at the same moment. If each waited equally long they would ask again
    at the same moment, too, for as long as they wait. So waits that begin in the first `spread_s` seconds, counted from
    the first of all, end after a share of the time asked for that the client's name decides; all others are whole.
    """

    def __init__(self, spread_s: float) -> None:
        self._spread_s = spread_s
        self._first: float | None = None

    def end(self, client: str, wait_s: float, begun_s: float) -> float:
        """When a wait of at most `wait_s` seconds that began at `begun_s` ends."""
        if self._first is None:
            self._first = begun_s
        if begun_s - self._first >= self._spread_s:
            return begun_s + wait_s
        return begun_s + wait_s * (zlib.crc32(client.encode()) + 1) / 2**32
