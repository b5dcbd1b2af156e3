"""What a job that plans by capacity adds to its rounds: plans when one opens, estimates when one is published."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

from fedhft.adapter import AdapterSchema
from fedhft.coordination.driven import Driven
from fedhft.coordination.gauges import show_horizon
from fedhft.job import JobSpec
from fedhft.methods import Allocation
from fedhft.plan import steps_of
from fedhft.planning.allocation import Allocated, allocate, for_evaluation
from fedhft.planning.estimates import Capacity, Durations, bounded, estimated, was_reset
from fedhft.planning.kept_rows import with_kept_rows
from fedhft.planning.planned import Planned
from fedhft.records import ClientRecord, UpdateRecord
from fedhft.rounds.opening import candidates
from fedhft.rounds.summary import ClientReport
from fedhft.v1 import capacity_pb2

log = logging.getLogger(__name__)


def capacity_message(known: Capacity) -> capacity_pb2.Capacity:
    """What is known of a device, for people."""
    return capacity_pb2.Capacity(
        forward_ms=1e3 * (known.forward or 0.0),
        backward_ms=1e3 * (known.backward or 0.0),
        up=known.up or 0.0,
        down=known.down or 0.0,
        deepest=known.deepest or 0,
        keeps_frozen_layers=known.keeps,
        reports=known.reports,
        energy_joules=known.energy or 0.0,
    )


async def plan_by_capacity(
    driven: Driven,
    spec: JobSpec,
    schema: AdapterSchema,
    number: int,
    evaluation: bool,
    clients: Mapping[str, ClientRecord],
    asked: Sequence[str],
    fence: int,
) -> Mapping[str, Planned]:
    """What capacity gives the clients asked for round `number`, kept in the store; nothing for other jobs.

    The final evaluation goes by the plans in force, and scores as many layers as each device has memory for.
    """
    if spec.method.allocation is not Allocation.CAPACITY:
        return {}
    previous = await driven.store.allocated(driven.job)
    known = await driven.store.capacities(driven.job, asked)
    offered = candidates(spec, schema, clients, asked)
    if evaluation:
        return for_evaluation(offered, known, previous)
    async with driven.renewed_lease():
        made = await asyncio.to_thread(allocate, spec, schema, number, offered, known, previous)
    if made is None:
        return {}
    if previous is None or made.reason != previous.reason or made.made != previous.made:
        log.info(
            "plans made",
            extra={
                "job": driven.job,
                "round": number,
                "reason": made.reason,
                "horizon": round(made.horizon, 2),
                "waiting": round(made.waiting, 3),
                "absent": len(made.absent),
            },
        )
    await driven.store.keep_allocated(driven.job, made, fence)
    show_horizon(driven.job, made.horizon)
    return _of(made, asked)


def _of(made: Allocated | None, asked: Sequence[str]) -> Mapping[str, Planned]:
    found = {client: made.plan_of(client) for client in asked} if made is not None else {}
    return {client: plan for client, plan in found.items() if plan is not None}


async def learn_capacities(
    driven: Driven,
    spec: JobSpec,
    number: int,
    updates: Mapping[str, UpdateRecord],
    reports: Sequence[ClientReport],
    fence: int,
) -> None:
    """Take what a round's clients measured into the estimates of their devices.

    What cannot have been measured is left out, with a word in the log; the update it came with counts.
    """
    if spec.method.allocation is not Allocation.CAPACITY:
        return
    layers = (await driven.schema()).layers
    before = await driven.store.capacities(driven.job, [report.client for report in reports])
    after: dict[str, Capacity] = {}
    reset = []
    for report in reports:
        if not report.measurements.HasField("durations"):
            continue
        told = Durations.of(report.measurements.durations)
        plan = report.participant.plan
        steps = steps_of(report.samples, spec.training.batch_size, plan.epochs, plan.max_steps)
        epoch = steps_of(report.samples, spec.training.batch_size, 1.0, 0)
        if problem := told.problem(plan.depth, steps, epoch):
            fields = {"job": driven.job, "round": number, "client": report.client}
            log.warning("durations left out: %s", problem, extra=fields)
            continue
        seen, known = updates[report.client].seconds, before.get(report.client, Capacity())
        sending = report.size / known.up if known.up else 0.0
        believed = told if seen is None else bounded(told, seen, sending)
        now = estimated(known, believed)
        after[report.client] = with_kept_rows(now, told, plan.depth, layers, steps, epoch)
        if report.client in before and was_reset(known, now, believed):
            reset.append(report.client)
    if not after:
        return
    await driven.store.note_capacities(driven.job, after, fence)
    current = await driven.store.allocated(driven.job)
    if reset and current is not None:
        who = f"{min(reset)} and {len(reset) - 1} more" if reset[1:] else reset[0]
        stale = f"{who} became more than twice as fast, or as slow"
        await driven.store.keep_allocated(driven.job, replace(current, stale=stale), fence)
