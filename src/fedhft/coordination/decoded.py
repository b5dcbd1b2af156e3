"""Updates as they were decoded when they were accepted, so that the fold need not read and decode them again."""

from __future__ import annotations

from collections import OrderedDict

from fedhft.adapter import MaskedDelta
from fedhft.ids import JobId

KEPT_BYTES = 8 << 20
"""Bytes of values kept in one process; an update that finds no room is decoded again when it is folded."""


class DecodedUpdates:
    """A bounded cache. The oldest go first: what was accepted last is folded soonest."""

    def __init__(self, most_bytes: int = KEPT_BYTES) -> None:
        self._most_bytes = most_bytes
        self._kept: OrderedDict[tuple[JobId, str], MaskedDelta] = OrderedDict()
        self._held = 0

    def keep(self, job: JobId, digest: str, delta: MaskedDelta) -> None:
        """Keep a checked update for the fold."""
        if 4 * delta.values > self._most_bytes:
            return
        self.take(job, digest)
        self._kept[job, digest] = delta
        self._held += 4 * delta.values
        while self._held > self._most_bytes:
            _, oldest = self._kept.popitem(last=False)
            self._held -= 4 * oldest.values

    def take(self, job: JobId, digest: str) -> MaskedDelta | None:
        """An update, which is no longer kept; None when it is not here."""
        delta = self._kept.pop((job, digest), None)
        if delta is not None:
            self._held -= 4 * delta.values
        return delta
