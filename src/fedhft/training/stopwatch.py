"""How long a network's passes take, per layer and batch: what planning by capacity estimates a device from.

A pass of n rows through l layers is l n / batch_size layer-steps, so that scoring in larger batches and training count
alike. Embeddings and head are part of the layers' time. On accelerators passes are only begun when they are counted, so
forward is short there and backward, which is waited for, long; their sum is what plans go by.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fedhft.v1 import capacity_pb2


@dataclass
class Passes:
    """Passes of one kind. layer_rows: rows times the layers that they passed."""

    seconds: float = 0.0
    layer_rows: int = 0

    @contextmanager
    def running(self, layer_rows: int = 0) -> Iterator[None]:
        """Counts what is inside."""
        begun = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - begun
        self.layer_rows += layer_rows


class Stopwatch:
    """What passed since `take`."""

    def __init__(self) -> None:
        self.forward = Passes()
        self.backward = Passes()
        self.fill = Passes()
        """Of forward: passing rows through the frozen layers once."""

    def take(self, batch_size: int) -> capacity_pb2.Durations:
        """What was counted, as a message; counting begins anew. batch_size: rows of a batch of the job."""
        forward, backward, fill = self.forward, self.backward, self.fill
        self.forward, self.backward, self.fill = Passes(), Passes(), Passes()
        return capacity_pb2.Durations(
            forward_seconds=forward.seconds,
            forward_layer_steps=(forward.layer_rows + fill.layer_rows) / batch_size,
            backward_seconds=backward.seconds,
            backward_layer_steps=backward.layer_rows / batch_size,
            fill_seconds=fill.seconds,
        )
