"""What devices do in the coming round in place of their plans: as much as fits its length, whatever is left to pass.

Plans spread the rows that have to pass the frozen layers over the rounds to the target (`horizon`). In a round itself a
device whose rows are still to pass makes fewer steps than planned, one whose rows have passed more: as many as fit

    s <= (T - o - e - d) / (c + r)  up to an epoch,  then  (T - o - e - d - B r) / c

with o + e its seconds without steps, d those of rows to score that have not passed, c of a step, r of a step's rows
that have not passed, B the batches of its rows (`devices`). T is the horizon of the plans, or how long the slowest of
them takes by what is known now, if that is more: nobody is waited for less by doing less. Who has made all steps of
the job's epochs by then makes up to `Device.extra` more rather than wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fedhft.adapter import Float64
from fedhft.planning.devices import Device, Work, costs
from fedhft.planning.monotone import never_more_for_worse
from fedhft.planning.planned import Bound, Planned

PASSED = 0.99
"""Share of rows from which all have passed: rounds of less than an epoch draw the last ones only in the long run."""
_ROUNDING = 1e-9


def in_coming_round(devices: Sequence[Device], plans: Sequence[Planned], horizon: float, work: Work) -> list[Planned]:
    """What each device does; its plan itself where that is what fits, and where steps are not planned.

    Every plan has steps; depths stay. A device makes at least one step. It gives up scoring where that would leave it
    less than its least share of steps, unless all its training rows have passed: that round, in which it scores for the
    first time at a depth, is the only one that is longer. One that is planned not to score does, where it fits.
    """
    if not plans or work.least >= 1.0:
        return list(plans)
    round_ = _Round.of(devices, plans, work)
    horizon = max(horizon, float(round_.by_itself.max()))
    scored, bare = round_.steps_within(horizon, scores=True), round_.steps_within(horizon, scores=False)
    passed = np.array([device.kept_at(plan.depth) >= PASSED for device, plan in zip(devices, plans, strict=True)])
    most = np.array([device.steps + device.extra for device in devices])
    planned = np.array([plan.steps for plan in plans])
    least = np.minimum(planned, [work.least_steps(device.steps) for device in devices])
    scores = np.where(round_.scores, (scored >= least) | passed, scored >= planned)
    steps = np.clip(np.where(scores, scored, bare), 1, most)
    found = [
        _told(device, plan, int(steps[place]), bool(scores[place]), work.layers)
        for place, (device, plan) in enumerate(zip(devices, plans, strict=True))
    ]

    def again(place: int, _depth: int, steps: int, _scores: bool) -> Planned:
        return replace(found[place], steps=steps)

    capped = never_more_for_worse(devices, found, work.layers, again)
    seconds = round_.seconds(capped)
    return [
        plan if (plan.steps, plan.scores) == (now.steps, now.scores) else replace(now, seconds=took)
        for plan, now, took in zip(plans, capped, seconds.tolist(), strict=True)
    ]


def _told(device: Device, plan: Planned, steps: int, scores: bool, layers: int) -> Planned:
    """The plan with other steps, and what binds it now; its seconds are not worked out."""
    if steps < plan.steps or scores < plan.scores:
        bound = Bound.FILLING
    elif not scores:
        bound = Bound.SCORING
    elif steps < device.steps or plan.depth < min(device.deepest, layers):
        bound = Bound.HORIZON
    else:
        bound = Bound.NOTHING if plan.depth == layers else Bound.MEMORY
    return replace(plan, steps=steps, scores=scores, bound=bound)


@dataclass(frozen=True, eq=False)
class _Round:
    """Seconds of the coming round of each device at its plan's depth, (n) each: see `devices.Costs`."""

    once: Float64
    scoring: Float64
    step: Float64
    first_scores: Float64
    first_step: Float64
    epoch: Float64
    planned: Float64
    scores: NDArray[np.bool_]

    @classmethod
    def of(cls, devices: Sequence[Device], plans: Sequence[Planned], work: Work) -> _Round:
        found = costs(devices, work)
        at = (np.arange(len(plans)), np.array([plan.depth for plan in plans]) - 1)
        return cls(
            found.once[at], found.scoring[at], found.step[at], found.first_scores[at], found.first_step[at],
            np.array([float(device.batches) for device in devices]), np.array([float(plan.steps) for plan in plans]),
            np.array([plan.scores for plan in plans]),
        )  # fmt: skip

    @property
    def by_itself(self) -> Float64:
        """Of the plans, as if all rows had passed."""
        return self.once + self.scores * self.scoring + self.planned * self.step

    def steps_within(self, horizon: float, *, scores: bool) -> NDArray[np.int64]:
        """Most steps that are done by then; 0 or fewer for none."""
        rest = horizon * (1.0 + _ROUNDING) - self.once - scores * (self.scoring + self.first_scores)
        steps = np.floor(rest / (self.step + self.first_step) + _ROUNDING)
        more = np.floor((rest - self.epoch * self.first_step) / self.step + _ROUNDING)
        return np.where(steps < self.epoch, steps, more).astype(np.int64)

    def seconds(self, plans: Sequence[Planned]) -> Float64:
        """Of other plans for the same devices at the same depths."""
        steps, scores = np.array([plan.steps for plan in plans]), np.array([plan.scores for plan in plans])
        filling = np.minimum(steps, self.epoch) * self.first_step + scores * self.first_scores
        took: Float64 = self.once + scores * self.scoring + steps * self.step + filling
        return took
