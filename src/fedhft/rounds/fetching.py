"""What a client has to fetch to reach a version, given what it already holds and how many layers it needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fedhft.adapter import SHARED, cluster_scope
from fedhft.bands import Band, between
from fedhft.records import VersionRecord
from fedhft.stored_blob import StoredBlob

_NOTHING = -1
"""What a client holds of a scope before it fetched version 0 of it."""


@dataclass(frozen=True)
class Held:
    """What a client says it holds."""

    whole: Mapping[str, int] = field(default_factory=dict)
    """scope -> version, of scopes whose layers are all at the same version."""
    parts: Mapping[str, Mapping[Band, int]] = field(default_factory=dict)
    """scope -> layers -> version, of the others."""
    takes_bands: bool = False
    """Whether it can add blobs of some layers; agents of earlier releases cannot."""

    def version(self, scope: str, band: Band | None) -> int | None:
        """Version at which all layers of a band (None: of the adapter) are held; None where they are at no single one,
        or not at all.
        """
        if band is None or scope in self.whole:
            return self.whole.get(scope)
        return next((version for held, version in self.parts.get(scope, {}).items() if held.covers(band)), None)


@dataclass(frozen=True)
class Fetch:
    """One blob to fetch and apply, in order. band: its layers; None for all."""

    scope: str
    version: int
    snapshot: bool
    blob: StoredBlob
    band: Band | None = None


@dataclass(frozen=True)
class Fetches:
    """What to fetch. depth: layers, counted from the output, that are complete after it; 0 for all."""

    blobs: tuple[Fetch, ...] = ()
    depth: int = 0


def scopes_needed(served: Sequence[float]) -> tuple[str, ...]:
    """The shared scope and every cluster with a served weight."""
    return (SHARED, *(cluster_scope(j) for j, weight in enumerate(served) if weight > 0))


def fetches(
    versions: Mapping[int, VersionRecord],
    target: int,
    scopes: Sequence[str],
    held: Held,
    depth: int,
    *,
    warm: bool = False,
) -> Fetches:
    """The cheapest, by bytes, for each scope: all of it, or its bands that reach to `depth`; of either the missing
    deltas or a snapshot.

    versions: the records still kept, by number. depth: layers, counted from the output, that the client needs. warm:
    whether version 0 has values, so that a client without a scope does not hold it at 0. A scope that never changed
    needs nothing. A client that holds a version newer than `target`, or one too old for the deltas kept, takes the
    snapshot; so does, of a band, one that holds it in pieces, unless all deltas are kept.
    """
    if target == 0 and not warm:
        return Fetches()
    begun = _NOTHING if warm else 0
    bands = _needed(versions, target, depth) if held.takes_bands else ()
    chosen: list[Fetch] = []
    reach = 0
    for scope in scopes:
        found, *parts = (
            _cheaper(versions, target, scope, begun if have is None else have, band)
            for band in (None, *bands)
            for have in (held.version(scope, band),)
        )
        in_bands = [fetch for part in parts for fetch in part]
        if parts and _bytes(in_bands) < _bytes(found):
            found, reach = in_bands, bands[-1].depth
        chosen.extend(found)
    return Fetches(tuple(chosen), reach)


def _needed(versions: Mapping[int, VersionRecord], target: int, depth: int) -> tuple[Band, ...]:
    """The bands of a version that a client of a depth needs; none where they do not reach that far."""
    record = versions.get(target)
    bands = between(record.bands.depths) if record is not None and record.bands is not None else ()
    return tuple(band for band in bands if band.beyond < depth) if bands and depth <= bands[-1].depth else ()


def _cheaper(
    versions: Mapping[int, VersionRecord], target: int, scope: str, have: int, band: Band | None
) -> list[Fetch]:
    if have == target:
        return []
    snapshot = _snapshot(versions[target], scope, band)
    deltas = _deltas(versions, target, scope, have, band)
    if deltas is not None and (snapshot is None or _bytes(deltas) <= snapshot.size):
        return deltas
    return [] if snapshot is None else [Fetch(scope, target, True, snapshot, band)]


def _bytes(found: Sequence[Fetch]) -> int:
    return sum(fetch.blob.size for fetch in found)


def _snapshot(record: VersionRecord, scope: str, band: Band | None) -> StoredBlob | None:
    if band is None:
        return record.snapshots.get(scope)
    return record.bands.snapshots.get(scope, {}).get(band.depth) if record.bands is not None else None


def _deltas(
    versions: Mapping[int, VersionRecord], target: int, scope: str, have: int, band: Band | None
) -> list[Fetch] | None:
    if have > target:
        return None
    found = []
    for number in range(have + 1, target + 1):
        record = versions.get(number)
        if record is None:
            return None
        if scope in record.renewed:
            return None
        if scope in record.deltas:
            if band is None:
                found.append(Fetch(scope, number, False, record.deltas[scope]))
                continue
            if record.bands is None or band not in between(record.bands.depths):
                return None
            if (blob := record.bands.deltas.get(scope, {}).get(band.depth)) is not None:
                found.append(Fetch(scope, number, False, blob, band))
        elif scope in record.snapshots:
            before = versions.get(number - 1)
            if number <= 1 or (before is not None and scope not in before.snapshots):
                return None  # the scope begins here (a cluster that split off): only its snapshot is complete
    return found
