"""After a round: delete what neither a client nor a restart can still need."""

from __future__ import annotations

from collections.abc import Mapping

from fedhft.coordination.driven import Driven
from fedhft.records import UpdateRecord, VersionRecord
from fedhft.rounds.retention import oldest_kept, retention

_ORPHAN_AGE_S = 3600.0


async def tidy(driven: Driven, version: VersionRecord, updates: Mapping[str, UpdateRecord]) -> None:
    """Delete what neither a client nor a restart can still need."""
    store, job, latest = driven.store, driven.job, version.version
    forgotten = await store.drop_versions(job, below=oldest_kept(latest))
    found = [await store.version(job, number) for number in range(oldest_kept(latest), latest + 1)]
    verdict = retention(latest, [one for one in found if one is not None], forgotten, updates.values())
    await store.blobs.delete(job, verdict.dropped)
    await store.blobs.sweep(job, verdict.kept, _ORPHAN_AGE_S)
    await store.transfers.sweep(job, _ORPHAN_AGE_S)
