"""The published adapters a worker holds, the sum of the blobs it fetched, and what a round starts from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby

from fedhft.adapter import SHARED, AdapterSchema, AdapterState, Float32, TensorKey, cluster_scope
from fedhft.aggregation.mixture import mix
from fedhft.aggregation.versions import apply_delta, with_version
from fedhft.bands import Band
from fedhft.errors import ErrorCode, FedhftError
from fedhft.methods import Combine
from fedhft.training.state import WorkerState
from fedhft.v1 import adapter_pb2
from fedhft.v1 import federation_pb2 as pb
from fedhft.wire.codec import Blob, decode
from fedhft.wire.digest import digest_of

_NOTHING = -1
"""Version of a layer that is not held."""


def with_blob(state: WorkerState, schema: AdapterSchema, ref: adapter_pb2.BlobRef, data: bytes) -> WorkerState:
    """The state after adding one fetched blob.

    A delta of a scope, or of a band, that is not held at one version begins it anew: the server was told of no version.
    Raises FedhftError: DIGEST_MISMATCH, MALFORMED_UPDATE for a blob of other layers than `ref` says, or a version
    that was added already, or what `decode` raises (SCHEMA_MISMATCH, ...).
    """
    band = _band(ref, schema)
    digest = digest_of(data)
    if digest != ref.digest.hex() or len(data) != ref.size:
        raise FedhftError(
            ErrorCode.DIGEST_MISMATCH,
            f"blob of {ref.scope} version {ref.version}: got {len(data)} bytes with digest {digest[:12]}, "
            f"expected {ref.size} bytes with {ref.digest.hex()[:12]}; fetch it again",
        )
    blob = decode(data, schema, kind=ref.kind)
    if blob.scope != ref.scope or blob.version != ref.version:
        raise FedhftError(
            ErrorCode.MALFORMED_UPDATE,
            f"blob is of {blob.scope} version {blob.version}, the task says {ref.scope} version {ref.version}",
        )
    version, scope = int(ref.version), str(ref.scope)
    if band is None:
        begun = _without(state.adapters, scope) if scope in state.parts else state.adapters
        return _holding(replace(state, adapters=apply_delta(begun, blob)), scope, (version,) * schema.layers)
    _check_band(blob, band, schema)
    versions = _versions(state, scope, schema.layers)
    known = set(versions[band.beyond : band.depth])
    adapters = state.adapters
    if blob.kind == adapter_pb2.BLOB_KIND_SNAPSHOT or len(known) > 1:
        adapters = _without(adapters, scope, band, schema)
    elif max(known) >= version:
        raise FedhftError(
            ErrorCode.MALFORMED_UPDATE,
            f"delta of {scope} version {version}: layers {band.beyond + 1} to {band.depth}, counted from the output, "
            f"are held at version {max(known)} already; ask for the task again",
        )
    # A snapshot adds to what is no longer there.
    adapters = apply_delta(adapters, replace(blob, kind=adapter_pb2.BLOB_KIND_DELTA))
    after = (*versions[: band.beyond], *(version,) * (band.depth - band.beyond), *versions[band.depth :])
    return _holding(replace(state, adapters=adapters), scope, after)


def held_bands(state: WorkerState) -> list[adapter_pb2.HeldBand]:
    """What is held of scopes whose layers are not all at the same version."""
    found = []
    for scope, versions in sorted(state.parts.items()):
        depth = 0
        for version, layers in groupby(versions):
            band = Band(depth, depth + len(list(layers)))
            depth = band.depth
            if version != _NOTHING:
                found.append(adapter_pb2.HeldBand(scope=scope, version=version, band=band.message()))
    return found


def is_ahead(state: WorkerState, version: int, weights: Sequence[float]) -> bool:
    """Whether a scope in use (cluster weight > 0) is held at a version newer than the server's `version`."""
    return any(max(state.held.get(scope, 0), *state.parts.get(scope, (0,))) > version for scope in _in_use(weights))


