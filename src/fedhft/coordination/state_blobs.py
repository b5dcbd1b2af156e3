"""Server state as blobs: a version's snapshots, and what only the server needs (residual, momentum, squares)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial

from fedhft.adapter import AdapterSchema, AdapterState, Float32, MaskedDelta, MaskedMatrix, TensorKey
from fedhft.aggregation.regrouping import Origins, renewed
from fedhft.aggregation.versions import ServerState, initial_state, snapshot
from fedhft.bands import Band
from fedhft.ids import JobId
from fedhft.job import JobSpec
from fedhft.planning.tiers import bands_of
from fedhft.records import VersionRecord
from fedhft.store.blobs import BlobStore
from fedhft.store.whole_blob import read_whole
from fedhft.stored_blob import BandBlobs, StoredBlob
from fedhft.v1 import adapter_pb2
from fedhft.wire.codec import decode, encode
from fedhft.wire.cut import cut

Tensors = Mapping[TensorKey, Float32]


async def load_state(
    blobs: BlobStore, job: JobId, spec: JobSpec, schema: AdapterSchema, version: VersionRecord | None
) -> ServerState:
    """Server state of a version, exactly as it was when published; the start for None."""
    if version is None:
        return initial_state(spec, 1)
    scopes = {
        scope: await _load(blobs, job, schema, blob, adapter_pb2.BLOB_KIND_SNAPSHOT)
        for scope, blob in version.snapshots.items()
    }
    private: dict[str, dict[str, Tensors]] = {"residual": {}, "momentum": {}, "squares": {}}
    for name, blob in version.server_state.items():
        kind, _, scope = name.partition("/")
        private[kind][scope] = await _load(blobs, job, schema, blob, adapter_pb2.BLOB_KIND_SERVER_STATE)
    return ServerState(
        state=AdapterState(version.version, version.clusters, scopes),
        residual=private["residual"],
        momentum=private["momentum"],
        squares=private["squares"],
    )


async def save_state(
    blobs: BlobStore,
    job: JobId,
    schema: AdapterSchema,
    state: ServerState,
    deltas: Mapping[str, bytes],
    round_: int,
    origins: Origins = (),
    bands: Sequence[Band] = (),
) -> VersionRecord:
    """Store every blob of a version and return its record. Idempotent: blobs are named by their content.

    origins: where the number of clusters changed in this version, what the state was regrouped by after the deltas.
    bands: in which deltas and snapshots are stored beside whole.
    """
    adapter = state.state
    anew = renewed(origins)
    told = [scope for scope in sorted(deltas) if scope in adapter.scope_names and scope not in anew]
    stored_deltas = {scope: await _put(blobs, job, deltas[scope]) for scope in told}
    snapshots: dict[str, StoredBlob] = {}
    for scope in adapter.scope_names:
        if adapter.scope(scope):
            snapshots[scope] = await _put(blobs, job, _snapshot(schema, adapter, scope))
    private: dict[str, StoredBlob] = {}
    carried = (("residual", state.residual), ("momentum", state.momentum), ("squares", state.squares))
    for kind, per_scope in carried:
        for scope, tensors in sorted(per_scope.items()):
            if tensors:
                data = encode(
                    MaskedDelta({key: MaskedMatrix.full(value) for key, value in tensors.items()}),
                    schema,
                    kind=adapter_pb2.BLOB_KIND_SERVER_STATE,
                    encoding="fp32",
                    scope=scope,
                    version=adapter.version,
                )
                private[f"{kind}/{scope}"] = await _put(blobs, job, data)
    return VersionRecord(
        version=adapter.version,
        round=round_,
        clusters=adapter.clusters,
        deltas=stored_deltas,
        snapshots=snapshots,
        server_state=private,
        renewed=anew,
        bands=await _save_bands(blobs, job, schema, adapter, {scope: deltas[scope] for scope in told}, bands),
    )


async def _save_bands(
    blobs: BlobStore,
    job: JobId,
    schema: AdapterSchema,
    adapter: AdapterState,
    deltas: Mapping[str, bytes],
    bands: Sequence[Band],
) -> BandBlobs | None:
    """Cut deltas and snapshots into bands. What nobody trained yet is a snapshot, too, so that it replaces what a
    client has of a cluster that was there before.
    """
    if not bands:
        return None
    stored_deltas = {scope: await _cut(blobs, job, schema, data, bands) for scope, data in deltas.items()}
    stored_snapshots: dict[str, dict[int, StoredBlob]] = {}
    for scope in adapter.scope_names:
        if adapter.scope(scope):
            stored_snapshots[scope] = {
                band.depth: await _put(blobs, job, await asyncio.to_thread(_snapshot, schema, adapter, scope, band))
                for band in bands
            }
    return BandBlobs(depths=tuple(band.depth for band in bands), deltas=stored_deltas, snapshots=stored_snapshots)


async def _cut(
    blobs: BlobStore, job: JobId, schema: AdapterSchema, data: bytes, bands: Sequence[Band]
) -> dict[int, StoredBlob]:
    """Store a blob's bands that have anything, by where they end."""
    parts = await asyncio.to_thread(cut, data, schema, [partial(band.has, schema=schema) for band in bands])
    return {band.depth: await _put(blobs, job, part) for band, part in zip(bands, parts, strict=True) if part}


def _snapshot(schema: AdapterSchema, adapter: AdapterState, scope: str, band: Band | None = None) -> bytes:
    """A scope, or a band of it, as a blob that restores it bit for bit."""
    whole = snapshot(adapter, scope)
    return encode(
        whole if band is None else band.of(whole, schema),
        schema,
        kind=adapter_pb2.BLOB_KIND_SNAPSHOT,
        encoding="fp32",
        scope=scope,
        version=adapter.version,
    )


async def save_start(
    blobs: BlobStore, job: JobId, spec: JobSpec, schema_json: str, snapshots: Mapping[str, bytes]
) -> VersionRecord | None:
    """Store what a job begins with, by scope, and return the record of version 0; None for nothing. Idempotent."""
    if not snapshots:
        return None
    schema = AdapterSchema.from_json(schema_json)
    bands = bands_of(spec, schema)
    stored = {scope: await _put(blobs, job, data) for scope, data in sorted(snapshots.items())}
    in_bands = {scope: await _cut(blobs, job, schema, data, bands) for scope, data in sorted(snapshots.items())}
    begun = BandBlobs(depths=tuple(band.depth for band in bands), snapshots=in_bands) if bands else None
    return VersionRecord(version=0, round=0, clusters=1, snapshots=stored, bands=begun)


async def _load(blobs: BlobStore, job: JobId, schema: AdapterSchema, blob: StoredBlob, kind: int) -> Tensors:
    decoded = decode(await read_whole(blobs, job, blob.digest), schema, kind=kind)
    return {key: matrix.dense() for key, matrix in decoded.delta}


async def _put(blobs: BlobStore, job: JobId, data: bytes) -> StoredBlob:
    return StoredBlob(digest=await blobs.put(job, data), size=len(data))
