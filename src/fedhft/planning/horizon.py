"""Depth and local steps per device, by fewest seconds to a target: planning by capacity (our reconstruction of LEGEND).

A round takes as long as its slowest device, T. Given T, a device that holds the last k layers makes as many steps as
fit, s = min(S, floor((T - rest) / step)), S being those of the job's epochs, and takes the k for which s^p x gains in
depth is largest. With B batches of its rows, layer l is then trained per round as often as

    E_l = sum_i q_i (s_i / B_i)^p [l in the last k_i layers] / sum_i q_i               epochs of the whole federation
    N   = least n with  sum_l g_l (1 - exp(-a E_l n)) >= theta sum_l g_l               rounds to the target

and T is chosen for the fewest seconds T (N + 1), since what N rounds reach is scored in the round after them, of all T
at which some device gets one more depth, or its fewest or all steps. Largest progress per second would not do: it gives
every one of equal devices depth 1, since the first layer always pays best, and never gets to what the others have to
learn.

A device that cannot make its least share of steps within T at any depth first stops scoring, then sits the round out;
no more than a quarter of the federation's mass may do either.

Rows pass the frozen layers when they are first drawn, so that the first rounds at a depth are longer than later ones.
Plans spread that over the N rounds; in a round itself a device makes as many steps as fit T with what is left to pass
(`coming_round`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fedhft.adapter import Float64
from fedhft.planning.devices import Costs, Device, Work, costs
from fedhft.planning.monotone import never_more_for_worse
from fedhft.planning.planned import Bound, Planned

LEAST_MASS = 0.75
"""Least share of the mass that takes part in a round, and that scores in it."""
TARGET = 0.8
"""theta: share of all there is to gain that rounds are counted to."""
LEARNING = 0.75
"""a: how fast a layer's gain is used up, per epoch of the whole federation."""
RETURNS = 0.75
"""p: what more local steps of a round add to it. Fitted, as `LEARNING`: one layer of MiniLM on SST-2 reached .79 in 2.5
rounds of whole epochs and in 7 of quarters, log(7 / 2.5) / log(4) = .74.
"""
_MOST_PLANS = 300_000
"""Plans of single devices that are compared: a large fleet gets fewer horizons, evenly spread, not a slow planner."""
_FEWEST_HORIZONS = 64
_HALVINGS = 40
_NEVER_ROUNDS = 1e9
"""Rounds to a target that is never reached."""
_ROUNDING = 1e-9
_NEVER = 1e-6
"""Epochs per round below which a layer is not trained."""


@dataclass(frozen=True)
class Schedule:
    """Plans for all: client -> plan, in the order of the devices. horizon: T, seconds. rounds: N, to the target.

    over: rounds over which seconds have filling spread.
    """

    plans: Mapping[str, Planned]
    horizon: float
    rounds: float
    over: int = 1

    @property
    def waiting(self) -> float:
        """Mean share of the horizon that those who take part wait for the slowest."""
        taken = [one.seconds for one in self.plans.values() if one.steps]
        return 1.0 - sum(taken) / len(taken) / self.horizon if taken and self.horizon > 0 else 0.0


def schedule(devices: Mapping[str, Device], work: Work) -> Schedule:
    """The plans of fewest seconds to the target. Needs a device; the order of devices changes nothing.

    Raises ValueError without devices.
    """
    if not devices:
        raise ValueError("devices: none to plan for")
    names = sorted(devices)
    ordered = [devices[name] for name in names]
    fleet, best, rounds = _planned(ordered, work)
    if rounds < work.rounds:
        work = work.over(rounds)
        fleet, best, rounds = _planned(ordered, work)
    plans = dict(zip(names, never_more_for_worse(ordered, fleet.plans(best), work.layers, fleet.planned), strict=True))
    took = max((one.seconds for one in plans.values()), default=0.0)
    return Schedule({name: plans[name] for name in devices}, took, min(rounds, _NEVER_ROUNDS), work.rounds)


def least_plan(device: Device, work: Work) -> Planned:
    """The least that a device can be asked for, however long it takes: as few layers and steps as can be, no scores."""
    fleet = _Fleet([device], work)
    least = fleet.planned(0, work.shallowest(device), work.least_steps(device.steps), False)
    return replace(least, bound=Bound.TURN)


def _planned(devices: list[Device], work: Work) -> tuple[_Fleet, float, float]:
    """The fleet, the best horizon, and its rounds to the target."""
    fleet = _Fleet(devices, work)
    best = _fewest_seconds(fleet, fleet.horizons())
    return fleet, best, float(fleet.rounds(np.array([best]))[0])


