"""Importance of rows: the mean squared mini-batch gradient of every row of every trained factor."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from fedhft.adapter import Float64, Part, TensorKey
from fedhft.training.device.state import wide
from fedhft.training.row_slices import Observer

_OTHER_AXIS = {Part.A: 0, Part.B: 1}  # the axis that is not masked, in PEFT's orientation


class Importance:
    """Sums |gradient of row d|^2 over the mini-batches it is shown."""

    def __init__(self) -> None:
        self._sums: dict[TensorKey, torch.Tensor] = {}
        self._seen: dict[TensorKey, int] = {}

    def observer(self, key: TensorKey) -> Observer:
        """A function that takes gradients of the whole factor `key`: (r x in) for A, (out x r) for B."""

        def observe(gradient: torch.Tensor) -> None:
            rows = wide(gradient.detach()).square().sum(_OTHER_AXIS[key.part], dtype=torch.float64)
            if key in self._sums:
                self._sums[key] += rows
            else:
                self._sums[key] = rows
            self._seen[key] = self._seen.get(key, 0) + 1

        return observe

    def means(self, divisors: Mapping[TensorKey, float] | None = None) -> dict[TensorKey, Float64]:
        """Mean per mini-batch, float64 (rows,), divided by its key's divisor (1 if none is given)."""
        out: dict[TensorKey, Float64] = {}
        for key, total in self._sums.items():
            divisor = (divisors or {}).get(key, 1.0) or 1.0
            out[key] = np.asarray(total.cpu().numpy(), np.float64) / (self._seen[key] * divisor)
        return out
