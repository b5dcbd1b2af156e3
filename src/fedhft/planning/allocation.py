"""Allocation by capacity: what every client of a round trains, from what is known of its device.

The tier of a client bounds what capacity may give it: density, and the greatest depth. A client that nothing is known
of yet trains what its tier says. Plans stay as they are for `planning.every` rounds, and after that for as long as new
ones would not be a tenth faster to the target; they are made anew at once when a device changed a lot, a client came,
or one has sat out as long as it may.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from fedhft.adapter import AdapterSchema, Float64, Part
from fedhft.job import JobSpec
from fedhft.methods import Trained
from fedhft.plan import AdapterPlan
from fedhft.planning.coming_round import in_coming_round
from fedhft.planning.devices import SCORED_ONCE, Device, Work, costs, least_steps
from fedhft.planning.estimates import Capacity
from fedhft.planning.horizon import LEAST_MASS, Schedule, least_plan, schedule
from fedhft.planning.planned import Bound, Planned
from fedhft.planning.tiers import bands_of

BETTER = 0.9
"""Plans are replaced where new ones take at most this share of their seconds to the target."""
HOLDOUT_SHARE = 0.5
"""Batches scored per training batch, before a client has told: a fifth held out, scored before and after, and a share
of a common split."""


@dataclass(frozen=True)
class Candidate:
    """A client whose plan is wanted. steps: optimiser steps of its epochs, or the job's cap. batches: of its rows."""

    mass: float
    steps: int
    batches: int
    plan: AdapterPlan
    """What its tier gives it."""


@dataclass(frozen=True)
class Allocated:
    """Plans as they were made, kept in the store from round to round.

    made: the round they were made for. reason: why then, for people. horizon: seconds; rounds: to the target. plans:
    client -> plan. number: the round they were last used for. turns: who does something else in that round, and what:
    clients that sit out by `plans` and take part all the same, and those that have time for fewer or more steps, by the
    rows that still have to pass the frozen layers. absent: client -> rounds in a row that it has sat out. stale: why
    the plans do not hold any more; empty while they do.
    """

    made: int
    reason: str
    horizon: float
    rounds: float
    plans: Mapping[str, Planned] = field(default_factory=dict)
    number: int = 0
    turns: Mapping[str, Planned] = field(default_factory=dict)
    absent: Mapping[str, int] = field(default_factory=dict)
    stale: str = ""

    @property
    def waiting(self) -> float:
        """Mean share of round `number` that those who take part wait for the slowest."""
        coming = {**self.plans, **self.turns}
        return Schedule(coming, max((one.seconds for one in coming.values()), default=0.0), self.rounds).waiting

    def plan_of(self, client: str) -> Planned | None:
        """What a client does in round `number`; None where nothing was planned for it."""
        return self.turns.get(client) or self.plans.get(client)


def allocate(
    spec: JobSpec,
    schema: AdapterSchema,
    number: int,
    candidates: Mapping[str, Candidate],
    capacities: Mapping[str, Capacity],
    previous: Allocated | None,
) -> Allocated | None:
    """The plans for round `number`; None while no device was measured. Asked again for a round, it answers the same.

    Who sits out has its turn after `planning.sits_out` rounds, and when it is planned for the first time, by a trial
    alone: everybody waits for its least plan then, but nobody else's plan changes.
    """
    known = {name: one for name, one in candidates.items() if _measured(capacities.get(name))}
    if not known:
        return None
    if previous is not None and previous.number == number and known.keys() <= previous.plans.keys():
        return previous
    devices = {name: device_of(spec, one, capacities[name]) for name, one in known.items()}
    work = work_of(spec, schema, spec.rounds.total - number + 1, max(one.deepest for one in devices.values()))
    reason = _why_anew(spec, number, devices, previous)
    if previous is not None and not reason:
        kept = previous
    else:
        made = schedule(devices, work)
        # Those who are not asked this time keep what they had.
        plans = {**(previous.plans if previous else {}), **made.plans}
        kept = Allocated(number, reason, made.horizon, made.rounds, plans)
        if previous is not None and reason == _EVERY and not _is_better(made, previous, devices, work):
            kept = replace(previous, made=number)
    out = dict(previous.absent) if previous else {}
    idle = [name for name in devices if not kept.plans[name].steps]
    new = devices.keys() - (previous.plans.keys() if previous else set())
    turns = {
        name: _turn(devices[name], kept.horizon, work)
        for name in idle
        if out.get(name, 0) >= spec.planning.sits_out or (name in new and capacities[name].reports < _TRIAL_AND_ROUND)
    }
    absent = {name: rounds for name, rounds in out.items() if name not in devices}
    absent |= {name: out.get(name, 0) + 1 for name in idle if name not in turns}
    busy = [name for name in devices if kept.plans[name].steps]
    coming = in_coming_round([devices[name] for name in busy], [kept.plans[name] for name in busy], kept.horizon, work)
    turns |= {name: now for name, now in zip(busy, coming, strict=True) if now is not kept.plans[name]}
    return replace(kept, number=number, turns=turns, absent=absent)


