"""Agents of the in-memory store."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping

from fedhft.ids import ClientId, JobId
from fedhft.readings import Poll
from fedhft.records import AgentRecord, Topic
from fedhft.store import refusals
from fedhft.store.in_memory_tables import InMemoryTables
from fedhft.store.keys import SEEN_EVERY_MS


class InMemoryAgents(InMemoryTables):
    """The agent part of InMemoryStore."""

    async def enroll(
        self, client: ClientId, memory_bytes: int, agent_version: str, lease_token: str = "", serial: str = ""
    ) -> AgentRecord:
        """See Store.enroll."""
        if serial in self._revoked:
            raise refusals.certificate_revoked(serial)
        known = self._agents.get(client)
        if known is not None and lease_token not in ("", known.lease_token):
            raise refusals.lease_superseded(client)
        kept = known is not None and lease_token != "" and known.lease_token == lease_token
        record = AgentRecord(
            client=client,
            lease_token=lease_token if kept else secrets.token_hex(16),
            memory_bytes=memory_bytes,
            agent_version=agent_version,
            last_seen_ms=self._now_ms(),
        )
        self._agents[client] = record
        return record

    async def check_lease(self, client: ClientId, lease_token: str) -> AgentRecord:
        """See Store.check_lease."""
        record = self._check_lease(client, lease_token)
        record = record.model_copy(update={"last_seen_ms": self._now_ms()})
        self._agents[client] = record
        return record

    async def poll(self, job: JobId, client: ClientId, lease_token: str) -> Poll:
        """See Store.poll."""
        agent, its, now_ms = self._check_lease(client, lease_token), self._of(job), self._now_ms()
        if client in its.clients and abs(now_ms - its.seen_ms.get(client, 0)) >= SEEN_EVERY_MS:
            its.seen_ms[client] = now_ms
            self._agents[client] = agent.model_copy(update={"last_seen_ms": now_ms})
        now = its.round
        return Poll(
            agent=agent,
            joined=client in its.clients,
            tasks=its.counters[Topic.TASKS],
            round=now.number if now else 0,
            phase=now.phase if now else None,
            delivered=now is not None and client in its.updates.get(now.number, {}),
            now_ms=now_ms,
        )

    async def agents(self, clients: Collection[ClientId]) -> Mapping[ClientId, AgentRecord]:
        """See Store.agents."""
        return {client: self._agents[client] for client in sorted(clients) if client in self._agents}

    async def enrolled(self) -> list[ClientId]:
        """See Store.enrolled."""
        return sorted(self._agents)

    async def count_enrolled(self) -> int:
        """See Store.count_enrolled."""
        return len(self._agents)

    async def forget_agent(self, client: ClientId) -> None:
        """See Store.forget_agent."""
        self._agents.pop(client, None)
