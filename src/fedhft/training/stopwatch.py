"""How long a network's passes take, per layer and batch: what planning by capacity estimates a device from.

A pass of n rows, padded to w tokens, through l layers is l n w / T layer-steps, where T is what the mean batch of an
epoch has (`batches.mean_tokens`). Of short texts a batch takes a tenth of what one of long ones takes: by rows alone a
round of a few steps would measure which rows it drew. Scoring in larger batches and training count alike. Embeddings
and head are part of the layers' time. On accelerators passes are only begun when they are counted, so
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
    """Passes of one kind. layer_tokens: tokens, with padding, times the layers that they passed."""

    seconds: float = 0.0
    layer_tokens: int = 0

    @contextmanager
    def running(self, layer_tokens: int = 0) -> Iterator[None]:
        """Counts what is inside."""
        begun = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - begun
        self.layer_tokens += layer_tokens


class Stopwatch:
    """What passed since `take`."""

    def __init__(self) -> None:
        self.forward = Passes()
        self.backward = Passes()
        self.fill = Passes()
        """Of forward: passing rows through the frozen layers once."""
        self.check = Passes()
        """Of forward: seeing that what is kept of a boundary serves."""
        self.scored = 0
        """Tokens that were scored, with padding."""

    def take(self, batch_tokens: float) -> capacity_pb2.Durations:
        """What was counted, as a message; counting begins anew. batch_tokens: of the mean batch of an epoch."""
        forward, backward, fill, check = self.forward, self.backward, self.fill, self.check
        scored, self.scored = self.scored, 0
        self.forward, self.backward, self.fill, self.check = Passes(), Passes(), Passes(), Passes()
        return capacity_pb2.Durations(
            forward_seconds=forward.seconds,
            forward_layer_steps=(forward.layer_tokens + fill.layer_tokens + check.layer_tokens) / batch_tokens,
            backward_seconds=backward.seconds,
            backward_layer_steps=backward.layer_tokens / batch_tokens,
            fill_seconds=fill.seconds,
            scoring_batches=scored / batch_tokens,
        )
