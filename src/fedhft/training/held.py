"""The published adapters a worker holds, the sum of the blobs it fetched, and what a round starts from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from fedhft.adapter import SHARED, AdapterSchema, Float32, TensorKey, cluster_scope
from fedhft.aggregation.mixture import mix
from fedhft.aggregation.versions import apply_delta, with_version
from fedhft.errors import ErrorCode, FedhftError
from fedhft.methods import Combine
from fedhft.training.state import WorkerState
from fedhft.v1 import adapter_pb2
from fedhft.v1 import federation_pb2 as pb
from fedhft.wire.codec import decode
from fedhft.wire.digest import digest_of


def with_blob(state: WorkerState, schema: AdapterSchema, ref: adapter_pb2.BlobRef, data: bytes) -> WorkerState:
    """The state after adding one fetched blob.

    Raises FedhftError: DIGEST_MISMATCH, or what `decode` raises (MALFORMED_UPDATE, SCHEMA_MISMATCH, ...).
    """
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
    adapters = apply_delta(state.adapters, blob)
    return replace(state, adapters=adapters, held={**state.held, ref.scope: int(ref.version)})


def is_ahead(state: WorkerState, version: int, weights: Sequence[float]) -> bool:
    """Whether a scope in use (cluster weight > 0) is held at a version newer than the server's `version`."""
    return any(state.held.get(scope, 0) > version for scope in _in_use(weights))


def complete_at(state: WorkerState, view: pb.ViewSource, weights: Sequence[float]) -> WorkerState:
    """The state with every scope in use complete at the view's version: all its blobs have been added."""
    version = int(view.version)
    adapters = with_version(state.adapters, version, max(1, len(view.memberships)))
    return replace(state, adapters=adapters, held={**state.held, **dict.fromkeys(_in_use(weights), version)})


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


def _in_use(weights: Sequence[float]) -> list[str]:
    return [SHARED, *(cluster_scope(cluster) for cluster, weight in enumerate(weights) if weight > 0)]
