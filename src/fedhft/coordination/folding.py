"""Closing a round: pinned updates in, a published version out.

A pure function of what is in the store (previous version, the round as pinned, the sorted accepted updates), so whoever
holds the lease may run it, and run it again: the same blobs come out, and the first publish wins.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence

from fedhft.adapter import AdapterSchema
from fedhft.aggregation.fold import ClientUpdate, FoldReport, Published, fold
from fedhft.aggregation.versions import expand_clusters
from fedhft.coordination.state_blobs import load_state
from fedhft.ids import JobId
from fedhft.job import JobSpec
from fedhft.records import RoundRecord, UpdateRecord, VersionRecord
from fedhft.store.interface import Store
from fedhft.telemetry import metrics
from fedhft.v1 import adapter_pb2
from fedhft.wire.codec import decode

_BLOB_TIMEOUT_S = 60.0


async def fold_round(
    store: Store,
    job: JobId,
    spec: JobSpec,
    schema: AdapterSchema,
    current: RoundRecord,
    pinned: Sequence[str],
    updates: Mapping[str, UpdateRecord],
    previous: VersionRecord | None,
) -> Published:
    """Fold the pinned updates onto the previous version, in a worker thread, holding one update in memory at a time."""
    state = await load_state(store.blobs, job, spec, schema, previous)
    if state.state.clusters < current.clusters:
        state = expand_clusters(state, current.clusters)
    loop = asyncio.get_running_loop()

    def fetched() -> Iterator[ClientUpdate]:
        for client in pinned:
            record = updates[client]
            waiting = asyncio.run_coroutine_threadsafe(store.blobs.get(job, record.digest), loop)
            blob = decode(waiting.result(_BLOB_TIMEOUT_S), schema, kind=adapter_pb2.BLOB_KIND_UPDATE)
            yield ClientUpdate(
                client=client,
                samples=float(record.samples),
                memberships=current.participants[client].memberships,
                delta=blob.delta,
            )

    with metrics.FOLD_SECONDS.time():
        return await asyncio.to_thread(fold, spec, schema, state, fetched())


def fold_figures(report: FoldReport | None) -> dict[str, float]:
    """The fold's figures for the round's summary."""
    if report is None:
        return {}
    return {
        "published_norm": report.published_norm,
        "residual_norm": report.residual_norm,
        "dropped_mass": report.dropped_mass,
    }
