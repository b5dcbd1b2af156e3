"""Agents in Redis: one small hash each."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping

from fedhft.ids import ClientId, JobId
from fedhft.readings import Poll
from fedhft.records import AgentRecord, Phase, Topic
from fedhft.store import keys, refusals
from fedhft.store.connection import RedisConnection

_SCANNED_AT_ONCE = 1000


class RedisAgents:
    """The agent part of RedisStore."""

    _redis: RedisConnection

    async def enroll(
        self, client: ClientId, memory_bytes: int, agent_version: str, lease_token: str = "", serial: str = ""
    ) -> AgentRecord:
        """See Store.enroll."""
        token, *found = await self._redis.run(
            "enroll",
            (keys.agent(client), keys.REVOKED, keys.AGENTS),
            lease_token,
            secrets.token_hex(16),
            memory_bytes,
            agent_version,
            keys.NEW_AGENT_TTL_MS,
            serial,
            client,
        )
        if token == b"lease_superseded":
            raise refusals.lease_superseded(client)
        if token == b"certificate_revoked":
            raise refusals.certificate_revoked(serial)
        (now_ms,) = found
        return AgentRecord(
            client=client,
            lease_token=token.decode(),
            memory_bytes=memory_bytes,
            agent_version=agent_version,
            last_seen_ms=int(now_ms),
        )

    async def check_lease(self, client: ClientId, lease_token: str) -> AgentRecord:
        """See Store.check_lease."""
        outcome, *found = await self._redis.run("check_lease", (keys.agent(client),), lease_token)
        if outcome == b"not_enrolled":
            raise refusals.not_enrolled(client)
        if outcome == b"lease_superseded":
            raise refusals.lease_superseded(client)
        memory_bytes, agent_version, now_ms = found
        return AgentRecord(
            client=client,
            lease_token=lease_token,
            memory_bytes=int(memory_bytes),
            agent_version=agent_version.decode(),
            last_seen_ms=int(now_ms),
        )

    async def poll(self, job: JobId, client: ClientId, lease_token: str) -> Poll:
        """See Store.poll."""
        its = keys.JobKeys(job)
        outcome, *found = await self._redis.run(
            "poll",
            (keys.agent(client), its.clients, its.seen, its.changes(Topic.TASKS), its.round, keys.AGENTS),
            client,
            lease_token,
            its.updates_prefix,
            keys.SEEN_EVERY_MS,
            keys.AGENT_TTL_MS,
        )
        if outcome == b"not_enrolled":
            raise refusals.not_enrolled(client)
        if outcome == b"lease_superseded":
            raise refusals.lease_superseded(client)
        now_ms, joined, tasks, number, phase, delivered, memory_bytes, agent_version = found[0].decode().split(" ", 7)
        agent = AgentRecord(
            client=client,
            lease_token=lease_token,
            memory_bytes=int(memory_bytes),
            agent_version=agent_version,
            last_seen_ms=int(now_ms),
        )
        return Poll(
            agent=agent,
            joined=joined == "1",
            tasks=int(tasks),
            round=int(number),
            phase=None if phase == "-" else Phase(phase),
            delivered=delivered == "1",
            now_ms=int(now_ms),
        )

    async def agents(self, clients: Collection[ClientId]) -> Mapping[ClientId, AgentRecord]:
        """See Store.agents."""
        if not clients:
            return {}
        ordered = sorted(clients)
        records = await self._redis.together(*(("HGETALL", keys.agent(client)) for client in ordered))
        return {
            client: AgentRecord(
                client=client,
                lease_token=record[b"lease_token"].decode(),
                memory_bytes=int(record[b"memory_bytes"]),
                agent_version=record[b"agent_version"].decode(),
                last_seen_ms=int(record[b"last_seen_ms"]),
            )
            for client, record in zip(ordered, records, strict=True)
            if record
        }

    async def enrolled(self) -> list[ClientId]:
        """See Store.enrolled."""
        prefix = keys.agent(ClientId(""))
        found: set[bytes] = set()
        cursor = 0
        while True:
            answer = await self._redis.call("SCAN", cursor, "MATCH", f"{prefix}*", "COUNT", _SCANNED_AT_ONCE)
            cursor = int(answer[0])
            found.update(answer[1])
            if cursor == 0:
                return sorted(ClientId(key.decode().removeprefix(prefix)) for key in found)

    async def count_enrolled(self) -> int:
        """See Store.count_enrolled."""
        (count,) = await self._redis.run("count_agents", (keys.AGENTS,))
        return int(count)

    async def forget_agent(self, client: ClientId) -> None:
        """See Store.forget_agent."""
        await self._redis.together(("DEL", keys.agent(client)), ("ZREM", keys.AGENTS, client))