def for_evaluation(
    candidates: Mapping[str, Candidate], capacities: Mapping[str, Capacity], previous: Allocated | None
) -> Mapping[str, Planned]:
    """What everybody does in the final evaluation: the steps of its plan, and as many layers as it has memory for,
    because all layers are what is exported.
    """
    plans = previous.plans if previous is not None else {}
    found = {}
    for client, one in candidates.items():
        known = capacities.get(client, Capacity())
        own = plans.get(client, Planned(one.plan.depth, one.steps, True, 0.0, Bound.NOTHING))
        found[client] = replace(own, depth=min(one.plan.depth, known.deepest or one.plan.depth))
    return found


def _turn(device: Device, horizon: float, work: Work) -> Planned:
    """The least that one that sits out is asked for, or more if that fits the horizon."""
    [now] = in_coming_round([device], [least_plan(device, work)], horizon, work)
    return replace(now, bound=Bound.TURN)


def within(spec: JobSpec, candidate: Candidate, own: Planned | None, evaluation: bool = False) -> AdapterPlan | None:
    """A client's plan: as allocated, as its tier says where nothing was (None), or None for one that sits out.

    In the final evaluation (`for_evaluation`) nobody sits out: as many steps as were allocated, and the fewest for one
    that would have sat out.
    """
    if own is None:
        return candidate.plan
    if evaluation:
        steps = own.steps or least_steps(spec.planning.least_steps, candidate.steps)
        return replace(candidate.plan, depth=own.depth, max_steps=_cap(spec, candidate, steps))
    if not own.steps:
        return None
    if own.steps > candidate.steps:
        return replace(candidate.plan, depth=own.depth, epochs=own.steps / candidate.batches)
    return replace(candidate.plan, depth=own.depth, max_steps=_cap(spec, candidate, own.steps))


def _cap(spec: JobSpec, candidate: Candidate, steps: int) -> int:
    """max_steps of a plan of so many steps: the job's own where they are all, so that such a plan is what it was."""
    return spec.training.max_steps if steps == candidate.steps else steps


def device_of(spec: JobSpec, candidate: Candidate, known: Capacity) -> Device:
    """A client's device as the planner sees it. known: measured. Links that were not measured cost nothing."""
    scoring = known.scoring if known.scoring is not None else HOLDOUT_SHARE * candidate.batches
    every = spec.evaluation.every
    both = spec.method.trained in (Trained.BOTH, Trained.INTERLEAVED)
    steps = min(candidate.steps, known.most_steps or candidate.steps)
    most = min(int(candidate.steps * spec.planning.most_steps + _ROUNDING), *_caps(spec, known))
    return Device(
        mass=candidate.mass,
        steps=steps,
        extra=max(0, most - steps),
        batches=candidate.batches,
        forward=known.forward or 0.0,
        backward=known.backward or 0.0,
        fixed=known.fixed or 0.0,
        scoring=scoring / every if every else 0.0,
        scored=SCORED_ONCE * scoring if every else 0.0,
        up=known.up or np.inf,
        down=known.down or np.inf,
        deepest=min(candidate.plan.depth, known.deepest or candidate.plan.depth),
        keeps=known.keeps,
        sends=candidate.plan.density * (1.0 if both else 0.5),
        kept=known.kept,
        scored_at=known.scored_at,
    )


