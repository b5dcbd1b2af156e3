"""The values that travel, in memory: slots, the schema that names every tensor, states and masked deltas.

Orientation. Every matrix is held with the axis that masks select as its *rows*: B of a slot is (out x r), and A is
held transposed, (in x r), because FedHFT's masks select *columns* of A (Ilhan et al. 2025, arXiv 2510.14054). Only
`training/` and `export/` transpose back to PEFT's (r x in).

Everything is a difference from the job's starting point: A from its seeded draw, B from zero, the head from its
seeded draw, a weight from the base model. The server never needs the starting point itself.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedhft import seeds
from fedhft.documents import Fields, parse_json
from fedhft.errors import ErrorCode, FedhftError

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
RowIndex = NDArray[np.int32]

MOST_SCHEMA_BYTES = 1 << 20
"""Longest text of a schema."""
_LONGEST_NAME = 256
_MOST_LABELS = 4096
_MOST_LAYERS = 4096
_MOST_TENSORS = 16384
_WIDEST = 1 << 20
_LARGEST_RANK = 4096
_MOST_AXES = 8
_MOST_VALUES = 1 << 34
_DIGEST = re.compile(r"[0-9a-f]{64}")
_FIX = "build the schema from the job's base model"

SHARED = "shared"
"""Scope of tensors that are one for all clusters (A in method `fedhft`)."""


def cluster_scope(cluster: int) -> str:
    """Scope name of one cluster's tensors, e.g. "cluster-0"."""
    return f"cluster-{cluster}"


class Part(StrEnum):
    """Which piece of a slot (or of the head, or of the whole model) a tensor is."""

    A = "a"  # (in x rank), the transpose of lora_A.weight
    B = "b"  # (out x rank), lora_B.weight
    LEFT = "left"  # (out x k) left factor of a product delta, alpha/r included
    RIGHT = "right"  # (in x k) right factor of a product delta
    PRODUCT = "product"  # (out x in) dense product delta, alpha/r included
    HEAD = "head"  # one parameter of the task head, as (shape[0] x rest); vectors as (n x 1)
    WEIGHT = "weight"  # one parameter of the base model, as (shape[0] x rest); vectors as (n x 1)


SLOT_PARTS = (Part.A, Part.B, Part.LEFT, Part.RIGHT, Part.PRODUCT)


@dataclass(frozen=True, order=True)
class TensorKey:
    """Name of one tensor: the slot's module path or the parameter's name, and the part."""

    name: str
    part: Part


@dataclass(frozen=True)
class Slot:
    """One adapted matrix: layer x target module (elsewhere "LoRA target" or "adapted module")."""

    name: str
    """Module path in the model, e.g. "bert.encoder.layer.0.attention.self.query"."""
    layer: int
    """Index of the transformer layer, 0 nearest the input."""
    in_features: int
    out_features: int
    rank: int


@dataclass(frozen=True)
class Parameter:
    """One parameter of the head or of the base model."""

    name: str
    shape: tuple[int, ...]

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """(rows, cols) in which it travels; a vector of n is (n x 1), a scalar (1 x 1)."""
        if not self.shape:
            return (1, 1)
        return (self.shape[0], int(np.prod(self.shape[1:], dtype=np.int64)))


