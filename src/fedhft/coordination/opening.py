"""Opening a round: who takes part, with what pinned, in the store in one step."""

from __future__ import annotations

import logging

from fedhft.coordination.driven import Driven
from fedhft.job import JobSpec
from fedhft.records import RoundRecord
from fedhft.rounds.opening import live_clients, open_round
from fedhft.rounds.reclustering import usable_memberships

log = logging.getLogger(__name__)


async def open_next(
    driven: Driven, spec: JobSpec, number: int, evaluation: bool, last: RoundRecord | None, fence: int
) -> None:
    """Open round `number`, after round `last`, unless nobody is live any more."""
    schema = await driven.schema()
    if number == 1:
        async with driven.renewed_lease():
            await driven.update_memberships(spec, after_round=0)
    base = await driven.store.version(driven.job)
    memberships = usable_memberships(await driven.store.memberships(driven.job), base)
    clients = await driven.store.clients(driven.job)
    agents = await driven.store.agents(list(clients))
    now = await driven.store.now_ms()
    record = open_round(
        spec,
        schema,
        number=number,
        evaluation=evaluation,
        base_version=0 if last is None else number - 1,
        memberships=memberships,
        clients={str(client): value for client, value in clients.items()},
        live=live_clients(spec, clients, agents, now),  # type: ignore[arg-type]
        now_ms=now,
    )
    if not record.participants:
        return  # the last live client fell silent meanwhile; look again
    driven.reached("open")
    await driven.store.open_round(driven.job, record, fence)
    log.info("round opened", extra={"job": driven.job, "round": number, "asked": len(record.participants)})
