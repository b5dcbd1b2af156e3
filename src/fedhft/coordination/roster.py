"""Who serves a job, and who will not: its clients, page by page, for people."""

from __future__ import annotations

from bisect import bisect_right

from fedhft.ids import JobId
from fedhft.job import load_canonical
from fedhft.records import AgentRecord, ClientRecord, DeclineRecord, JobRecord
from fedhft.store.interface import Store
from fedhft.v1 import jobs_pb2

PAGE = 1000
"""Most clients in one message."""


async def roster(store: Store, record: JobRecord, after: str, limit: int) -> jobs_pb2.ListClientsResponse:
    """The clients after `after` in ascending order, at most `limit` of them (0, or more than PAGE: PAGE).

    Names are read for all clients, records only for those of the page.
    """
    job = JobId(record.job)
    names = sorted({*await store.clients(job), *await store.declined(job)})
    start = bisect_right(names, after)
    stop = start + min(limit or PAGE, PAGE)
    page = names[start:stop]
    clients = await store.clients(job)
    declines = await store.declines(job, page)
    agents = await store.agents(page)
    now_ms = await store.now_ms()
    silent_ms = load_canonical(record.spec_json).rounds.client_timeout * 1000
    return jobs_pb2.ListClientsResponse(
        clients=[
            _joined(clients[name], agents.get(name), now_ms, silent_ms)
            if name in clients
            else _declined(declines[name], agents.get(name), now_ms)
            for name in page
            if name in clients or name in declines  # one may have left between two readings
        ],
        more=stop < len(names),
    )


def _joined(client: ClientRecord, agent: AgentRecord | None, now_ms: int, silent_ms: float) -> jobs_pb2.JobClient:
    live = agent is not None and now_ms - agent.last_seen_ms <= silent_ms
    return jobs_pb2.JobClient(
        client=client.client,
        state=jobs_pb2.JobClient.STATE_LIVE if live else jobs_pb2.JobClient.STATE_SILENT,
        tier=client.tier,
        samples=client.samples,
        joined_seconds=_seconds_since(client.joined_ms, now_ms),
        seen_seconds=None if agent is None else _seconds_since(agent.last_seen_ms, now_ms),
    )


def _declined(decline: DeclineRecord, agent: AgentRecord | None, now_ms: int) -> jobs_pb2.JobClient:
    return jobs_pb2.JobClient(
        client=decline.client,
        state=jobs_pb2.JobClient.STATE_DECLINED,
        reason=decline.reason,
        joined_seconds=_seconds_since(decline.declined_ms, now_ms),
        seen_seconds=None if agent is None else _seconds_since(agent.last_seen_ms, now_ms),
    )


def _seconds_since(then_ms: int, now_ms: int) -> float:
    return max(0, now_ms - then_ms) / 1000
