"""How far one client can move a round: its weight and the size of its update are bounded by the others' medians.

    q_i = min(samples_i, sample_cap median_k samples_k)                 over the round's participants, when it opens
    x_i <- x_i min(1, clip median_k(s_k) / s_i),  s_i = |x_i| / sqrt(n_i)    over its updates, when it is folded

|x_i| is the Frobenius norm of an update and n_i the number of values its plan has, so updates of other depth and
density are compared by what they have in common, their root mean square. Clipping at a multiple of the median norm is
known from robust aggregation (e.g. Sun et al. 2019, "Can you really backdoor federated learning?", arXiv 1911.07963,
clip at a fixed norm; Karimireddy et al. 2021, "Learning from history", arXiv 2012.10333, around a centre). Both
medians are low ones: of two clients the smaller counts, so half of a round cannot lift them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median_low


@dataclass(frozen=True)
class Magnitude:
    """How large one update is."""

    norm: float
    """Frobenius norm of all that it carries."""
    values: int
    """Values that its plan has, >= 0."""

    @property
    def rms(self) -> float:
        """Root mean square over the plan's values; 0 for a plan without any."""
        return self.norm / math.sqrt(self.values) if self.values else 0.0


def masses(samples: Mapping[str, int], cap: float) -> dict[str, float]:
    """q_i by client: its samples, at most `cap` times the median; cap 0 leaves them as they are."""
    if not cap or not samples:
        return {client: float(count) for client, count in samples.items()}
    most = cap * median_low(samples.values())
    return {client: min(float(count), most) for client, count in samples.items()}


def scales(magnitudes: Mapping[str, Magnitude], clip: float) -> dict[str, float]:
    """Factor in (0, 1] by which each update is scaled down; clip 0 leaves all as they are.

    Updates of norm 0 are not counted for the median: who sends nothing does not make others small.
    """
    sizes = {client: magnitude.rms for client, magnitude in magnitudes.items()}
    known = [size for size in sizes.values() if size > 0]
    if not clip or not known:
        return dict.fromkeys(magnitudes, 1.0)
    most = clip * median_low(known)
    return {client: min(1.0, most / size) if size > 0 else 1.0 for client, size in sizes.items()}