def _caps(spec: JobSpec, known: Capacity) -> tuple[int, int]:
    """Most steps of a round that the job and the device's owner allow."""
    return spec.training.max_steps or _ANY_STEPS, known.most_steps or _ANY_STEPS


def work_of(spec: JobSpec, schema: AdapterSchema, rounds: int, deepest: int | None = None) -> Work:
    """What is to be planned. deepest: the most layers that any device can train (None: all): what lies below is out of
    reach, so that there is nothing to gain.

    Gains of layers are a rule, not a measurement: gradients times updates, and squared gradients, are alike in all
    layers once training is under way, while training few layers gains nearly as much as training all.

    What comes down are the bands that reach to the depth, or whole versions where there are none.
    """
    layers = schema.layers
    learnt: Float64 = spec.planning.gain_decay ** np.arange(layers - 1, -1, -1.0)
    learnt = np.where(np.arange(layers) >= layers - (deepest or layers), learnt, 0.0)
    values = np.zeros(layers)
    head = 0
    for key in schema.keys:
        size = int(np.prod(schema.shape(key)))
        if key.part in (Part.A, Part.B):
            values[schema.slot(key.name).layer] += size
        elif key.part is Part.HEAD:
            head += size
    from_the_output = np.cumsum(values[::-1]) + head
    up, down = bytes_per_value(spec, spec.wire.up), bytes_per_value(spec, spec.wire.down)
    ends = [band.depth for band in bands_of(spec, schema)]
    reached = [min((end for end in ends if end >= depth), default=layers) for depth in range(1, layers + 1)]
    return Work(
        gains=learnt,
        up_bytes=up * from_the_output,
        down_bytes=down * from_the_output[np.array(reached) - 1],
        rounds=max(1, rounds),
        least=spec.planning.least_steps,
        whole=not spec.planning.depth,
    )


def bytes_per_value(spec: JobSpec, encoding: str) -> float:
    """About how many bytes one value takes on the wire: levels of equal frequency, and a scale per group."""
    if encoding != "int8":
        return 4.0 if encoding == "fp32" else 2.0
    return float(np.log2(2 * spec.wire.levels + 1)) / 8 + 2.0 / spec.wire.group


_TRIAL_AND_ROUND = 2
_ANY_STEPS = 2**31 - 1
_ROUNDING = 1e-9
_EVERY = "planning.every rounds have passed"


def _measured(capacity: Capacity | None) -> bool:
    return capacity is not None and capacity.is_measured


def _why_anew(spec: JobSpec, number: int, devices: Mapping[str, Device], previous: Allocated | None) -> str:
    """Why plans are made anew for this round; empty where they are not."""
    if previous is None:
        return "the first"
    if new := sorted(devices.keys() - previous.plans.keys()):
        return f"{new[0]} has no plan yet" if len(new) == 1 else f"{len(new)} clients have no plan yet"
    shallow = [name for name, device in devices.items() if previous.plans[name].depth > device.deepest]
    if shallow:
        return f"{min(shallow)} has less memory than its plan needs"
    if previous.stale:
        return previous.stale
    busy = sum(device.mass for name, device in devices.items() if previous.plans[name].steps)
    if busy < LEAST_MASS * sum(device.mass for device in devices.values()):
        return "too few of those asked would take part"
    return _EVERY if number - previous.made >= spec.planning.every else ""


def _is_better(made: Schedule, previous: Allocated, devices: Mapping[str, Device], work: Work) -> bool:
    """Whether new plans get to the target in clearly less time than the old ones would with what is known now."""
    names = sorted(devices)
    now = costs([devices[name] for name in names], work.over(made.rounds))
    seconds = 0.0
    for place, name in enumerate(names):
        plan = previous.plans[name]
        if plan.steps:
            column = plan.depth - 1
            took = (now.once + now.filling)[place, column] + plan.steps * now.step[place, column]
            seconds = max(
                seconds, float(took + ((now.scoring + now.filling_scored)[place, column] if plan.scores else 0.0))
            )
    return made.horizon * (made.rounds + 1.0) < BETTER * seconds * (previous.rounds + 1.0)
