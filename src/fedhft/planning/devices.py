"""What a device can do, and what a plan costs it: the quantities that planning by capacity compares.

A layer-step is one layer passed forward, or backward, for one batch of the job. A plan of depth k and s optimiser steps
takes device i

    t_i(k, s) = o_i + e_i r f_i + s (r f_i + k m_i) + fill_i (L - k) f_i / n + up(k) / u_i + down(k) / v_i      seconds

with r = k layers run where the frozen ones are kept (`training.prefix`), else all L; o_i what no plan changes; e_i
batches scored (0 in a plan that does not score); f_i, m_i seconds of a forward and a backward layer-step; fill_i
batches that are passed through the frozen layers once, spread over the n rounds that are left; up, down bytes of an
update and of a version at that depth; u_i, v_i bytes per second.

Liu et al. 2024 (LEGEND, arXiv 2412.20004) choose depth and ranks per device from capacities it measures; only the
abstract's account of how was at hand, so this is our reconstruction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedhft.adapter import Float64


@dataclass(frozen=True)
class Device:
    """One client as the planner sees it.

    mass: its weight q_i > 0 in averages. steps: optimiser steps of one epoch, or the job's cap if that is less, >= 1.
    forward, backward: seconds per layer-step. fixed: seconds of a round that no plan changes. scoring: batches scored
    in a round that scores. fill: batches passed through the frozen layers once, 0 where they are kept already or not at
    all. up, down: bytes per second. deepest: the greatest depth that it has memory for, >= 1. keeps: whether frozen
    layers are run once and kept. due: whether it sat out as often in a row as it may, and must take part.
    """

    mass: float
    steps: int
    forward: float
    backward: float
    fixed: float
    scoring: float
    fill: float
    up: float
    down: float
    deepest: int
    keeps: bool = True
    due: bool = False

    @property
    def ability(self) -> tuple[float, ...]:
        """Everything that lets it do more, each the larger the better."""
        return (
            -self.forward, -self.backward, -self.fixed, -self.scoring, -self.fill, self.up, self.down,
            float(self.deepest), float(self.keeps),
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Work:
    """What is to be planned, the same for all devices; arrays have one place per layer, the lowest first.

    gains: what each layer still has to learn, >= 0, in any unit. up_bytes, down_bytes: of an update and of a version
    with adapters on the last 1, 2, .. L layers. rounds: that are left, >= 1.
    """

    gains: Float64
    up_bytes: Float64
    down_bytes: Float64
    rounds: int

    @property
    def layers(self) -> int:
        """Layers L of the model."""
        return len(self.gains)


@dataclass(frozen=True, eq=False)
class Costs:
    """Seconds of plans: of device i (row) at depth k (column k - 1).

    once: of a round without steps and scoring. scoring: of scoring once. step: of one optimiser step.
    """

    once: Float64
    scoring: Float64
    step: Float64


def costs(devices: Sequence[Device], work: Work) -> Costs:
    """Seconds of every depth for every device, (n x L) each."""
    depth = np.arange(1, work.layers + 1, dtype=np.float64)[None, :]
    column = {
        name: np.array([float(getattr(device, name)) for device in devices])[:, None]
        for name in ("forward", "backward", "fixed", "scoring", "fill", "up", "down", "keeps")
    }
    run = np.where(column["keeps"] > 0, depth, work.layers)
    kept_once = column["keeps"] * column["fill"] * (work.layers - depth) * column["forward"] / work.rounds
    wire = work.up_bytes[None, :] / column["up"] + work.down_bytes[None, :] / column["down"]
    return Costs(
        once=column["fixed"] + kept_once + wire,
        scoring=column["scoring"] * run * column["forward"],
        step=run * column["forward"] + depth * column["backward"],
    )
