"""MaskedDelta to a serialised AdapterBlob and back.

Nothing in a received blob is believed: shapes come from the job's schema, every size is computed from shapes and rows
and checked before anything of that size is allocated, and values are checked to be finite.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from google.protobuf.message import DecodeError

from fedhft.adapter import AdapterSchema, MaskedDelta, MaskedMatrix, Part, RowIndex, TensorKey
from fedhft.errors import ErrorCode, FedhftError
from fedhft.v1 import adapter_pb2
from fedhft.v1 import tensor_pb2 as pb
from fedhft.wire import entropy, rows
from fedhft.wire.values import (
    ENCODINGS,
    LEAST_GROUP,
    MOST_GROUP,
    MOST_LEVELS,
    Streams,
    decode_values,
    encode_values,
    group_count,
    value_bytes,
)

FORMAT = 1
"""Version of the blob format."""
MOST_COLUMNS = 4096
"""Largest rank of a product factor."""
_SMALL_RANK = 64
_LONGEST_SCOPE = 128


@dataclass(frozen=True, eq=False)
class Blob:
    """A decoded AdapterBlob.

    kind: a fedhft.v1 BlobKind. scope: "shared", "cluster-<j>" or "". version: the one it leads to, or, for an update,
    starts from. delta: tensors in schema order; a matrix of which every row came has index None.
    """

    kind: int
    scope: str
    version: int
    delta: MaskedDelta


def encode(
    delta: MaskedDelta,
    schema: AdapterSchema,
    *,
    kind: int,
    encoding: str,
    group: int = 64,
    levels: int = MOST_LEVELS,
    scope: str = "",
    version: int = 0,
    rounding_seed: int | None = None,
    row_seed: int | None = None,
    rank: int = 0,
) -> bytes:
    """Serialise a delta as an AdapterBlob. Equal input gives equal bytes, whatever the order of `delta.tensors`.

    encoding: fp32, fp16, bf16 or int8. group: values per int8 scale. levels: of int8 codes on either side of zero.
    rounding_seed: stochastic rounding of int8 from this stream; None rounds to nearest.
    row_seed: if every masked tensor's rows are those of rows.seeded_rows(row_seed, ...), only the seed travels.
    rank: A and B have their first columns, so many at most (0: all); updates alone can.
    Raises FedhftError: WRONG_SHAPE when a tensor does not fit the schema, NON_FINITE, INVALID_ARGUMENT.
    """
    if encoding not in ENCODINGS:
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, "encoding", encoding, "is not known", f"use one of {', '.join(ENCODINGS)}"
        )
    if not LEAST_GROUP <= group <= MOST_GROUP:
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, "group", group, "is out of range", f"use {LEAST_GROUP} to {MOST_GROUP}"
        )
    if not 1 <= levels <= MOST_LEVELS:
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, "levels", levels, "is out of range", f"use 1 to {MOST_LEVELS}"
        )
    keys = ordered_keys(delta, schema)
    matrices = [delta.tensors[key] for key in keys]
    _check_rank(rank, kind)
    _check_shapes(keys, [(matrix.rows, matrix.cols) for matrix in matrices], schema, rank)
    number = ENCODINGS[encoding]
    block = pb.TensorBlock(encoding=pb.ValueEncoding.ValueType(number), rank=rank)
    write_layout(block, schema, keys, matrices, row_seed)
    values = [matrix.values.reshape(-1) for matrix in matrices]
    sizes = [len(piece) for piece in values]
    joined = np.concatenate(values) if values else np.zeros(0, np.float32)
    streams = encode_values(joined, sizes, number, group, rounding_seed, levels)
    block.codes.extend(entropy.pack(stream) for stream in streams.codes)
    if number == pb.VALUE_ENCODING_INT8:
        block.group = group
        block.scales.extend(entropy.pack(stream) for stream in streams.scales)
        block.scale_base = streams.scale_base
    blob = adapter_pb2.AdapterBlob(
        format=FORMAT,
        kind=adapter_pb2.BlobKind.ValueType(kind),
        schema_digest=bytes.fromhex(schema.digest),
        scope=scope,
        version=version,
        tensors=block,
    )
    return blob.SerializeToString(deterministic=True)


def decode(data: bytes, schema: AdapterSchema, *, kind: int, max_values: int = 0) -> Blob:
    """Read a serialised AdapterBlob of the given kind.

    max_values: most float values it may carry; 0 allows as many as the schema has any use for.
    Raises FedhftError: MALFORMED_UPDATE, SCHEMA_MISMATCH, WRONG_SHAPE, NON_FINITE, and UPDATE_TOO_LARGE, which is
    found before any value is inflated.
    """
    try:
        blob = adapter_pb2.AdapterBlob.FromString(data)
    except DecodeError as error:
        raise _malformed("it is not an AdapterBlob, or it is truncated") from error
    if blob.format != FORMAT:
        raise _malformed(f"format = {blob.format}, this build reads {FORMAT}")
    if blob.schema_digest != bytes.fromhex(schema.digest):
        raise FedhftError(
            ErrorCode.SCHEMA_MISMATCH,
            f"blob of schema {blob.schema_digest.hex()[:12]}, the job has {schema.digest[:12]}; join the job again",
        )
    if blob.kind != kind:
        raise _malformed(f"kind = {blob.kind}, expected {kind}")
    if len(blob.scope) > _LONGEST_SCOPE:
        raise _malformed(f"scope of {len(blob.scope)} characters")
    _check_rank(blob.tensors.rank, kind)
    delta = _decode_block(blob.tensors, schema, max_values or _most_values(schema))
    return Blob(int(blob.kind), blob.scope, blob.version, delta)


def ordered_keys(delta: MaskedDelta, schema: AdapterSchema) -> list[TensorKey]:
    """Keys of a delta in schema order. Raises FedhftError(WRONG_SHAPE) for a key the schema does not have."""
    for key in delta.tensors:
        schema.shape(key)
    return sorted(delta.tensors, key=schema.index_of.__getitem__)


def write_layout(
    block: pb.TensorBlock,
    schema: AdapterSchema,
    keys: Sequence[TensorKey],
    matrices: Sequence[MaskedMatrix],
    row_seed: int | None = None,
) -> None:
    """Write which tensors, in schema order, and which of their rows a block has. row_seed: see `encode`."""
    tensors = np.array([schema.index_of[key] for key in keys], np.int64)
    block.tensors.CopyFrom(rows.encode_subset(tensors, len(schema.keys)))
    block.cols.extend(matrix.cols for key, matrix in zip(keys, matrices, strict=True) if _is_factor(key))
    _encode_rows(block, keys, matrices, row_seed)


def _encode_rows(
    block: pb.TensorBlock, keys: Sequence[TensorKey], matrices: Sequence[MaskedMatrix], row_seed: int | None
) -> None:
    masked = [place for place, matrix in enumerate(matrices) if matrix.kept < matrix.rows]
    if not masked:
        return
    block.masked.CopyFrom(rows.encode_subset(np.array(masked, np.int64), len(keys)))
    if row_seed is not None and all(_is_seeded(row_seed, keys[place], matrices[place]) for place in masked):
        block.rows.CopyFrom(rows.encode_seeded(row_seed, [matrices[place].kept for place in masked]))
        return
    offset, pieces = 0, []
    for place in masked:
        pieces.append(matrices[place].kept_rows.astype(np.int64) + offset)
        offset += matrices[place].rows
    block.rows.CopyFrom(rows.encode_subset(np.concatenate(pieces), offset))


def _is_seeded(seed: int, key: TensorKey, matrix: MaskedMatrix) -> bool:
    return np.array_equal(rows.seeded_rows(seed, key, matrix.rows, matrix.kept), matrix.kept_rows)


def _decode_block(block: pb.TensorBlock, schema: AdapterSchema, max_values: int) -> MaskedDelta:
    keys = [schema.keys[number] for number in rows.decode_subset(block.tensors, len(schema.keys)).tolist()]
    shapes = _decode_shapes(keys, block, schema)
    # The rows of all listed tensors bound the memory of masks; the schema bounds them.
    indices = _decode_rows(block, keys, [shape[0] for shape in shapes])
    kept = [shape[0] if index is None else len(index) for shape, index in zip(shapes, indices, strict=True)]
    sizes = [count * cols for count, (_, cols) in zip(kept, shapes, strict=True)]
    total = sum(sizes)
    if total > max_values:
        raise FedhftError(
            ErrorCode.UPDATE_TOO_LARGE,
            f"the blob carries {total} values, at most {max_values} are allowed; send what the plan asks for",
        )
    values = decode_values(streams_of(block, sizes), sizes, block.encoding, block.group)
    tensors: dict[TensorKey, MaskedMatrix] = {}
    start = 0
    for key, (count, cols), index, present, size in zip(keys, shapes, indices, kept, sizes, strict=True):
        piece = values[start : start + size].reshape(present, cols)
        tensors[key] = MaskedMatrix(count, cols, index, piece)
        start += size
    return MaskedDelta(tensors)


def streams_of(block: pb.TensorBlock, sizes: Sequence[int]) -> Streams:
    """A block's coded values without the entropy stage. sizes: values of each of its matrices.

    Raises FedhftError(MALFORMED_UPDATE).
    """
    width = value_bytes(block.encoding)
    if len(block.codes) != width:
        raise _malformed(f"{len(block.codes)} streams of codes, expected {width}")
    total = sum(sizes)
    if block.encoding != pb.VALUE_ENCODING_INT8:
        if block.scales:
            raise _malformed("scales without int8 codes")
        return Streams(tuple(entropy.unpack(stream, total) for stream in block.codes))
    if not LEAST_GROUP <= block.group <= MOST_GROUP:
        raise _malformed(f"group = {block.group}, allowed are {LEAST_GROUP} to {MOST_GROUP}")
    if len(block.scales) not in (1, 2):
        raise _malformed(f"{len(block.scales)} streams of scales")
    groups = group_count(sizes, block.group)
    return Streams(
        (entropy.unpack(block.codes[0], total),),
        tuple(entropy.unpack(stream, groups) for stream in block.scales),
        block.scale_base,
    )


def _decode_shapes(keys: Sequence[TensorKey], block: pb.TensorBlock, schema: AdapterSchema) -> list[tuple[int, int]]:
    factors = sum(_is_factor(key) for key in keys)
    if len(block.cols) != factors:
        raise _malformed(f"{len(block.cols)} ranks of product factors for {factors} factors")
    ranks = iter(block.cols)
    shapes = [
        (schema.shape(key)[0], next(ranks) if _is_factor(key) else _columns(key, schema, block.rank)) for key in keys
    ]
    _check_shapes(keys, shapes, schema, block.rank)
    return shapes


def _columns(key: TensorKey, schema: AdapterSchema, rank: int) -> int:
    cols = schema.shape(key)[1]
    return min(cols, rank) if rank and key.part in (Part.A, Part.B) else cols


def _check_rank(rank: int, kind: int) -> None:
    if rank and kind != adapter_pb2.BLOB_KIND_UPDATE:
        raise _malformed(f"rank = {rank} in a blob of kind {kind}: updates alone have fewer columns than the schema")


def _decode_rows(block: pb.TensorBlock, keys: Sequence[TensorKey], counts: Sequence[int]) -> list[RowIndex | None]:
    indices: list[RowIndex | None] = [None] * len(keys)
    if not block.HasField("masked"):
        if block.HasField("rows"):
            raise _malformed("rows of no masked tensor")
        return indices
    masked = rows.decode_subset(block.masked, len(keys)).tolist()
    if not masked:
        raise _malformed("a list of masked tensors without any")
    masked_counts = [counts[place] for place in masked]
    if block.rows.WhichOneof("form") == "seeded":
        pieces = rows.decode_seeded(block.rows.seeded, [keys[place] for place in masked], masked_counts)
    else:
        ends = np.cumsum(np.array(masked_counts, np.int64))
        present = rows.decode_subset(block.rows, int(ends[-1]) if len(ends) else 0)
        cuts = np.searchsorted(present, ends).tolist()
        starts = [0, *cuts[:-1]]
        offsets = (ends - masked_counts).tolist()
        pieces = [
            (present[start:cut] - offset).astype(np.int32)
            for start, cut, offset in zip(starts, cuts, offsets, strict=True)
        ]
    for place, piece in zip(masked, pieces, strict=True):
        indices[place] = None if len(piece) == counts[place] else piece
    return indices


def _check_shapes(
    keys: Sequence[TensorKey], shapes: Sequence[tuple[int, int]], schema: AdapterSchema, rank: int
) -> None:
    ranks: dict[str, dict[Part, int]] = {}
    for key, (count, cols) in zip(keys, shapes, strict=True):
        expected_rows, expected_cols = schema.shape(key)[0], _columns(key, schema, rank)
        if _is_factor(key):
            ranks.setdefault(key.name, {})[key.part] = cols
            if not 1 <= cols <= MOST_COLUMNS:
                raise _wrong_shape(key, f"rank {cols}, allowed are 1 to {MOST_COLUMNS}")
            expected_cols = cols
        if (count, cols) != (expected_rows, expected_cols):
            raise _wrong_shape(key, f"{count} x {cols}, the job has {expected_rows} x {expected_cols}")
    for name, found in ranks.items():
        if found.get(Part.LEFT) != found.get(Part.RIGHT):
            raise FedhftError(
                ErrorCode.WRONG_SHAPE,
                f"product of {name}: ranks of left and right are {found.get(Part.LEFT)} and {found.get(Part.RIGHT)}; "
                "send both factors with the same number of columns",
            )


def _most_values(schema: AdapterSchema) -> int:
    # A, B, and a product: dense, or in factors while they are the smaller form; with slack for ranks of tiny slots.
    total = sum(parameter.matrix_shape[0] * parameter.matrix_shape[1] for parameter in schema.head + schema.weights)
    for slot in schema.slots:
        side = slot.in_features + slot.out_features
        total += side * slot.rank + max(slot.in_features * slot.out_features, _SMALL_RANK * side)
    return total


def _is_factor(key: TensorKey) -> bool:
    return key.part is Part.LEFT or key.part is Part.RIGHT


def _wrong_shape(key: TensorKey, problem: str) -> FedhftError:
    return FedhftError(ErrorCode.WRONG_SHAPE, f"tensor {key.part}:{key.name} is {problem}; check model and rank")


def _malformed(problem: str) -> FedhftError:
    return FedhftError(ErrorCode.MALFORMED_UPDATE, f"the blob cannot be read: {problem}; send it again")
