"""AdapterPlan: what one client trains in one round."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fedhft.adapter import AdapterSchema, Part, Slot, TensorKey
from fedhft.v1 import adapter_pb2


@dataclass(frozen=True)
class AdapterPlan:
    """Depth, density and local work given to one client for one round.

    depth: layers, counted from the output, that carry adapters (0 < depth <= schema.layers).
    density: fraction of rows of B (and columns of A) trained and sent, in (0, 1].
    epochs, max_steps: local passes over the data, and a cap on optimiser steps (0 = none).
    train_a, train_b: which factors have gradients this round.
    """

    tier: str
    depth: int
    density: float
    epochs: float
    max_steps: int
    train_a: bool
    train_b: bool

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
        )

    def slots(self, schema: AdapterSchema) -> tuple[Slot, ...]:
        """The slots inside this plan's depth."""
        return tuple(slot for slot in schema.slots if slot.layer >= schema.layers - self.depth)

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


def steps_of(rows: int, batch_size: int, epochs: float, max_steps: int) -> int:
    """Optimiser steps of one local training: epochs * ceil(rows / batch_size), rounded, at least 1, at most
    max_steps (0: no cap).
    """
    steps = max(1, round(epochs * math.ceil(rows / batch_size)))
    return min(steps, max_steps) if max_steps else steps
