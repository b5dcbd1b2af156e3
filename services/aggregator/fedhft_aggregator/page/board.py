"""The last thing to say of each job, written by one thread and read by the threads that stream it to browsers.

A reader that is slow misses what was said in between and is told the last thing; nothing is queued for it.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence


class Board:
    """Named notes, each with the number of times it changed."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._notes: dict[str, tuple[int, bytes]] = {}
        self._count = 0
        self._closed = False

    def write(self, name: str, text: bytes) -> None:
        """Replace a note; readers are woken only when it says something new."""
        with self._changed:
            if name not in self._notes or self._notes[name][1] != text:
                self._count += 1
                self._notes[name] = (self._count, text)
                self._changed.notify_all()

    def erase(self, name: str) -> None:
        """Forget a note that nobody reads any more."""
        with self._changed:
            self._notes.pop(name, None)

    def close(self) -> None:
        """Wake every reader; there is nothing more to read."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._closed

    def read(self, names: Sequence[str], seen: Mapping[str, int], timeout_s: float) -> dict[str, tuple[int, bytes]]:
        """Notes among `names` that changed since `seen` (name -> number). Waits for one; {} when none comes in time."""

        def news() -> dict[str, tuple[int, bytes]]:
            there = {name: self._notes[name] for name in names if name in self._notes}
            return {name: note for name, note in there.items() if note[0] != seen.get(name)}

        with self._changed:
            self._changed.wait_for(lambda: self._closed or bool(news()), timeout_s)
            return {} if self._closed else news()
