"""Schemas and deltas for the tests of the wire."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from fedhft.adapter import AdapterSchema, MaskedDelta, MaskedMatrix, Parameter, Part, RowIndex, Slot, TensorKey
from fedhft.v1 import adapter_pb2
from fedhft.wire.entropy import unpack

ENCODINGS = ("fp32", "fp16", "bf16", "int8")


def schema_of(layers: int, width: int, rank: int) -> AdapterSchema:
    slots = tuple(
        Slot(f"layer.{layer}.{target}", layer, width, width, rank) for layer in range(layers) for target in ("q", "v")
    )
    head = (Parameter("classifier.weight", (2, width)), Parameter("classifier.bias", (2,)))
    return AdapterSchema("base", "tokenizer", "bert", ("no", "yes"), layers, slots, head)


def largest_code(data: bytes, values: int) -> int:
    """Largest magnitude among the int8 codes of a serialised AdapterBlob of so many values."""
    (codes,) = adapter_pb2.AdapterBlob.FromString(data).tensors.codes
    return int(np.abs(np.frombuffer(unpack(codes, values), np.int8).astype(int)).max())


def some_rows(rng: np.random.Generator, rows: int, kept: int) -> RowIndex:
    return np.sort(rng.choice(rows, kept, replace=False)).astype(np.int32)


def delta_of(schema: AdapterSchema, density: float, seed: int, kind: str = "normal") -> MaskedDelta:
    """A, B and head of every slot; A and B with `density` of their rows."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for key in schema.keys:
        if key.part not in (Part.A, Part.B, Part.HEAD):
            continue
        rows, cols = schema.shape(key)
        if kind == "uniform":
            values = rng.uniform(-1, 1, (rows, cols))
        else:
            values = rng.normal(size=(rows, cols))
            if kind == "unequal rows":
                values *= np.exp(rng.normal(size=(rows, 1)))
        index = None
        if density < 1 and key.part is not Part.HEAD:
            index = some_rows(rng, rows, int(np.ceil(density * rows)))
        tensors[key] = MaskedMatrix.of((1e-3 * values).astype(np.float32), index)
    return MaskedDelta(tensors)


@st.composite
def schemas(draw: st.DrawFn) -> AdapterSchema:
    sizes = st.integers(1, 40)
    slots = tuple(
        Slot(f"slot-{number}", number, draw(sizes), draw(sizes), draw(st.integers(1, 5)))
        for number in range(draw(st.integers(0, 4)))
    )
    head = tuple(
        Parameter(f"head-{n}", draw(st.sampled_from([(), (3,), (2, 7)]))) for n in range(draw(st.integers(0, 2)))
    )
    return AdapterSchema("base", "tokenizer", "bert", ("no", "yes"), len(slots), slots, head)


@st.composite
def masked_matrices(draw: st.DrawFn, rows: int, cols: int, values: st.SearchStrategy[float]) -> MaskedMatrix:
    index = None
    if draw(st.booleans()):
        index = np.flatnonzero(draw(st.lists(st.booleans(), min_size=rows, max_size=rows))).astype(np.int32)
    kept = rows if index is None else len(index)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    array = (rng.normal(size=kept * cols) * draw(st.sampled_from([0.0, 1e-30, 1e-3, 1.0, 1e3]))).astype(np.float32)
    special: list[Any] = draw(st.lists(values, max_size=min(8, array.size)))
    array[: len(special)] = special
    return MaskedMatrix(rows, cols, index, rng.permutation(array).reshape(kept, cols))


@st.composite
def deltas(draw: st.DrawFn, values: st.SearchStrategy[float]) -> tuple[AdapterSchema, MaskedDelta]:
    """A schema and a delta of some of its tensors, in any order."""
    schema = draw(schemas())
    tensors: dict[TensorKey, MaskedMatrix] = {}
    ranks = {slot.name: draw(st.integers(1, 6)) for slot in schema.slots}
    with_product = {slot.name: draw(st.booleans()) for slot in schema.slots}
    for key in draw(st.permutations(schema.keys)):
        rows, cols = schema.shape(key)
        if cols < 0:
            if with_product[key.name]:
                tensors[key] = draw(masked_matrices(rows, ranks[key.name], values))
        elif draw(st.booleans()):
            tensors[key] = draw(masked_matrices(rows, cols, values))
    return schema, MaskedDelta(tensors)


def finite(limit: float) -> st.SearchStrategy[float]:
    """float32 values up to `limit`, subnormal numbers and both zeros included."""
    return st.floats(-limit, limit, width=32)


UPDATE = int(adapter_pb2.BLOB_KIND_UPDATE)
DELTA = int(adapter_pb2.BLOB_KIND_DELTA)
SMALL = AdapterSchema(
    "base", "tokenizer", "bert", ("no", "yes"), 1, (Slot("q", 0, 6, 5, 2),), (Parameter("head", (2, 3)),)
)
A, B = TensorKey("q", Part.A), TensorKey("q", Part.B)
LEFT, RIGHT, PRODUCT = TensorKey("q", Part.LEFT), TensorKey("q", Part.RIGHT), TensorKey("q", Part.PRODUCT)
HEAD = TensorKey("head", Part.HEAD)
BIG = schema_of(6, 384, 8)


def ones(rows: int, cols: int) -> MaskedMatrix:
    return MaskedMatrix.full(np.ones((rows, cols), np.float32))
