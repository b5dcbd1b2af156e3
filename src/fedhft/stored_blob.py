"""References to blobs, as records hold them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from pydantic import BaseModel, ConfigDict


class StoredBlob(BaseModel):
    """Reference to a blob."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    digest: str
    size: int


class BandBlobs(BaseModel):
    """A version in bands of layers (`fedhft.bands`), beside its whole blobs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    depths: tuple[int, ...]
    """Where the bands end, ascending."""
    deltas: dict[str, dict[int, StoredBlob]] = {}
    """scope -> depth where the band ends -> what this version changed in it. A band that did not change has none."""
    snapshots: dict[str, dict[int, StoredBlob]] = {}
    """scope -> depth where the band ends -> all of it at this version, of every scope that has a whole snapshot."""

    def delta_blobs(self) -> Iterator[StoredBlob]:
        """All deltas."""
        return chain.from_iterable(blobs.values() for blobs in self.deltas.values())

    def snapshot_blobs(self) -> Iterator[StoredBlob]:
        """All snapshots."""
        return chain.from_iterable(blobs.values() for blobs in self.snapshots.values())
