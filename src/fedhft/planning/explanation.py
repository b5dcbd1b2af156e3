"""Why a device was planned what it was: the terms of its seconds, and what keeps it from doing more, with figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fedhft.adapter import AdapterSchema
from fedhft.job import JobSpec
from fedhft.planning.allocation import Allocated, Candidate, device_of, work_of
from fedhft.planning.devices import Device, Work, costs
from fedhft.planning.estimates import Capacity
from fedhft.planning.horizon import Bound, Planned


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
    for client, candidate in sorted(candidates.items()):
        known, own = capacities.get(client), allocated.plan_of(client)
        measured = known is not None and known.is_measured
        if known is None or not measured or own is None:
            since = "has been measured since the plans were made" if measured else "has not been measured yet"
            why = f"{since}: until it is planned for, it trains what its tier says"
            found.append(Explained(client, candidate, None, 0.0, 0.0, 0.0, 0.0, 0.0, why))
            continue
        device = device_of(spec, candidate, known)
        found.append(_explained(client, candidate, device, own, work, allocated, spec.planning.sits_out))
    return found


def _explained(
    client: str, candidate: Candidate, device: Device, own: Planned, work: Work, allocated: Allocated, sits_out: int
) -> Explained:
    least = work.least_steps(device.steps)
    if not own.steps:
        depth = work.shallowest(device)
        layers = "one layer" if depth == 1 else f"{depth} layers"
        would = _seconds(device, work, depth, least, scores=False)
        why = (
            f"too slow for rounds of {allocated.horizon:.3g} s: {layers} and {least} of {device.steps} steps would "
            f"take {would:.3g} s; sits out, round {allocated.absent.get(client, 1)} of at most {sits_out} in a row"
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
        fill=_filling(device, own, work),
        link=float(link),
        fixed=device.fixed,
        why=_why(client, device, own, work, allocated),
    )


def _why(client: str, device: Device, own: Planned, work: Work, allocated: Allocated) -> str:
    rounds = f"rounds of {allocated.horizon:.3g} s"
    now = _seconds(device, work, own.depth, own.steps, own.scores)
    match own.bound:
        case Bound.NOTHING:
            return "trains all layers and makes all steps of an epoch"
        case Bound.MEMORY:
            return f"has memory for {device.deepest} layer{'s' if device.deepest > 1 else ''}"
        case Bound.TURN:
            return (
                f"too slow for {rounds}; it has sat out, or only its trial is known, so everybody waits for its least "
                "plan once"
            )
        case Bound.FILLING:
            return _while_filling(device, own, allocated.plans[client], rounds)
        case Bound.SCORING:
            would = _seconds(device, work, own.depth, own.steps, scores=True)
            return f"does not score versions: with that it would take {would:.3g} s, more than {rounds}"
        case _ if now > allocated.horizon:
            return (
                f"fills {rounds}, by what was known when they were planned; by what is known now it takes {now:.3g} s"
            )
        case _:
            return f"{_one_more(device, own, work)}, more than {rounds}"


def _while_filling(device: Device, own: Planned, plan: Planned, rounds: str) -> str:
    kept = device.kept_at(own.depth)
    rows = f"{1 - kept:.0%} of its rows" if kept < 1.0 else "the rows that it scores"
    now = f"{own.steps} steps" + (", no scores" if plan.scores and not own.scores else "")
    later = f"{plan.steps} of {device.steps} steps" + (" and scores" if plan.scores else "")
    return (
        f"{rows} still have to pass the layers that it does not train, once, within {rounds}: {now} in this one, then "
        f"{later}"
    )


def _filling(device: Device, own: Planned, work: Work) -> float:
    """Seconds in the coming round for rows that have not passed the frozen layers yet."""
    found, column = costs([device], work), own.depth - 1
    steps = min(own.steps, device.batches)
    return float(steps * found.first_step[0, column] + own.scores * found.first_scores[0, column])


def _one_more(device: Device, own: Planned, work: Work) -> str:
    if own.steps < device.steps:
        would = _seconds(device, work, own.depth, own.steps + 1, own.scores)
        return f"with one more step it would take {would:.3g} s"
    would = _seconds(device, work, min(own.depth + 1, work.layers), own.steps, own.scores)
    return f"with one more layer it would take {would:.3g} s"


def _seconds(device: Device, work: Work, depth: int, steps: int, scores: bool) -> float:
    found = costs([device], work)
    column = depth - 1
    scoring = (found.scoring + found.filling_scored)[0, column] if scores else 0.0
    return float(found.once[0, column] + found.filling[0, column] + scoring + steps * found.step[0, column])
