"""Plans by capacity for people: those in force, or those there would be if devices were otherwise."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace

from fedhft.adapter import AdapterSchema
from fedhft.coordination.capacity import capacity_message
from fedhft.errors import ErrorCode, FedhftError
from fedhft.ids import JobId
from fedhft.job import JobSpec, load_canonical
from fedhft.methods import Allocation
from fedhft.planning.allocation import Allocated, Candidate, allocate, work_of
from fedhft.planning.estimates import FASTEST_LAYER_S, FASTEST_LINK, SLOWEST_LINK, SLOWEST_S, Capacity
from fedhft.planning.explanation import Explained, explain
from fedhft.rounds.opening import candidates
from fedhft.store.interface import Store
from fedhft.v1 import plans_pb2

_MOST_SLOWER = 1e6


async def explained_plan(
    store: Store, job: JobId, what_if: Sequence[plans_pb2.WhatIf]
) -> plans_pb2.ExplainPlanResponse:
    """The plans of a job's live clients, each with its reasons.

    Raises FedhftError: UNKNOWN_JOB, INVALID_ARGUMENT for a job that does not plan by capacity and for devices that
    cannot be.
    """
    spec = load_canonical((await store.job(job)).spec_json)
    if spec.method.allocation is not Allocation.CAPACITY:
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, "method.allocation", spec.method.allocation.value,
            "clients train what their tiers say", "see `fedhft job clients`, or submit the job with capacity",
        )  # fmt: skip
    text = await store.schema(job)
    if text is None:
        return plans_pb2.ExplainPlanResponse(reason="no client has joined yet")
    schema, current = AdapterSchema.from_json(text), await store.round(job)
    number = current.number if current is not None else 1
    live = await store.live(job, int(spec.rounds.client_timeout * 1000))
    records = {str(client): record for client, record in (await store.clients(job, live)).items()}
    offered = candidates(spec, schema, records, sorted(records))
    known = await store.capacities(job, sorted(records))
    allocated = await store.allocated(job)
    check_what_if(what_if, known)

    def told() -> plans_pb2.ExplainPlanResponse:
        devices, plans = known, allocated
        if what_if:
            devices = supposed(known, what_if)
            plans = allocate(spec, schema, number, offered, devices, None)
        if plans is None:
            return plans_pb2.ExplainPlanResponse(reason="no device was measured yet", layers=schema.layers)
        return _told(spec, schema, number, offered, devices, plans, bool(what_if))

    return await asyncio.to_thread(told)


def check_what_if(what_if: Sequence[plans_pb2.WhatIf], known: Mapping[str, Capacity]) -> None:
    """Check what is supposed: each client once, and figures that a device can have. Raises INVALID_ARGUMENT."""
    seen: set[str] = set()
    for number, one in enumerate(what_if):
        field = f"what_if[{number}]"
        if one.client in seen:
            raise FedhftError.field(
                ErrorCode.INVALID_ARGUMENT, f"{field}.client", one.client, "is supposed twice", "name each client once"
            )
        seen.add(one.client)
        if one.client and one.client not in known:
            raise FedhftError.field(
                ErrorCode.INVALID_ARGUMENT, f"{field}.client", one.client,
                "is not a live client whose device was measured", "see `fedhft job plan` for those there are",
            )  # fmt: skip
        _check(field, one)


def supposed(known: Mapping[str, Capacity], what_if: Sequence[plans_pb2.WhatIf]) -> dict[str, Capacity]:
    """What would be known if devices were otherwise; what is said of one client comes on top of what is said of all."""
    changed = dict(known)
    for one in sorted(what_if, key=lambda one: one.client):
        for client in [one.client] if one.client else list(changed):
            changed[client] = _otherwise(changed[client], one)
    return changed


def _check(field: str, one: plans_pb2.WhatIf) -> None:
    for name, value, least, most in (
        ("slower", one.slower, 1 / _MOST_SLOWER, _MOST_SLOWER),
        ("up", one.up, SLOWEST_LINK, FASTEST_LINK),
        ("down", one.down, SLOWEST_LINK, FASTEST_LINK),
    ):
        if value and not least <= value <= most:
            raise FedhftError.field(
                ErrorCode.INVALID_ARGUMENT, f"{field}.{name}", value, f"is not between {least:g} and {most:g}",
                "give a figure that a device can have, or leave it out",
            )  # fmt: skip


def _otherwise(known: Capacity, one: plans_pb2.WhatIf) -> Capacity:
    slower = one.slower or 1.0
    return replace(
        known,
        forward=_slowed(known.forward, slower),
        backward=_slowed(known.backward, slower),
        up=one.up or known.up,
        down=one.down or known.down,
        deepest=one.deepest or known.deepest,
    )


def _slowed(seconds: float | None, slower: float) -> float | None:
    return None if seconds is None else min(max(seconds * slower, FASTEST_LAYER_S), SLOWEST_S)


def _told(
    spec: JobSpec,
    schema: AdapterSchema,
    number: int,
    offered: Mapping[str, Candidate],
    known: Mapping[str, Capacity],
    allocated: Allocated,
    is_supposed: bool,
) -> plans_pb2.ExplainPlanResponse:
    return plans_pb2.ExplainPlanResponse(
        round=0 if is_supposed else allocated.made,
        reason="as it would be planned now" if is_supposed else allocated.reason,
        horizon_seconds=allocated.horizon,
        rounds=allocated.rounds,
        waiting=allocated.waiting,
        gains=work_of(spec, schema, 1).gains,
        layers=schema.layers,
        clients=[
            _client(one, known.get(one.client, Capacity()))
            for one in explain(spec, schema, number, offered, known, allocated)
        ],
    )


def _client(one: Explained, known: Capacity) -> plans_pb2.ClientPlan:
    plan = one.candidate.plan
    own = one.planned
    return plans_pb2.ClientPlan(
        client=one.client,
        tier=plan.tier,
        depth=plan.depth if own is None else own.depth,
        steps=one.candidate.steps if own is None else own.steps,
        epoch_steps=one.candidate.steps,
        scores=own is None or own.scores,
        seconds=one.seconds,
        planned_seconds=0.0 if own is None else own.seconds,
        training_seconds=one.training,
        scoring_seconds=one.scoring,
        fill_seconds=one.fill,
        link_seconds=one.link,
        fixed_seconds=one.fixed,
        bound="unmeasured" if own is None else own.bound.value,
        why=one.why,
        capacity=capacity_message(known),
    )
