"""AdapterPlan: what one client trains in one round, and what of that travels."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fedhft.adapter import AdapterSchema, Part, Slot, TensorKey
from fedhft.methods import Combine, Method
from fedhft.v1 import adapter_pb2


@dataclass(frozen=True)
class AdapterPlan:
    """Depth, density and local work given to one client for one round.

    depth: layers, counted from the output, that carry adapters (0 < depth <= schema.layers).
    density: fraction of rows of B (and columns of A) trained and sent, in (0, 1].
    epochs, max_steps: local passes over the data, and a cap on optimiser steps (0 = none).
    train_a, train_b: which factors have gradients this round.
    rank: most columns of A and B that are held, trained and sent, the first ones (0 = as many as the schema has).
    """

    tier: str
    depth: int
    density: float
    epochs: float
    max_steps: int
    train_a: bool
    train_b: bool
    rank: int = 0

    @classmethod
    def of(cls, message: adapter_pb2.AdapterPlan) -> AdapterPlan:
        """The plan in a task message."""
        return cls(
            tier=message.tier,
            depth=message.depth,
            density=message.density,
            epochs=message.epochs,
            max_steps=message.max_steps,
            train_a=message.train_a,
            train_b=message.train_b,
            rank=message.rank,
        )

    def message(self) -> adapter_pb2.AdapterPlan:
        """The plan as a message; inverse of `of`."""
        return adapter_pb2.AdapterPlan(
            tier=self.tier,
            depth=self.depth,
            density=self.density,
            epochs=self.epochs,
            max_steps=self.max_steps,
            train_a=self.train_a,
            train_b=self.train_b,
            rank=self.rank,
        )

    def slots(self, schema: AdapterSchema) -> tuple[Slot, ...]:
        """The slots inside this plan's depth."""
        return tuple(slot for slot in schema.slots if slot.layer >= schema.layers - self.depth)

    def rank_of(self, slot: Slot) -> int:
        """Columns of a slot's A and B under this plan."""
        return min(self.rank, slot.rank) if self.rank else slot.rank

    def shape(self, key: TensorKey, schema: AdapterSchema) -> tuple[int, int]:
        """(rows, cols) of a tensor under this plan: of A and B with the columns that the plan has."""
        rows, cols = schema.shape(key)
        if self.rank and key.part in (Part.A, Part.B):
            return rows, min(self.rank, cols)
        return rows, cols

    def kept_rows(self, rows: int) -> int:
        """How many of `rows` rows this plan trains: ceil(density * rows), at least 1."""
        return min(rows, max(1, math.ceil(self.density * rows - 1e-9)))

    def trains(self, key: TensorKey, schema: AdapterSchema) -> bool:
        """Whether an update under this plan may carry `key`."""
        if key.part in (Part.HEAD, Part.WEIGHT):
            return True
        if schema.slot(key.name).layer < schema.layers - self.depth:
            return False
        return (key.part is Part.A and self.train_a) or (key.part is Part.B and self.train_b)

    def rows_allowed(self, key: TensorKey, schema: AdapterSchema) -> int:
        """Most rows of `key` that an update under this plan may carry."""
        rows, _ = schema.shape(key)
        return self.kept_rows(rows) if key.part in (Part.A, Part.B) else rows


def sent_parts(method: Method) -> tuple[Part, ...]:
    """Parts that travel in updates; what is trained beside them stays with its client."""
    if method.combine is Combine.NONE:
        return ()
    if method.combine is Combine.ONLY_A:
        return (Part.A,)
    return (Part.A, Part.B, Part.HEAD) if method.uses_adapters else (Part.WEIGHT, Part.HEAD)


def steps_of(rows: int, batch_size: int, epochs: float, max_steps: int) -> int:
    """Optimiser steps of one local training: epochs * ceil(rows / batch_size), rounded, at least 1, at most
    max_steps (0: no cap).
    """
    steps = max(1, round(epochs * math.ceil(rows / batch_size)))
    return min(steps, max_steps) if max_steps else steps
