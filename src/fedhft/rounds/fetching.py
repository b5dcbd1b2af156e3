"""What a client has to fetch to reach a version, given what it already holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedhft.adapter import SHARED, cluster_scope
from fedhft.records import StoredBlob, VersionRecord

_NOTHING = -1
"""What a client holds of a scope before it fetched version 0 of it."""


@dataclass(frozen=True)
class Fetch:
    """One blob to fetch and apply, in order."""

    scope: str
    version: int
    snapshot: bool
    blob: StoredBlob


def scopes_needed(served: Sequence[float]) -> tuple[str, ...]:
    """The shared scope and every cluster with a served weight."""
    return (SHARED, *(cluster_scope(j) for j, weight in enumerate(served) if weight > 0))


def fetches(
    versions: Mapping[int, VersionRecord],
    target: int,
    scopes: Sequence[str],
    held: Mapping[str, int],
    *,
    warm: bool = False,
) -> tuple[Fetch, ...]:
    """The cheaper, by bytes, of the missing deltas and a snapshot, for each scope.

    versions: the records still kept, by number. warm: whether version 0 has values, so that a client without a scope
    does not hold it at 0. A scope that never changed needs nothing. A client that holds a version newer than `target`,
    or one too old for the deltas kept, takes the snapshot.
    """
    if target == 0 and not warm:
        return ()
    chosen: list[Fetch] = []
    for scope in scopes:
        have = held.get(scope, _NOTHING if warm else 0)
        if have == target:
            continue
        snapshot = versions[target].snapshots.get(scope)
        deltas = _deltas(versions, target, scope, have)
        if deltas is not None and (snapshot is None or sum(d.blob.size for d in deltas) <= snapshot.size):
            chosen.extend(deltas)
        elif snapshot is not None:
            chosen.append(Fetch(scope, target, True, snapshot))
    return tuple(chosen)


def _deltas(versions: Mapping[int, VersionRecord], target: int, scope: str, have: int) -> list[Fetch] | None:
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
            found.append(Fetch(scope, number, False, record.deltas[scope]))
        elif scope in record.snapshots:
            before = versions.get(number - 1)
            if number <= 1 or (before is not None and scope not in before.snapshots):
                return None  # the scope begins here (a cluster that split off): only its snapshot is complete
    return found