class _Fleet:
    """All devices' costs as arrays, and what they would do within a horizon."""

    def __init__(self, devices: list[Device], work: Work) -> None:
        self.work = work
        self.costs: Costs = costs(devices, work)
        self.once = self.costs.once + self.costs.filling
        self.scoring = self.costs.scoring + self.costs.filling_scored
        layers = work.layers
        self.full = np.array([float(device.steps) for device in devices])
        self.batches = np.array([float(device.batches) for device in devices])
        self.least = np.array([float(work.least_steps(device.steps)) for device in devices])
        self.deepest = np.array([min(device.deepest, layers) for device in devices])
        depths = np.arange(1, layers + 1)[None, :]
        shallowest = np.array([work.shallowest(device) for device in devices])
        self.fits = (depths <= self.deepest[:, None]) & (depths >= shallowest[:, None])
        mass = np.array([device.mass for device in devices])
        self.share = mass / mass.sum()
        self.reach = np.cumsum(work.gains[::-1])

    def horizons(self) -> Float64:
        """Candidates for T, ascending: times of each device's least and whole work, with and without scoring."""
        base = self.once
        found = [
            (base + scored * self.scoring + steps[:, None] * self.costs.step)[self.fits]
            for scored in (0.0, 1.0)
            for steps in (self.least, self.full)
        ]
        values = np.unique(np.concatenate(found)) * (1.0 + _ROUNDING)
        most = max(_FEWEST_HORIZONS, _MOST_PLANS // len(self.full))
        if len(values) > most:
            values = values[np.linspace(0, len(values) - 1, most).round().astype(np.int64)]
        return np.asarray(values, np.float64)

    def within(self, horizon: float) -> tuple[NDArray[np.int64], Float64, NDArray[np.bool_]]:
        """Depth (0: sits out), steps and whether it scores, of every device within one horizon."""
        depth, steps = self._best(horizon, scored=True)
        scores = depth > 0
        if not scores.all():
            bare_depth, bare_steps = self._best(horizon, scored=False)
            depth, steps = np.where(scores, depth, bare_depth), np.where(scores, steps, bare_steps)
        return depth, steps, scores

    def _best(self, horizon: float, *, scored: bool) -> tuple[NDArray[np.int64], Float64]:
        rest = self.once + (self.scoring if scored else 0.0)
        steps = np.minimum(self.full[:, None], np.floor((horizon - rest) / self.costs.step + _ROUNDING))
        possible = self.fits & (steps >= self.least[:, None])
        value = np.where(possible, np.maximum(steps, 0.0) ** RETURNS * self.reach[None, :], -1.0)
        column = value.argmax(axis=1)
        chosen = np.take_along_axis(steps, column[:, None], axis=1)[:, 0]
        able = possible.any(axis=1)
        return np.where(able, column + 1, 0), np.where(able, chosen, 0.0)

    def rates(self, horizon: float) -> Float64 | None:
        """E_l within a horizon; None where too little of the mass takes part or scores."""
        depth, steps, scores = self.within(horizon)
        if self.share[scores].sum() < LEAST_MASS - _ROUNDING:
            return None
        done = self.share * (steps / self.batches) ** RETURNS
        by_depth = np.bincount(depth, done, self.work.layers + 1)
        # Layer l (0-based) is in depth k where k >= L - l: the sum of all deeper ones.
        deeper = np.cumsum(by_depth[::-1])[: self.work.layers]
        return np.asarray(deeper, np.float64)

    def rounds(self, horizons: Float64) -> Float64:
        """N of each horizon; inf where it cannot be held or the target is never reached."""
        found = [self.rates(float(horizon)) for horizon in horizons]
        rounds = np.full(len(horizons), np.inf)
        able = [place for place, rate in enumerate(found) if rate is not None]
        if able:
            rates = np.stack([rate for rate in found if rate is not None])
            rounds[able] = rounds_to_target(self.work.gains, rates)
        return rounds

    def plans(self, horizon: float) -> list[Planned]:
        """What everybody does within a horizon."""
        depth, steps, scores = self.within(horizon)
        return [
            self.planned(place, int(depth[place]), int(steps[place]), bool(scores[place]))
            for place in range(len(depth))
        ]

    def planned(self, place: int, depth: int, steps: int, scores: bool) -> Planned:
        """One device's plan with its seconds and its bound."""
        if depth == 0:
            return Planned(0, 0, False, 0.0, Bound.ABSENT)
        column = depth - 1
        seconds = self.once[place, column] + steps * self.costs.step[place, column]
        seconds += self.scoring[place, column] if scores else 0.0
        if not scores:
            bound = Bound.SCORING
        elif steps < self.full[place]:
            bound = Bound.HORIZON
        elif depth == self.work.layers:
            bound = Bound.NOTHING
        else:
            bound = Bound.MEMORY if depth == self.deepest[place] else Bound.HORIZON
        return Planned(depth, steps, scores, float(seconds), bound)


def rounds_to_target(gains: Float64, rates: Float64) -> Float64:
    """N for each row of rates E (m x L), as in the module; inf where the target is never reached."""
    total = float(gains.sum())
    if total <= 0.0:
        return np.ones(len(rates))
    wanted = TARGET * total
    reachable = (gains[None, :] * (rates > _NEVER)).sum(axis=1) > wanted
    low, high = np.zeros(len(rates)), np.full(len(rates), 1.0)

    def gained(rounds: Float64) -> Float64:
        left: Float64 = (gains[None, :] * -np.expm1(-LEARNING * rates * rounds[:, None])).sum(axis=1)
        return left

    for _ in range(_HALVINGS):
        short = reachable & (gained(high) < wanted)
        if not short.any():
            break
        high = np.where(short, 2.0 * high, high)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        enough = gained(middle) >= wanted
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return np.where(reachable, high, np.inf)


def _fewest_seconds(fleet: _Fleet, horizons: Float64) -> float:
    """The horizon with least T (N + 1), as what N rounds reach is scored in the round after them; where no horizon
    reaches the target, the one that all can hold with most work.
    """
    seconds = horizons * (fleet.rounds(horizons) + 1.0)
    return float(horizons[int(seconds.argmin()) if np.isfinite(seconds).any() else -1])
