"""Opening a round: who takes part, with what pinned, in the store in one step."""

from __future__ import annotations

import logging

from fedhft.coordination.capacity import plan_by_capacity
from fedhft.coordination.driven import Driven
from fedhft.coordination.gauges import show_plans
from fedhft.ids import ClientId
from fedhft.job import JobSpec
from fedhft.records import RoundHead
from fedhft.rounds.attendance import attending
from fedhft.rounds.opening import asked_of, open_round
from fedhft.rounds.reclustering import usable_memberships

log = logging.getLogger(__name__)


async def open_next(
    driven: Driven, spec: JobSpec, number: int, evaluation: bool, last: RoundHead | None, fence: int
) -> None:
    """Open round `number`, after round `last`, unless nobody is live any more."""
    schema = await driven.schema()
    if number == 1:
        async with driven.renewed_lease():
            await driven.update_memberships(spec, after_round=0)
    base = await driven.store.version(driven.job)
    memberships = usable_memberships(await driven.store.memberships(driven.job), base)
    live = await driven.store.live(driven.job, int(spec.rounds.client_timeout * 1000))
    missed = await driven.store.missed(driven.job)
    present = live if evaluation else attending(live, missed, number, spec.rounds.min_clients)
    asked = asked_of(spec, present, number, evaluation)
    clients = await driven.store.clients(driven.job, [ClientId(client) for client in asked])
    known = {str(client): value for client, value in clients.items()}
    present_now = tuple(client for client in asked if client in known)
    planned = await plan_by_capacity(driven, spec, schema, number, known, present_now, fence)
    now = await driven.store.now_ms()
    record = open_round(
        spec,
        schema,
        number=number,
        evaluation=evaluation,
        base_version=0 if last is None else number - 1,
        memberships=memberships,
        clients=known,
        asked=present_now,
        now_ms=now,
        proven=len(await driven.store.deliveries(driven.job, list(clients))),
        planned=planned,
    )
    if not record.participants:
        return  # the last live client fell silent meanwhile; look again
    driven.reached("open")
    await driven.store.open_round(driven.job, record, fence)
    show_plans(driven.job, schema, record)
    log.info("round opened", extra={"job": driven.job, "round": number, "asked": len(record.participants)})
