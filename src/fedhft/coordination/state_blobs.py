"""Server state as blobs: a version's snapshots, and what only the server needs (residual, momentum, squares)."""

from __future__ import annotations

from collections.abc import Mapping

from fedhft.adapter import AdapterSchema, AdapterState, Float32, MaskedDelta, MaskedMatrix, TensorKey
from fedhft.aggregation.regrouping import Origins, renewed
from fedhft.aggregation.versions import ServerState, initial_state, snapshot
from fedhft.ids import JobId
from fedhft.job import JobSpec
from fedhft.records import StoredBlob, VersionRecord
from fedhft.store.blobs import BlobStore
from fedhft.store.whole_blob import read_whole
from fedhft.v1 import adapter_pb2
from fedhft.wire.codec import decode, encode

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
) -> VersionRecord:
    """Store every blob of a version and return its record. Idempotent: blobs are named by their content.

    origins: where the number of clusters changed in this version, what the state was regrouped by after the deltas.
    """
    adapter = state.state
    anew = renewed(origins)
    told = [scope for scope in sorted(deltas) if scope in adapter.scope_names and scope not in anew]
    stored_deltas = {scope: await _put(blobs, job, deltas[scope]) for scope in told}
    snapshots: dict[str, StoredBlob] = {}
    for scope in adapter.scope_names:
        if adapter.scope(scope):
            data = encode(
                snapshot(adapter, scope),
                schema,
                kind=adapter_pb2.BLOB_KIND_SNAPSHOT,
                encoding="fp32",
                scope=scope,
                version=adapter.version,
            )
            snapshots[scope] = await _put(blobs, job, data)
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
    )


async def save_start(blobs: BlobStore, job: JobId, snapshots: Mapping[str, bytes]) -> VersionRecord | None:
    """Store what a job begins with, by scope, and return the record of version 0; None for nothing. Idempotent."""
    if not snapshots:
        return None
    stored = {scope: await _put(blobs, job, data) for scope, data in sorted(snapshots.items())}
    return VersionRecord(version=0, round=0, clusters=1, snapshots=stored)


async def _load(blobs: BlobStore, job: JobId, schema: AdapterSchema, blob: StoredBlob, kind: int) -> Tensors:
    decoded = decode(await read_whole(blobs, job, blob.digest), schema, kind=kind)
    return {key: matrix.dense() for key, matrix in decoded.delta}


async def _put(blobs: BlobStore, job: JobId, data: bytes) -> StoredBlob:
    return StoredBlob(digest=await blobs.put(job, data), size=len(data))
