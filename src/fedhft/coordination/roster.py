"""Who serves a job, and who will not: its clients, page by page, for people."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Mapping

from fedhft.coordination.capacity import capacity_message
from fedhft.coordination.history import RoundHistory
from fedhft.ids import JobId
from fedhft.job import stored_client_timeout, stored_plans_by_capacity
from fedhft.plan import AdapterPlan
from fedhft.records import ClientRecord, DeclineRecord, JobRecord, Phase, RoundHead
from fedhft.store.interface import Store
from fedhft.v1 import adapter_pb2, clients_pb2

PAGE = 1000
"""Most clients in one message."""


_KEPT_JOBS = 8
"""Jobs whose plans are kept; a plan object is shared by all clients that train it."""


class Roster:
    """The clients of the jobs of a store. What each trains is read once per round, whatever is looked at."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._plans: OrderedDict[JobId, tuple[tuple[int, int], Mapping[str, AdapterPlan]]] = OrderedDict()
        """job -> (number and opening of a round, what each of its participants trains)."""

    async def page(self, record: JobRecord, after: str, limit: int) -> clients_pb2.ListClientsResponse:
        """The clients after `after` in ascending order, at most `limit` of them (0, or more than PAGE: PAGE).

        Names are read for all clients, records only for those of the page.
        """
        store, job = self._store, JobId(record.job)
        names = sorted({*await store.client_ids(job), *await store.declined(job)})
        start = bisect_right(names, after)
        stop = start + min(limit or PAGE, PAGE)
        page = names[start:stop]
        clients, declines = await store.clients(job, page), await store.declines(job, page)
        delivered = await store.deliveries(job, page)
        enrolled = await store.agents(list(declines))
        seen_ms = {**{name: agent.last_seen_ms for name, agent in enrolled.items()}, **await store.last_seen(job, page)}
        silent_ms = int(stored_client_timeout(record.spec_json) * 1000)
        look = await store.look(job, silent_ms)
        folded = _last_folded(look.round)
        aside = await store.are_set_aside(job, folded) if folded else {}
        entry = (await store.history(job, folded - 1, folded)).entries if folded else ()
        clipped = {one.client: one.factor for text in entry for one in RoundHistory.from_json(text).summary.clipped}
        plans, mixture = await self._plans_of(job, look.round), await store.memberships(job)
        rows = mixture.rows if mixture else {}
        devices = await store.capacities(job, page) if stored_plans_by_capacity(record.spec_json) else {}
        listed = []
        for name in page:
            seen = seen_ms.get(name)
            if name in clients:
                listed.append(_joined(clients[name], delivered.get(name, 0), seen, look.now_ms, silent_ms))
                listed[-1].set_aside = aside.get(name, "")
                if name in clipped:
                    listed[-1].clipped = clipped[name]
                if name in plans:
                    listed[-1].plan.CopyFrom(plans[name].message())
                listed[-1].memberships.extend(rows.get(name, ()))
                if name in devices:
                    listed[-1].capacity.CopyFrom(capacity_message(devices[name]))
            elif name in declines:  # in neither: it left between two readings
                listed.append(_declined(declines[name], delivered.get(name, 0), seen, look.now_ms))
        return clients_pb2.ListClientsResponse(clients=listed, more=stop < len(names))

    async def _plans_of(self, job: JobId, head: RoundHead | None) -> Mapping[str, AdapterPlan]:
        if head is None:
            return {}
        opening = (head.number, head.opened_ms)
        if job not in self._plans or self._plans[job][0] != opening:
            current = await self._store.round(job)
            if current is None:
                return {}
            shared: dict[AdapterPlan, AdapterPlan] = {}
            plans = {name: shared.setdefault(part.plan, part.plan) for name, part in current.participants.items()}
            self._plans[job] = ((current.number, current.opened_ms), plans)
        self._plans.move_to_end(job)
        while len(self._plans) > _KEPT_JOBS:
            self._plans.popitem(last=False)
        return self._plans[job][1]


def _last_folded(head: RoundHead | None) -> int:
    """The last round whose updates were folded, or are being folded; 0 before the first."""
    if head is None:
        return 0
    return head.number - 1 if head.evaluation or head.phase is Phase.COLLECTING else head.number


def _joined(
    client: ClientRecord, delivered: int, seen_ms: int | None, now_ms: int, silent_ms: int
) -> clients_pb2.JobClient:
    live = seen_ms is not None and now_ms - seen_ms <= silent_ms
    return clients_pb2.JobClient(
        client=client.client,
        state=clients_pb2.JobClient.STATE_LIVE if live else clients_pb2.JobClient.STATE_SILENT,
        tier=client.tier,
        samples=client.samples,
        joined_seconds=_seconds_since(client.joined_ms, now_ms),
        seen_seconds=_seconds_since(seen_ms, now_ms),
        rounds_delivered=delivered,
        too_large=[
            adapter_pb2.PlanTooLarge(tier=one.tier, needed_bytes=one.needed, allowed_bytes=one.allowed)
            for one in client.too_large
        ],
    )


def _declined(decline: DeclineRecord, delivered: int, seen_ms: int | None, now_ms: int) -> clients_pb2.JobClient:
    return clients_pb2.JobClient(
        client=decline.client,
        state=clients_pb2.JobClient.STATE_DECLINED,
        reason=decline.reason,
        joined_seconds=_seconds_since(decline.declined_ms, now_ms),
        seen_seconds=_seconds_since(seen_ms, now_ms),
        rounds_delivered=delivered,
    )


def _seconds_since(then_ms: int | None, now_ms: int) -> float | None:
    return None if then_ms is None else max(0, now_ms - then_ms) / 1000
