"""How many clusters, asked of unseen halves: do the others of my cluster predict my other half better than all do?

Every client's rows are in two halves, whose signatures u_i, v_i it sends; s_i = unit(u_i + v_i). Those with two halves
that say something vote, n of them. For J = 2 .. min(maximum, n // 2), and (x, y) in {(u, v), (v, u)}:

    z      the partition of x into J (`clustering.partition`)
    o_i    unit( sum of s_j over j != i with z_j = z_i )                  what the others of its cluster say
    a_i    unit( sum of s_j over j != i )                                 what all others say
    g_i(J) mean over both directions of <o_i - a_i, y_i> / sqrt( max( mean_k <u_k, v_k>, .02 ) );       g_i(1) = 0

J is out where there is no partition with two or more in every cluster. From J* = 1 on, in ascending order of J, with
d_i = g_i(J) - g_i(J*):

    J* <- J   where   mean d > .15  (.1 once J* > 1)   and   t = mean d / (sd d / sqrt n) > 2

The half y_i had no part in finding z, so clusters that fit the noise of x predict nothing. The divisor undoes what
noise of y_i itself takes from the product: a gain of 1 is that of clusters that say everything against all that say
nothing. Below mean <u, v> = .05 signatures are noise, and nothing is said. The rule is ours; the question is that of
cross-validated likelihood for mixtures (Smyth 2000). Its rate of false alarms is measured by
`python -m benchmarks.clusters --noise`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr

from fedhft.adapter import Float64
from fedhft.clustering.partition import Labels, evenly, partitions

FIRST_GAIN = 0.15
"""Gain that the first split takes."""
FURTHER_GAIN = 0.1
"""Gain over fewer clusters that each further one takes."""
LEAST_T = 2.0
LEAST_RELIABILITY = 0.05
"""Mean <u, v> below which signatures say nothing."""
_LEAST_DIVISOR = 0.02
_LARGEST_T = 1000.0
"""t of clients that all agree; their deviation may be 0."""


@dataclass(frozen=True)
class Tried:
    """One number of clusters J that was tried.

    gain: mean g_i(J). step: mean d_i, the gain over the best smaller number. t: of that step. A J that is out has none.
    """

    clusters: int
    gain: float
    step: float
    t: float


@dataclass(frozen=True)
class Verdict:
    """What the voters' halves say.

    clusters: J*; 1 where nothing is said. voters: n. reliability: mean <u, v>. held: gain of the number there is now
    over one fewer; None where it was not tried. certainty: of J* against one cluster, in [0, 1]: the probability that
    Student's t with n - 1 degrees of freedom stays below the t value of g(J*).
    """

    clusters: int
    voters: int
    reliability: float
    tried: tuple[Tried, ...] = ()
    held: float | None = None
    certainty: float = 0.0

    @property
    def says_something(self) -> bool:
        """Whether there were voters enough whose halves agree."""
        return self.voters >= 2 * 2 and self.reliability >= LEAST_RELIABILITY


def voting(first: Float64, second: Float64) -> NDArray[np.bool_]:
    """Which clients vote (n,): those neither of whose halves (n x D) is zeros."""
    return np.logical_and(first.any(axis=1), second.any(axis=1))


def verdict(first: Float64, second: Float64, most: int, present: int = 1) -> Verdict:
    """J* for the halves u, v (n x D, unit norm or zeros), at most `most`. present: the number of clusters there is now.

    certainty is that of `present` clusters where these are more than J*.
    """
    votes = np.flatnonzero(voting(first, second))
    asked = votes[evenly(len(votes))]
    u, v = first[asked], second[asked]
    clients = len(u)
    reliability = float(np.einsum("nd,nd->n", u, v).mean()) if clients else 0.0
    nothing = Verdict(1, clients, reliability)
    if not nothing.says_something:
        return nothing
    most = min(most, clients // 2)
    gains: dict[int, Float64] = {1: np.zeros(clients)}
    tried: list[Tried] = []
    best = 1
    numbers = range(2, most + 1)
    for clusters, *found in zip(numbers, partitions(u, numbers), partitions(v, numbers), strict=True):
        gain = gains_of(clusters, found, u, v)
        if gain is None:
            continue
        gains[clusters] = gain
        step = gain - gains[best]
        one = Tried(clusters, float(gain.mean()), float(step.mean()), t_value(step))
        tried.append(one)
        if one.step > (FIRST_GAIN if best == 1 else FURTHER_GAIN) and one.t > LEAST_T:
            best = clusters
    held = None
    if present > 1 and present <= most:
        # A number that is out splits off single clients, and gains nothing.
        fewer = max(J for J in gains if present > J)
        held = float((gains[present] - gains[fewer]).mean()) if present in gains else 0.0
    judged = gains.get(max(best, present), gains[best])
    certainty = float(stdtr(clients - 1, t_value(judged))) if max(best, present) > 1 else 1.0
    return Verdict(best, clients, reliability, tuple(tried), held, certainty)


def gains_of(clusters: int, found: Sequence[Labels | None], first: Float64, second: Float64) -> Float64 | None:
    """g_i (n,) of J clusters found from either half: labels (n,); None where either is."""
    signatures = _unit(first + second)
    total = signatures.sum(axis=0)
    everybody = _unit(total - signatures)
    scale = math.sqrt(max(float(np.einsum("nd,nd->n", first, second).mean()), _LEAST_DIVISOR))
    gain = np.zeros(len(first))
    for labels, unseen in zip(found, (second, first), strict=True):
        if labels is None:
            return None
        sums = np.zeros((clusters, first.shape[1]))
        np.add.at(sums, labels, signatures)
        others = _unit(sums[labels] - signatures)
        gain += np.einsum("nd,nd->n", others - everybody, unseen) / (2.0 * scale)
    return gain


def t_value(values: Float64) -> float:
    """mean / (sd / sqrt n), at most 1000; of values that are all equal, 1000 times their sign."""
    mean = float(values.mean())
    error = float(values.std(ddof=1)) / math.sqrt(len(values))
    if error * _LARGEST_T <= abs(mean):
        return math.copysign(_LARGEST_T, mean) if mean else 0.0
    return mean / error


def _unit(rows: Float64) -> Float64:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: Float64 = rows / np.where(norms > 0.0, norms, 1.0)
    return unit
