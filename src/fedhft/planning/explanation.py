"""Why a device was planned what it was: the terms of its seconds, and what keeps it from doing more, with figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fedhft.adapter import AdapterSchema
from fedhft.job import JobSpec
from fedhft.planning.allocation import Allocated, Candidate, device_of, work_of
from fedhft.planning.coming_round import PASSED
from fedhft.planning.devices import Device, Work, costs
from fedhft.planning.estimates import Capacity
from fedhft.planning.planned import Bound, Planned

_CLEARLY = 1.001
"""Seconds are added up in another order here than when plans are made."""
_WORTH_SAYING_S = 0.1


@dataclass(frozen=True)
class Explained:
    """One client's plan. Seconds are of its round; planned: None where nothing was planned for it yet."""

    client: str
    candidate: Candidate
    planned: Planned | None
    training: float
    scoring: float
    fill: float
    link: float
    fixed: float
    why: str

    @property
    def seconds(self) -> float:
        """Of all."""
        return self.training + self.scoring + self.fill + self.link + self.fixed


def explain(
    spec: JobSpec,
    schema: AdapterSchema,
    number: int,
    candidates: Mapping[str, Candidate],
    capacities: Mapping[str, Capacity],
    allocated: Allocated,
) -> list[Explained]:
    """Every candidate's plan, by what is known of devices now; in the order of their names."""
    work = work_of(spec, schema, spec.rounds.total - number + 1).over(allocated.rounds)
    found = []
    length = _length(spec, candidates, capacities, allocated, work)
    for client, candidate in sorted(candidates.items()):
        known, own = capacities.get(client), allocated.plan_of(client)
        measured = known is not None and known.is_measured
        if known is None or not measured or own is None:
            since = "has been measured since the plans were made" if measured else "has not been measured yet"
            why = f"{since}: until it is planned for, it trains what its tier says"
            found.append(Explained(client, candidate, None, 0.0, 0.0, 0.0, 0.0, 0.0, why))
            continue
        device = device_of(spec, candidate, known)
        found.append(_explained(client, candidate, device, own, work, allocated, length, spec.planning.sits_out))
    return found


def _length(
    spec: JobSpec,
    candidates: Mapping[str, Candidate],
    capacities: Mapping[str, Capacity],
    allocated: Allocated,
    work: Work,
) -> float:
    """Seconds of the coming round: the horizon, or what the slowest plan takes by what is known now."""
    length = allocated.horizon
    for client in candidates.keys() & allocated.plans.keys() & capacities.keys():
        plan, known = allocated.plans[client], capacities[client]
        if plan.steps and known.is_measured:
            device = device_of(spec, candidates[client], known)
            length = max(length, _Seconds(device, work, plan.depth).by_itself(plan.steps, plan.scores))
    return length


def _explained(
    client: str,
    candidate: Candidate,
    device: Device,
    own: Planned,
    work: Work,
    allocated: Allocated,
    length: float,
    sits_out: int,
) -> Explained:
    least = work.least_steps(device.steps)
    if not own.steps:
        depth = work.shallowest(device)
        layers = "one layer" if depth == 1 else f"{depth} layers"
        took = _Seconds(device, work, depth)
        would = took.of_plan(least, False)
        why = (
            f"too slow for rounds of {allocated.horizon:.3g} s: the least there is, {layers} and {least} of "
            f"{device.steps} steps, would take {would:.3g} s{_passing(took, False)}; sits out, round "
            f"{allocated.absent.get(client, 1)} of at most {sits_out} in a row"
        )
        return Explained(client, candidate, own, 0.0, 0.0, 0.0, 0.0, 0.0, why)
    run = own.depth if device.keeps else work.layers
    link = device.sends * work.up_bytes[own.depth - 1] / device.up + work.down_bytes[own.depth - 1] / device.down
    return Explained(
        client=client,
        candidate=candidate,
        planned=own,
        training=own.steps * (run * device.forward + own.depth * device.backward),
        scoring=device.scoring * run * device.forward if own.scores else 0.0,
        fill=_Seconds(device, work, own.depth).filling(own.steps, own.scores),
        link=float(link),
        fixed=device.fixed,
        why=_why(client, device, own, work, allocated, length) + _besides(candidate, device, own),
    )


def _why(client: str, device: Device, own: Planned, work: Work, allocated: Allocated, length: float) -> str:
    rounds = f"rounds of {allocated.horizon:.3g} s"
    took = _Seconds(device, work, own.depth)
    match own.bound:
        case Bound.NOTHING:
            return "trains all layers and makes all steps"
        case Bound.MEMORY:
            layers = f"{device.deepest} layer{'s' if device.deepest > 1 else ''}"
            return f"has memory for {layers}, or its owner allows no more"
        case Bound.TURN:
            return (
                f"too slow for {rounds}; it has sat out, or only its trial is known, so everybody waits for its least "
                "plan once"
            )
        case Bound.FILLING:
            return _while_filling(device, own, allocated.plans[client], rounds)
        case Bound.SCORING:
            scoring = _too_long("does not score versions: with that", took, own.steps, True, allocated.horizon)
            return f"{scoring}; {_within(client, device, own, work, allocated, length)}"
        case _:
            return _within(client, device, own, work, allocated, length)


