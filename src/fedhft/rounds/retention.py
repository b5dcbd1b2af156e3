"""Which blobs of a job stay after a round, and which are no longer needed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fedhft.records import UpdateRecord, VersionRecord
from fedhft.stored_blob import StoredBlob

KEPT_VERSIONS = 8
"""Versions whose deltas are kept; a client further behind takes a snapshot."""
KEPT_SNAPSHOTS = 2
"""Versions kept whole: the latest, which clients and the next fold start from, and the one before it, which a client
may still be fetching."""


@dataclass(frozen=True)
class Retention:
    """Digests. A blob in neither set is left to the sweep, which goes by age."""

    kept: frozenset[str]
    dropped: frozenset[str]
    """To delete now; nothing that is kept is among them."""


def oldest_kept(latest: int) -> int:
    """Number of the oldest version whose record is kept when `latest` is published."""
    return max(1, latest - KEPT_VERSIONS + 1)


def retention(
    latest: int,
    versions: Iterable[VersionRecord],
    forgotten: Iterable[VersionRecord],
    updates: Iterable[UpdateRecord],
    best: int = 0,
) -> Retention:
    """What stays once version `latest` is published.

    versions: the records that are kept. forgotten: the ones dropped just now. updates: those that were folded. best:
    number of the best version (0: none, or the start), whose snapshots stay: the best of later rounds is this one, or
    one that is scored then, which is among the last two.
    """
    kept: set[str] = set()
    dropped = {update.digest for update in updates if update.digest}
    for version in forgotten:
        dropped |= _deltas(version) | _whole(version)
    for version in versions:
        kept |= _deltas(version)
        if version.version > latest - KEPT_SNAPSHOTS:
            kept |= _whole(version)
        elif version.version == best:
            kept |= _digests(version.snapshots)
            dropped |= _digests(version.server_state) | _band_snapshots(version)
        else:
            dropped |= _whole(version)
    return Retention(frozenset(kept), frozenset(dropped - kept))


def _deltas(version: VersionRecord) -> set[str]:
    bands = version.bands
    return _digests(version.deltas) | ({blob.digest for blob in bands.delta_blobs()} if bands else set())


def _whole(version: VersionRecord) -> set[str]:
    return _digests(version.snapshots) | _digests(version.server_state) | _band_snapshots(version)


def _band_snapshots(version: VersionRecord) -> set[str]:
    return {blob.digest for blob in version.bands.snapshot_blobs()} if version.bands else set()


def _digests(blobs: dict[str, StoredBlob]) -> set[str]:
    return {blob.digest for blob in blobs.values()}
