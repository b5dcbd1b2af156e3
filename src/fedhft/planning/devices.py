"""What a device can do, and what a plan costs it: the quantities that planning by capacity compares.

A layer-step is one layer passed forward, or backward, for the mean training batch of the client's rows. A plan of
depth k and s optimiser steps takes device i

    t_i(k, s) = o_i + e_i r f_i + s (r f_i + k m_i) + F_i(k) (L - k) f_i / n + up(k) / u_i + down(k) / v_i      seconds

with r = k layers run where the frozen ones are kept (`training.prefix`), else all L; o_i what no plan changes; e_i
batches scored (0 in a plan that does not score); f_i, m_i seconds of a forward and a backward layer-step; up, down
bytes of an update and of a version at that depth; u_i, v_i bytes per second.

F_i(k) are the batches that still have to pass the frozen layers once: with c_i(k) the share of rows that have,

    F_i(k) = B_i (1 - c_i(k)) + d_i(k)        B_i: batches of all its rows; d_i(k): of rows to score that have not

and n the rounds over which that is spread. In a round itself a row passes them when it is first drawn:

    t_i(k, s) = o_i + e_i r f_i + d_i(k) (L - k) f_i + s (r f_i + k m_i) + min(s, B_i) (1 - c_i(k)) (L - k) f_i + ..

Liu et al. 2024 (LEGEND, arXiv 2412.20004) choose depth and ranks per device from capacities it measures; only the
abstract's account of how was at hand, so this is our reconstruction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from fedhft.adapter import Float64

_ROUNDING = 1e-9
SCORED_ONCE = 0.6
"""Batches of different rows per batch scored: held-out rows are scored before and after, shared ones once."""


LEAST_STEPS = 0.25
"""Least share of an epoch's steps in a plan: fewer would give a device's data almost no say."""


@dataclass(frozen=True)
class Device:
    """One client as the planner sees it.

    mass: its weight q_i > 0 in averages. steps: most optimiser steps of a round, those of the job's epochs, or its cap
    if that is less, >= 1. extra: steps besides these, >= 0, that it makes rather than wait. batches: of all its
    training rows, >= 1. forward, backward: seconds per layer-step. fixed: seconds of a round that no plan changes.
    scoring: batches scored in a round that scores. scored: batches of the rows among them, each once. up, down: bytes
    per second. deepest: the greatest depth that it has memory for, >= 1. keeps: whether frozen layers are run once and
    kept. sends: share of a layer's values that its updates carry. kept: for depths 1, 2, .., share of training rows
    that have passed the frozen layers; those that are not listed: 0. scored_at: depths at which the rows to score have.
    """

    mass: float
    steps: int
    batches: int
    forward: float
    backward: float
    fixed: float
    scoring: float
    scored: float
    up: float
    down: float
    deepest: int
    keeps: bool = True
    sends: float = 1.0
    kept: tuple[float, ...] = ()
    scored_at: tuple[int, ...] = ()
    extra: int = 0

    def kept_at(self, depth: int) -> float:
        """Share of training rows that have passed the layers below the last `depth`."""
        return self.kept[depth - 1] if depth <= len(self.kept) else 0.0

    def ability(self, layers: int) -> tuple[float, ...]:
        """Everything that lets it do more of a model of so many layers, each the larger the better."""
        depths = range(1, layers + 1)
        return (
            -self.forward, -self.backward, -self.fixed, -self.scoring, -self.scored, self.up, self.down,
            float(self.deepest), float(self.keeps), -self.sends,
            *map(self.kept_at, depths), *(float(depth in self.scored_at) for depth in depths),
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Work:
    """What is to be planned, the same for all devices; arrays have one place per layer, the lowest first.

    gains: what each layer still has to learn, >= 0, in any unit. up_bytes, down_bytes: of an update and of a version
    with adapters on the last 1, 2, .. L layers. rounds: that are left, or over which filling is spread, >= 1. least:
    least share of its steps that a device makes. whole: whether all train as many layers as they have memory for.
    """

    gains: Float64
    up_bytes: Float64
    down_bytes: Float64
    rounds: int
    least: float = LEAST_STEPS
    whole: bool = False

    @property
    def layers(self) -> int:
        """Layers L of the model."""
        return len(self.gains)

    def least_steps(self, steps: int) -> int:
        """Fewest steps of a plan for a device with so many: its least share, at least one."""
        return least_steps(self.least, steps)

    def shallowest(self, device: Device) -> int:
        """Fewest layers that a device can be asked for."""
        return min(device.deepest, self.layers) if self.whole else 1

    def over(self, rounds: float) -> Work:
        """The same where the target is reached after so many rounds: filling is spread over no more of them."""
        return replace(self, rounds=max(1, math.ceil(rounds))) if rounds < self.rounds else self


def least_steps(share: float, steps: int) -> int:
    """So large a share of steps, in whole ones, at least one."""
    return max(1, math.ceil(share * steps - _ROUNDING))


@dataclass(frozen=True, eq=False)
class Costs:
    """Seconds of plans: of device i (row) at depth k (column k - 1).

    once: of a round without steps, scoring and filling. scoring: of scoring once. step: of one optimiser step. filling:
    a round's share of the training rows that still have to pass the frozen layers; filling_scored: of those to score.
    first_scores, first_step: what scoring and a step, each of an epoch, take besides in the coming round, because their
    rows have not.
    """

    once: Float64
    scoring: Float64
    step: Float64
    filling: Float64
    filling_scored: Float64
    first_scores: Float64
    first_step: Float64


def costs(devices: Sequence[Device], work: Work) -> Costs:
    """Seconds of every depth for every device, (n x L) each."""
    layers = work.layers
    depth = np.arange(1, layers + 1, dtype=np.float64)[None, :]
    names = ("batches", "forward", "backward", "fixed", "scoring", "scored", "up", "down", "keeps", "sends")
    column = {name: np.array([float(getattr(device, name)) for device in devices])[:, None] for name in names}
    run = np.where(column["keeps"] > 0, depth, layers)
    kept = np.array([[device.kept_at(k) for k in range(1, layers + 1)] for device in devices])
    below = column["keeps"] * (layers - depth) * column["forward"]
    unscored = np.array([[k not in device.scored_at for k in range(1, layers + 1)] for device in devices])
    first_step, first_scores = (1.0 - kept) * below, column["scored"] * unscored * below
    wire = column["sends"] * work.up_bytes[None, :] / column["up"] + work.down_bytes[None, :] / column["down"]
    return Costs(
        once=column["fixed"] + wire,
        scoring=column["scoring"] * run * column["forward"],
        step=run * column["forward"] + depth * column["backward"],
        filling=column["batches"] * first_step / work.rounds,
        filling_scored=first_scores / work.rounds,
        first_scores=first_scores,
        first_step=first_step,
    )