def _within(client: str, device: Device, own: Planned, work: Work, allocated: Allocated, length: float) -> str:
    """Of a device that fills the round: what one more layer or step would take."""
    took, turn = _Seconds(device, work, own.depth), client in allocated.turns
    now = took.of_coming_round(own.steps, own.scores) if turn else took.of_plan(own.steps, own.scores)
    limit = length if turn else allocated.horizon
    if now > _CLEARLY * limit:
        rounds = f"rounds of {allocated.horizon:.3g} s"
        return f"fills {rounds}, by what was known when it was planned; by what is known now it takes {now:.3g} s"
    if own.steps >= device.steps:
        deeper = _Seconds(device, work, min(own.depth + 1, work.layers))
        return _too_long("with one more layer", deeper, device.steps, own.scores, allocated.horizon)
    more = own.steps + 1
    if turn:
        would = took.of_coming_round(more, own.scores)
        if would > limit:
            longer, this = _apart(would, length)
            return f"with one more step it would take {longer} s, and this round takes {this} s"
    return _too_long("with one more step", took, more, own.scores, allocated.horizon)


def _too_long(what: str, took: _Seconds, steps: int, scores: bool, horizon: float) -> str:
    would = took.of_plan(steps, scores)
    if would > horizon:
        longer, rounds = _apart(would, horizon)
        return f"{what} it would take {longer} s{_passing(took, scores)}, more than rounds of {rounds} s"
    return (
        f"{what} it would have taken longer than rounds of {horizon:.3g} s, by what was known when it was planned; by "
        f"what is known now {would:.3g} s"
    )


def _apart(longer: float, shorter: float) -> tuple[str, str]:
    """Both with three digits, or as many more as tell them apart."""
    found = [(f"{longer:.{digits}g}", f"{shorter:.{digits}g}") for digits in range(3, 9)]
    return next((one for one in found if one[0] != one[1]), found[-1])


def _passing(took: _Seconds, scores: bool) -> str:
    """How much of what a plan would take is for rows that have not passed the layers below its depth."""
    seconds = took.filling_spread(scores)
    return f" ({seconds:.3g} s of them for rows to pass the layers below, once)" if seconds >= _WORTH_SAYING_S else ""


def _besides(candidate: Candidate, device: Device, own: Planned) -> str:
    """What there is to say of its steps besides."""
    if device.steps < candidate.steps and own.steps == device.steps:
        return f"; its owner allows {device.steps} of the {candidate.steps} steps that an epoch has"
    more = own.steps - candidate.steps
    return f"; makes {more} step{'s' if more > 1 else ''} more than an epoch has, rather than wait" if more > 0 else ""


def _while_filling(device: Device, own: Planned, plan: Planned, rounds: str) -> str:
    kept = device.kept_at(own.depth)
    rows = f"{1 - kept:.0%} of its rows" if kept < PASSED else "the rows that it scores"
    now = f"{own.steps} steps" + (", no scores" if plan.scores and not own.scores else "")
    later = f"{plan.steps} of {device.steps} steps" + (" and scores" if plan.scores else "")
    return (
        f"{rows} still have to pass the layers that it does not train, once, within {rounds}: {now} in this one, then "
        f"{later}"
    )


class _Seconds:
    """What a device takes at a depth for so many steps, scoring or not."""

    def __init__(self, device: Device, work: Work, depth: int) -> None:
        self._costs, self._at, self._epoch = costs([device], work), (0, depth - 1), device.batches

    def by_itself(self, steps: int, scores: bool) -> float:
        """As if all rows had passed the frozen layers."""
        found, at = self._costs, self._at
        return float(found.once[at] + scores * found.scoring[at] + steps * found.step[at])

    def filling(self, steps: int, scores: bool) -> float:
        """In the coming round for rows that have not passed them yet."""
        found, at = self._costs, self._at
        return float(min(steps, self._epoch) * found.first_step[at] + scores * found.first_scores[at])

    def of_coming_round(self, steps: int, scores: bool) -> float:
        """Of the coming round."""
        return self.by_itself(steps, scores) + self.filling(steps, scores)

    def of_plan(self, steps: int, scores: bool) -> float:
        """Of a round as planned: filling is spread over those to the target."""
        return self.by_itself(steps, scores) + self.filling_spread(scores)

    def filling_spread(self, scores: bool) -> float:
        """In each round to the target, for rows that have not passed them yet."""
        found, at = self._costs, self._at
        return float(found.filling[at] + scores * found.filling_scored[at])