def complete_at(
    state: WorkerState, view: pb.ViewSource, weights: Sequence[float], schema: AdapterSchema, needed: int
) -> WorkerState:
    """The state with every scope in use complete at the view's version, to the view's depth: all its blobs have been
    added. needed: layers, counted from the output, that will be used.

    Raises FedhftError(INVALID_ARGUMENT) when the view does not reach that far.
    """
    version, layers = int(view.version), schema.layers
    depth = min(int(view.depth), layers) or layers
    if depth < needed:
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, "view.depth", view.depth, f"is less than the plan's depth, {needed}",
            "the server must list the blobs of every layer that the plan trains",
        )  # fmt: skip
    for scope in _in_use(weights):
        state = _holding(state, scope, ((version,) * depth + _versions(state, scope, layers)[depth:]))
    return replace(state, adapters=with_version(state.adapters, version, max(1, len(view.memberships))))


def start_of(state: WorkerState, combine: Combine, memberships: Sequence[float]) -> Mapping[TensorKey, Float32]:
    """Where a round begins, as differences from the job's start: the client's mixture, with what stays with the client
    in place of what is shared.
    """
    if combine is Combine.NONE:
        return state.own
    if combine is Combine.ONLY_A:
        return {**_mixture(state, memberships), **state.own}
    return _mixture(state, memberships)


def _mixture(state: WorkerState, memberships: Sequence[float]) -> Mapping[TensorKey, Float32]:
    weights = tuple(memberships) or (1.0,)
    if weights == (1.0,) and state.adapters.clusters == 1:
        # One cluster is its own mixture; not mixing saves a copy of a whole model.
        return {**state.adapters.scope(SHARED), **state.adapters.scope(cluster_scope(0))}
    return mix(state.adapters, weights)


def _band(ref: adapter_pb2.BlobRef, schema: AdapterSchema) -> Band | None:
    """The layers that a blob is about; None for all."""
    if not ref.HasField("band"):
        return None
    beyond, depth = int(ref.band.beyond), int(ref.band.depth)
    if not beyond < depth <= schema.layers:
        raise FedhftError(
            ErrorCode.MALFORMED_UPDATE,
            f"blob of {ref.scope} version {ref.version}: band {beyond} to {depth} is not within the model's "
            f"{schema.layers} layers; the server must send 0 <= beyond < depth <= {schema.layers}",
        )
    return Band(beyond, depth)


def _check_band(blob: Blob, band: Band, schema: AdapterSchema) -> None:
    outside = [key for key in blob.delta.tensors if not band.has(key, schema)]
    if outside:
        raise FedhftError(
            ErrorCode.MALFORMED_UPDATE,
            f"blob of {blob.scope} version {blob.version} holds {outside[0].part}:{outside[0].name}, not of "
            f"layers {band.beyond + 1} to {band.depth} from the output, which the task says it is of; fetch it again",
        )


def _without(
    adapters: AdapterState, scope: str, band: Band | None = None, schema: AdapterSchema | None = None
) -> AdapterState:
    """The adapters without the tensors of a scope, or of a band of it."""
    kept: dict[TensorKey, Float32] = {}
    if band is not None and schema is not None:
        kept = {key: tensor for key, tensor in adapters.scope(scope).items() if not band.has(key, schema)}
    return replace(adapters, scopes={**adapters.scopes, scope: kept})


def _versions(state: WorkerState, scope: str, layers: int) -> tuple[int, ...]:
    """Version of each layer of a scope, from the output to the input."""
    return state.parts.get(scope, (state.held.get(scope, _NOTHING),) * layers)


def _holding(state: WorkerState, scope: str, versions: tuple[int, ...]) -> WorkerState:
    """The state with these versions of the layers of a scope."""
    held = {name: version for name, version in state.held.items() if name != scope}
    parts = {name: known for name, known in state.parts.items() if name != scope}
    if len(set(versions)) > 1:
        parts[scope] = versions
    else:
        held[scope] = versions[0]
    return replace(state, held=held, parts=parts)


def _in_use(weights: Sequence[float]) -> list[str]:
    return [SHARED, *(cluster_scope(cluster) for cluster, weight in enumerate(weights) if weight > 0)]