@dataclass(frozen=True)
class AdapterSchema:
    """What a job trains; all its clients must agree on it, and its digest is compared at Join.

    Tensors are numbered on the wire: 5 per slot in the order of SLOT_PARTS, then the head, then the weights.
    """

    base_digest: str
    tokenizer_digest: str
    architecture: str
    labels: tuple[str, ...]
    layers: int
    slots: tuple[Slot, ...]
    head: tuple[Parameter, ...]
    weights: tuple[Parameter, ...] = ()

    @cached_property
    def keys(self) -> tuple[TensorKey, ...]:
        """All tensor keys in wire order."""
        slots = [TensorKey(slot.name, part) for slot in self.slots for part in SLOT_PARTS]
        head = [TensorKey(parameter.name, Part.HEAD) for parameter in self.head]
        weights = [TensorKey(parameter.name, Part.WEIGHT) for parameter in self.weights]
        return tuple(slots + head + weights)

    @cached_property
    def allowed(self) -> dict[Any, Any]:
        """Kept by `rounds.acceptance`: what plans for this schema allow, which would take longer than a check of it."""
        return {}

    @cached_property
    def index_of(self) -> Mapping[TensorKey, int]:
        """Wire number of each key."""
        return {key: index for index, key in enumerate(self.keys)}

    @cached_property
    def _slot_of(self) -> Mapping[str, Slot]:
        return {slot.name: slot for slot in self.slots}

    @cached_property
    def _shape_of(self) -> Mapping[TensorKey, tuple[int, int]]:
        shapes: dict[TensorKey, tuple[int, int]] = {}
        for slot in self.slots:
            shapes[TensorKey(slot.name, Part.A)] = (slot.in_features, slot.rank)
            shapes[TensorKey(slot.name, Part.B)] = (slot.out_features, slot.rank)
            shapes[TensorKey(slot.name, Part.LEFT)] = (slot.out_features, -1)
            shapes[TensorKey(slot.name, Part.RIGHT)] = (slot.in_features, -1)
            shapes[TensorKey(slot.name, Part.PRODUCT)] = (slot.out_features, slot.in_features)
        for parameter in self.head:
            shapes[TensorKey(parameter.name, Part.HEAD)] = parameter.matrix_shape
        for parameter in self.weights:
            shapes[TensorKey(parameter.name, Part.WEIGHT)] = parameter.matrix_shape
        return shapes

    def slot(self, name: str) -> Slot:
        """The slot of this name. Raises KeyError."""
        return self._slot_of[name]

    def shape(self, key: TensorKey) -> tuple[int, int]:
        """(rows, cols); cols is -1 for LEFT and RIGHT, whose rank varies. Raises FedhftError(WRONG_SHAPE)."""
        try:
            return self._shape_of[key]
        except KeyError:
            raise FedhftError(
                ErrorCode.WRONG_SHAPE,
                f"tensor {key.part}:{key.name} is not in the job's schema; agent and job must use the same base model",
            ) from None

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> AdapterSchema:
        """Inverse of to_json, for text of a stranger: every field typed and bounded.

        Raises FedhftError(SCHEMA_MISMATCH) naming the field.
        """
        code = ErrorCode.SCHEMA_MISMATCH
        raw = Fields(parse_json(text, "schema", code, most_bytes=MOST_SCHEMA_BYTES), "", code, _FIX)
        schema = cls(
            base_digest=raw.text("base_digest", 64, _DIGEST),
            tokenizer_digest=raw.text("tokenizer_digest", 64, _DIGEST),
            architecture=raw.text("architecture", _LONGEST_NAME),
            labels=raw.texts("labels", _MOST_LABELS, _LONGEST_NAME),
            layers=(layers := raw.integer("layers", 1, _MOST_LAYERS)),
            slots=tuple(_slot(slot, layers) for slot in raw.objects("slots", _MOST_TENSORS)),
            head=_parameters(raw, "head"),
            weights=_parameters(raw, "weights"),
        )
        raw.finish()
        for field_name, named in (("slots", schema.slots), ("head", schema.head), ("weights", schema.weights)):
            names = [item.name for item in named]
            if len(set(names)) < len(names):
                twice = Counter(names).most_common(1)[0][0]
                raw.refuse(f"{field_name}.name", twice, "is there twice")
        return schema

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON, hex."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def differences(self, other: AdapterSchema) -> list[str]:
        """One sentence per field in which `other` differs, for the refusal at Join; empty when equal."""
        mine, theirs = asdict(self), asdict(other)
        return [
            f"{name}: the job has {_short(mine[name])}, the agent has {_short(theirs[name])}"
            for name in mine
            if mine[name] != theirs[name]
        ]

    def start_of(self, seed: int, key: TensorKey, round_number: int = 0) -> Float32:
        """Starting value of a tensor, in the orientation in which it travels (rows x cols).

        A: uniform in +-1/sqrt(in), LoRA's Kaiming bound; `round_number` > 0 redraws it (restart methods). Head
        matrices: uniform with standard deviation 0.02; scales of norms inside the head: one; other head vectors and
        everything else: zero.
        """
        rows, cols = self.shape(key)
        if key.part is Part.A:
            stream = seeds.seed_of("lora_A", seed, key.name, round_number)
            return seeds.uniform(stream, (rows, cols), 1.0 / float(np.sqrt(rows)))
        if key.part is Part.HEAD and cols > 1:
            return seeds.uniform(seeds.seed_of("head", seed, key.name), (rows, cols), 0.02 * float(np.sqrt(3.0)))
        if key.part is Part.HEAD and key.name.lower().endswith("norm.weight"):
            return np.ones((rows, cols), np.float32)  # a norm that starts at zero would silence the head
        return np.zeros((rows, max(cols, 0)), np.float32)


def _slot(raw: Fields, layers: int) -> Slot:
    slot = Slot(
        name=raw.text("name", _LONGEST_NAME),
        layer=raw.integer("layer", 0, layers - 1),
        in_features=raw.integer("in_features", 1, _WIDEST),
        out_features=raw.integer("out_features", 1, _WIDEST),
        rank=raw.integer("rank", 1, _LARGEST_RANK),
    )
    raw.finish()
    return slot


