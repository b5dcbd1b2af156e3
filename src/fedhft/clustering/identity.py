"""Keeping clusters' identities: which new component is which old cluster."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from fedhft.adapter import Float64


def match(previous: Float64, current: Float64) -> NDArray[np.int64]:
    """For each previous mean the component that continues it: order with current[order[j]] near previous[j].

    The assignment with the least sum of squared distances (Kuhn 1955). Both are (J x D), in signature space, where
    means of different fits can be compared; principal components turn from fit to fit.
    """
    distances = np.square(previous[:, None, :] - current[None]).sum(axis=2)
    _, order = linear_sum_assignment(distances)
    return np.asarray(order, np.int64)
