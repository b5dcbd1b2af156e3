"""Every client that a server knows, and taking one out: for people."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import defaultdict

from fedhft.errors import ErrorCode, FedhftError
from fedhft.ids import ClientId, JobId
from fedhft.store.interface import Store
from fedhft.v1 import clients_pb2

PAGE = 1000
"""Most clients in one message."""


async def known_clients(store: Store, after: str, limit: int) -> clients_pb2.ListKnownClientsResponse:
    """Clients after `after` that are enrolled or in a job that is not over, at most `limit` (0: PAGE, the most).

    Names are read for all clients, records only for those of the page.
    """
    jobs = await store.open_jobs()
    joined = await asyncio.gather(*(store.client_ids(job) for job in jobs))
    names = sorted({*await store.enrolled(), *(client for ids in joined for client in ids)})
    start = bisect_right(names, after)
    stop = start + min(limit or PAGE, PAGE)
    page = names[start:stop]
    agents = await store.agents(page)
    now_ms = await store.now_ms()
    seen_ms = {client: agent.last_seen_ms for client, agent in agents.items()}
    theirs: dict[ClientId, list[JobId]] = defaultdict(list)
    for job, ids in zip(jobs, joined, strict=True):
        here = set(ids).intersection(page)
        for client in here:
            theirs[client].append(job)
        for client, when_ms in (await store.last_seen(job, here)).items() if here else ():
            seen_ms[client] = max(when_ms, seen_ms.get(client, 0))
    listed = []
    for client in page:
        agent = agents.get(client)
        one = clients_pb2.KnownClient(client=client, enrolled=agent is not None, jobs=theirs[client])
        if agent is not None:
            one.agent_version, one.memory_bytes = agent.agent_version, agent.memory_bytes
        if client in seen_ms:
            one.seen_seconds = max(0, now_ms - seen_ms[client]) / 1000
        listed.append(one)
    return clients_pb2.ListKnownClientsResponse(clients=listed, more=stop < len(names))


async def remove_client(store: Store, client: ClientId, reason: str) -> list[JobId]:
    """Take a client out of every job that is not over and end its lease; returns the jobs that it left.

    What it delivered stays where it is. Raises NOT_ENROLLED for one that is neither enrolled nor in such a job.
    """
    known = bool(await store.agents([client]))
    left = [job for job in await store.open_jobs() if await store.leave(job, client, reason)]
    await store.forget_agent(client)
    if not known and not left:
        raise FedhftError.field(
            ErrorCode.NOT_ENROLLED, "client", client, "is neither enrolled nor in a job that is not over",
            "see `fedhft client list`",
        )  # fmt: skip
    return left