def _parameters(raw: Fields, name: str) -> tuple[Parameter, ...]:
    found = []
    for item in raw.objects(name, _MOST_TENSORS):
        shape = item.integers("shape", _MOST_AXES, 1, _MOST_VALUES)
        if math.prod(shape) > _MOST_VALUES:
            item.refuse("shape", list(shape), f"has more than {_MOST_VALUES} values")
        found.append(Parameter(item.text("name", _LONGEST_NAME), shape))
        item.finish()
    return tuple(found)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


@dataclass(frozen=True, eq=False)
class MaskedMatrix:
    """Some rows of a (rows x cols) float32 matrix; rows that are not kept are absent, not zero.

    index: kept rows, int32, strictly increasing; None keeps all rows.
    values: float32 (kept x cols).
    Raises FedhftError(WRONG_SHAPE) when they do not fit together.
    """

    rows: int
    cols: int
    index: RowIndex | None
    values: Float32

    def __post_init__(self) -> None:
        kept = self.rows if self.index is None else len(self.index)
        if self.rows < 0 or self.cols < 0 or self.values.shape != (kept, self.cols):
            raise FedhftError(
                ErrorCode.WRONG_SHAPE,
                f"masked matrix: values {self.values.shape} do not fit {kept} kept rows of {self.rows} x {self.cols}",
            )
        if self.values.dtype != np.float32:
            raise FedhftError(ErrorCode.WRONG_SHAPE, f"masked matrix: values are {self.values.dtype}, not float32")
        if self.index is not None and kept:
            index = self.index
            if index[0] < 0 or index[-1] >= self.rows or (kept > 1 and bool(np.any(np.diff(index) <= 0))):
                raise FedhftError(
                    ErrorCode.WRONG_SHAPE,
                    f"masked matrix: row index must strictly increase within 0..{self.rows - 1}",
                )

    @classmethod
    def full(cls, values: Float32) -> MaskedMatrix:
        """All rows of `values` (rows x cols)."""
        return cls(values.shape[0], values.shape[1], None, np.ascontiguousarray(values, np.float32))

    @classmethod
    def of(cls, matrix: Float32, index: RowIndex | None) -> MaskedMatrix:
        """The rows `index` of `matrix` (rows x cols)."""
        if index is None:
            return cls.full(matrix)
        return cls(matrix.shape[0], matrix.shape[1], index, np.ascontiguousarray(matrix[index], np.float32))

    @property
    def kept(self) -> int:
        """Number of kept rows."""
        return int(self.values.shape[0])

    @property
    def kept_rows(self) -> RowIndex:
        """Indices of the kept rows, also when all are kept."""
        return np.arange(self.rows, dtype=np.int32) if self.index is None else self.index

    def dense(self) -> Float32:
        """(rows x cols) with zeros where nothing was sent."""
        if self.index is None:
            return self.values
        out = np.zeros((self.rows, self.cols), np.float32)
        out[self.index] = self.values
        return out


@dataclass(frozen=True, eq=False)
class MaskedDelta:
    """What a client sends, or what a version changes in one scope: masked matrices by key."""

    tensors: Mapping[TensorKey, MaskedMatrix]

    def __iter__(self) -> Iterator[tuple[TensorKey, MaskedMatrix]]:
        return iter(self.tensors.items())

    @property
    def values(self) -> int:
        """Number of float values carried."""
        return sum(matrix.values.size for matrix in self.tensors.values())

    def norm(self) -> float:
        """Frobenius norm over all tensors, in float64; worked out once."""
        return self._norm

    @cached_property
    def _norm(self) -> float:
        return float(np.sqrt(sum(float(np.square(m.values, dtype=np.float64).sum()) for m in self.tensors.values())))

    def finite(self) -> bool:
        """Whether every value is finite: squares of float32 cannot overflow a float64, nor can their sum."""
        return math.isfinite(self.norm())


@dataclass(frozen=True, eq=False)
class AdapterState:
    """Adapters of one version, as differences from the job's starting point: scope -> key -> float32 matrix.

    Scopes are "shared" and "cluster-0" .. "cluster-{J-1}". An absent tensor is zero.
    """

    version: int
    clusters: int
    scopes: Mapping[str, Mapping[TensorKey, Float32]] = field(default_factory=dict)

    def scope(self, name: str) -> Mapping[TensorKey, Float32]:
        """Tensors of a scope; empty when nothing was published in it yet."""
        return self.scopes.get(name, {})

    @property
    def scope_names(self) -> tuple[str, ...]:
        """("shared", "cluster-0", ...)."""
        return (SHARED, *(cluster_scope(j) for j in range(self.clusters)))
