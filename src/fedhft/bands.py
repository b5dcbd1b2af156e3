"""Bands: runs of layers, counted from the output, in which a version is published beside its whole blobs.

A client of depth k has adapters in its last k layers only, so it fetches the bands that reach to k, and holds every
layer at a version of its own. The first band has the head too. Bands of a job follow one another without a gap:

    head, layers 1..d_1   |   d_1 + 1 .. d_2   |   ...   |   .. d_n = the greatest depth of any plan
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TypeVar

from fedhft.adapter import SLOT_PARTS, AdapterSchema, MaskedDelta, TensorKey
from fedhft.errors import ErrorCode, FedhftError
from fedhft.v1 import adapter_pb2

T = TypeVar("T")

MOST_BANDS = 6
"""Each is a blob per scope that is stored, and for a client of the greatest depth one to pull."""


@dataclass(frozen=True, order=True)
class Band:
    """Layers `beyond` + 1 to `depth`, counted from the output; with the head where `beyond` is 0.

    Raises FedhftError(INVALID_ARGUMENT) for a band without a layer.
    """

    beyond: int
    depth: int

    def __post_init__(self) -> None:
        if not 0 <= self.beyond < self.depth:
            raise FedhftError.field(
                ErrorCode.INVALID_ARGUMENT, "band", f"{self.beyond} to {self.depth}", "has no layer",
                "give 0 <= beyond < depth, counted from the output",
            )  # fmt: skip

    def message(self) -> adapter_pb2.Band:
        """The band as a message."""
        return adapter_pb2.Band(beyond=self.beyond, depth=self.depth)

    def covers(self, other: Band) -> bool:
        """Whether all layers of `other` are in this one."""
        return self.beyond <= other.beyond and other.depth <= self.depth

    def has(self, key: TensorKey, schema: AdapterSchema) -> bool:
        """Whether a tensor is of these layers. Raises FedhftError(WRONG_SHAPE) for one the schema does not have."""
        return self.beyond < layer_of(key, schema) <= self.depth

    def of(self, delta: MaskedDelta, schema: AdapterSchema) -> MaskedDelta:
        """What of a delta is of these layers."""
        return MaskedDelta({key: matrix for key, matrix in delta if self.has(key, schema)})


def layer_of(key: TensorKey, schema: AdapterSchema) -> int:
    """Number of a tensor's layer, counted from the output: 1 for the last, and for what is in no layer (the head)."""
    schema.shape(key)
    return schema.layers - schema.slot(key.name).layer if key.part in SLOT_PARTS else 1


def within(tensors: Mapping[TensorKey, T], schema: AdapterSchema, depth: int) -> dict[TensorKey, T]:
    """The tensors of the last `depth` layers, and the head."""
    return {key: value for key, value in tensors.items() if layer_of(key, schema) <= depth}


@lru_cache(maxsize=256)
def between(depths: tuple[int, ...]) -> tuple[Band, ...]:
    """The bands that end at these depths, which ascend."""
    return tuple(Band(beyond, depth) for beyond, depth in pairwise((0, *depths)))


def thinned(depths: Iterable[int]) -> tuple[int, ...]:
    """At most MOST_BANDS of some depths, the greatest among them, evenly spaced; ascending, each once."""
    ascending = sorted(set(depths))
    count = min(MOST_BANDS, len(ascending))
    return tuple(ascending[-(-place * len(ascending) // count) - 1] for place in range(1, count + 1))
