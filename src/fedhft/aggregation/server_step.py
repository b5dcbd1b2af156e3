"""What the server makes of a round's mean difference D, row by row of a factor, the head or the weights.

    plain       step = D
    momentum    m = momentum m + D;                 step = m            FedAvgM (Hsu et al. 2019, arXiv 1909.06335)
    adaptive    m = momentum m + (1 - momentum) D;  step = m / (sqrt(v) + adaptivity)
      adagrad     v = v + D^2                                           FedAdagrad, FedAdam, FedYogi (Reddi et al. 2021,
      adam        v = beta2 v + (1 - beta2) D^2                         arXiv 2003.00295, algorithm 2; there beta1 is
      yogi        v = v - (1 - beta2) D^2 sign(v - D^2)                 `momentum`, tau is `adaptivity`, v begins at
                                                                        tau^2)

Rows that nobody sent keep their m and v, and have no step. Products take `plain` and `momentum` (see `publish`).
"""

from __future__ import annotations

from collections.abc import MutableMapping

import numpy as np

from fedhft.adapter import Float32, Float64, TensorKey
from fedhft.aggregation.sums import RowStep
from fedhft.job import JobSpec
from fedhft.methods import ServerStep


def server_step(
    spec: JobSpec,
    mean: RowStep,
    key: TensorKey,
    momentum: MutableMapping[TensorKey, Float32],
    squares: MutableMapping[TensorKey, Float32],
) -> Float64:
    """The step of one tensor's sent rows, float64 (sent rows x cols), before `server.eta`.

    momentum, squares: m and v of the scope's tensors, float32 (rows x cols); those of `key` are replaced.
    """
    kind, settings = spec.method.server, spec.server
    if kind is ServerStep.PLAIN:
        return mean.values
    rows = slice(None) if mean.index is None else mean.index
    shape = (mean.rows, mean.cols)
    weight = 1.0 - settings.momentum if kind.is_adaptive else 1.0
    m = _own(momentum.get(key), shape, 0.0)
    m[rows] = settings.momentum * m[rows].astype(np.float64) + weight * mean.values
    momentum[key] = m
    step: Float64 = m[rows].astype(np.float64)
    if not kind.is_adaptive:
        return step
    v = _own(squares.get(key), shape, settings.adaptivity**2)
    before, now = v[rows].astype(np.float64), np.square(mean.values)
    if kind is ServerStep.ADAGRAD:
        v[rows] = before + now
    elif kind is ServerStep.ADAM:
        v[rows] = settings.beta2 * before + (1.0 - settings.beta2) * now
    else:
        v[rows] = before - (1.0 - settings.beta2) * now * np.sign(before - now)
    squares[key] = v
    return step / (np.sqrt(v[rows].astype(np.float64)) + settings.adaptivity)


def _own(held: Float32 | None, shape: tuple[int, int], start: float) -> Float32:
    """A copy to write into: states of earlier versions stay as they are."""
    return np.full(shape, start, np.float32) if held is None else held.copy()
