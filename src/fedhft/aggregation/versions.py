"""Versions as values: how published blobs become adapter states, on the server and on every client alike.

    state_v = fp32(state_{v-1} + decode(blob_v))        rows a blob does not carry keep their value

Only element-wise float32 operations in a fixed order are used, so server and clients hold the same bits on any kind of
machine. The delta of a product slot is LEFT @ RIGHT.T: a version appends columns, until the dense PRODUCT is smaller.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from fedhft.adapter import (
    SHARED,
    AdapterState,
    Float32,
    MaskedDelta,
    MaskedMatrix,
    Part,
    TensorKey,
)
from fedhft.errors import ErrorCode, FedhftError
from fedhft.job import JobSpec
from fedhft.v1 import adapter_pb2
from fedhft.wire.codec import MOST_COLUMNS, Blob

Tensors = Mapping[TensorKey, Float32]

SCOPE = re.compile(r"shared|cluster-(0|[1-9][0-9]{0,3})")
"""Names of scopes."""


@dataclass(frozen=True, eq=False)
class ServerState:
    """What the server carries from version to version.

    state: what clients have. residual: what publishing has dropped so far (scope -> key -> float32, rows x cols; a
    product slot as LEFT and RIGHT or as PRODUCT). momentum, squares: of the server's step (see
    `aggregation.server_step`), in the same form; empty when unused. An absent tensor is at its start: zero, of squares
    server.adaptivity^2.
    """

    state: AdapterState
    residual: Mapping[str, Tensors] = field(default_factory=dict)
    momentum: Mapping[str, Tensors] = field(default_factory=dict)
    squares: Mapping[str, Tensors] = field(default_factory=dict)


def initial_state(spec: JobSpec, clusters: int) -> ServerState:
    """Version 0 of a job: everything is at its starting point, so there is no tensor at all.

    Raises FedhftError(INVALID_ARGUMENT) when the job cannot have that many clusters.
    """
    wanted = spec.method.clusters
    most = max(wanted, 1) if isinstance(wanted, int) else spec.clustering.maximum
    if not 1 <= clusters <= most:
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, "clusters", clusters, f"the job allows 1 to {most}", "check method.clusters"
        )
    return ServerState(AdapterState(0, clusters))


def with_version(state: AdapterState, version: int, clusters: int | None = None) -> AdapterState:
    """The same tensors under another version number (and number of clusters)."""
    return replace(state, version=version, clusters=state.clusters if clusters is None else clusters)


def snapshot(state: AdapterState, scope: str) -> MaskedDelta:
    """Every tensor of a scope, whole; encoded as fp32 it restores the scope bit for bit."""
    return whole(state.scope(scope))


def whole(tensors: Tensors) -> MaskedDelta:
    """Matrices as a delta that carries all their rows."""
    return MaskedDelta({key: MaskedMatrix.full(matrix) for key, matrix in tensors.items()})


def apply_delta(state: AdapterState, blob: Blob) -> AdapterState:
    """A state after one decoded blob: a delta is added to its scope, a snapshot replaces it.

    The caller keeps the version (`with_version`). Arrays of `state` are never written to.
    Raises FedhftError: MALFORMED_UPDATE for a blob that is neither, an unknown scope, or half a product; WRONG_SHAPE
    when a tensor does not fit what is there.
    """
    if blob.kind not in (adapter_pb2.BLOB_KIND_DELTA, adapter_pb2.BLOB_KIND_SNAPSHOT):
        raise _malformed(f"kind = {blob.kind} is neither a delta nor a snapshot")
    if not SCOPE.fullmatch(blob.scope):
        raise _malformed(f'scope = {blob.scope!r} is neither "{SHARED}" nor a cluster')
    adds = blob.kind == adapter_pb2.BLOB_KIND_DELTA
    tensors: dict[TensorKey, Float32] = dict(state.scope(blob.scope)) if adds else {}
    for key, matrix in blob.delta:
        if key.part is Part.LEFT:
            right = blob.delta.tensors.get(TensorKey(key.name, Part.RIGHT))
            if right is None or right.cols != matrix.cols:
                raise _malformed(f"the product of {key.name} has no right factor of {matrix.cols} columns")
            _append(tensors, key.name, matrix.dense(), right.dense())
        elif key.part is Part.RIGHT:
            if TensorKey(key.name, Part.LEFT) not in blob.delta.tensors:
                raise _malformed(f"the product of {key.name} has no left factor")
        else:
            if key.part is Part.PRODUCT:
                _densify(tensors, key.name)
            tensors[key] = _added(tensors.get(key), key, matrix)
    return replace(state, scopes={**state.scopes, blob.scope: tensors})


def smaller_dense(out_features: int, in_features: int, columns: int) -> bool:
    """Whether a product of this rank takes more numbers in factors (or more columns than travel) than dense."""
    return columns * (out_features + in_features) > out_features * in_features or columns > MOST_COLUMNS


def _added(old: Float32 | None, key: TensorKey, matrix: MaskedMatrix) -> Float32:
    if old is None:
        return np.array(matrix.dense(), np.float32)
    if old.shape != (matrix.rows, matrix.cols):
        raise FedhftError(
            ErrorCode.WRONG_SHAPE,
            f"tensor {key.part}:{key.name} is {matrix.rows} x {matrix.cols}, the state holds {old.shape}; "
            "take a snapshot of this version",
        )
    if matrix.index is None:
        return old + matrix.values
    new = old.copy()
    new[matrix.index] += matrix.values
    return new


def _append(tensors: dict[TensorKey, Float32], name: str, left: Float32, right: Float32) -> None:
    left_key, right_key, product_key = (TensorKey(name, part) for part in (Part.LEFT, Part.RIGHT, Part.PRODUCT))
    lefts = [tensors[left_key], left] if left_key in tensors else [left]
    rights = [tensors[right_key], right] if right_key in tensors else [right]
    dense = tensors.get(product_key)
    known = (dense.shape[0], dense.shape[1]) if dense is not None else (len(lefts[0]), len(rights[0]))
    if known != (len(left), len(right)):
        raise FedhftError(
            ErrorCode.WRONG_SHAPE,
            f"the product of {name} is {len(left)} x {len(right)}, the state holds {known[0]} x {known[1]}; "
            "take a snapshot of this version",
        )
    columns = sum(matrix.shape[1] for matrix in lefts)
    if dense is None and not smaller_dense(len(left), len(right), columns):
        tensors[left_key] = np.ascontiguousarray(np.hstack(lefts))
        tensors[right_key] = np.ascontiguousarray(np.hstack(rights))
        return
    _densify(tensors, name)
    product = tensors[product_key].copy() if product_key in tensors else np.zeros(known, np.float32)
    add_product(product, left, right)
    tensors[product_key] = product


def _densify(tensors: dict[TensorKey, Float32], name: str) -> None:
    left = tensors.pop(TensorKey(name, Part.LEFT), None)
    right = tensors.pop(TensorKey(name, Part.RIGHT), None)
    if left is not None and right is not None:
        product = np.zeros((len(left), len(right)), np.float32)
        add_product(product, left, right)
        tensors[TensorKey(name, Part.PRODUCT)] = product


def add_product(target: Float32, left: Float32, right: Float32) -> None:
    """target += left @ right.T in place, column by column.

    Not a matrix product: BLAS kernels round differently from machine to machine, and these bits must not.
    """
    for k in range(left.shape[1]):
        target += np.multiply.outer(left[:, k], right[:, k])


def _malformed(problem: str) -> FedhftError:
    return FedhftError(ErrorCode.MALFORMED_UPDATE, f"the blob cannot be applied: {problem}; fetch it again")
