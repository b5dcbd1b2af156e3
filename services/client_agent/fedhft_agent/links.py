"""How fast a job's blobs moved: what planning by capacity estimates a link from."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from fedhft.v1 import capacity_pb2


class Moved:
    """Bytes of one direction, and the wall seconds they took, retries and waiting for the server included."""

    def __init__(self) -> None:
        self.bytes = 0
        self.seconds = 0.0

    @contextmanager
    def moving(self) -> Iterator[None]:
        """Counts the time inside."""
        begun = time.monotonic()
        yield
        self.seconds += time.monotonic() - begun


class Links:
    """The last round's fetches, and the last update that was delivered: it can be told only in the next report."""

    def __init__(self) -> None:
        self.up = Moved()
        self.down = Moved()

    def fetching(self) -> None:
        """A round begins."""
        self.down = Moved()

    def delivering(self) -> None:
        """An update is about to be sent."""
        self.up = Moved()

    def tell(self, durations: capacity_pb2.Durations) -> None:
        """Add both to what a round measured."""
        durations.up_seconds, durations.up_bytes = self.up.seconds, self.up.bytes
        durations.down_seconds, durations.down_bytes = self.down.seconds, self.down.bytes
