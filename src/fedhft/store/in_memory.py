"""The store in this process: for simulation and tests. Same transitions as Redis, no durability.

No method awaits between reading and writing, so on one event loop every transition is atomic.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Collection, Mapping

from fedhft.ids import ClientId, JobId
from fedhft.records import (
    AcceptResult,
    AgentRecord,
    ClientRecord,
    JobRecord,
    JobStatus,
    MembershipRecord,
    Phase,
    RoundRecord,
    Topic,
    Traffic,
    UpdateRecord,
    VersionRecord,
)
from fedhft.store import refusals
from fedhft.store.blobs import BlobStore
from fedhft.store.blobs_in_memory import InMemoryBlobs
from fedhft.store.in_memory_job import KeptJob
from fedhft.store.interface import BlobBackEnd
from fedhft.store.keys import KEPT_UPDATE_ROUNDS
from fedhft.store.transfers import TransferStore
from fedhft.store.transfers_in_memory import InMemoryTransfers


class InMemoryStore:
    """Store in dictionaries; blobs and transfers there too unless another back end is given."""

    def __init__(self, back_end: BlobBackEnd | None = None, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        if back_end is None:
            blobs = InMemoryBlobs(clock)
            back_end = BlobBackEnd(blobs, InMemoryTransfers(blobs, clock))
        self._blobs, self._transfers = back_end.blobs, back_end.transfers
        self._agents: dict[ClientId, AgentRecord] = {}
        self._jobs: dict[JobId, KeptJob] = {}

    @property
    def blobs(self) -> BlobStore:
        """See Store.blobs."""
        return self._blobs

    @property
    def transfers(self) -> TransferStore:
        """See Store.transfers."""
        return self._transfers

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)

    def _of(self, job: JobId) -> KeptJob:
        """What is kept of a job, to be read only: empty for a job that does not exist."""
        return self._jobs.get(job) or KeptJob()

    def _existing(self, job: JobId) -> tuple[KeptJob, JobRecord]:
        its = self._jobs.get(job)
        if its is None or its.record is None:
            raise refusals.unknown_job(job)
        return its, its.record

    def _running(self, job: JobId) -> KeptJob:
        its, record = self._existing(job)
        if record.status not in (JobStatus.RUNNING, JobStatus.EVALUATING):
            raise refusals.job_not_running(job, record.status)
        return its

    def _fenced(self, job: JobId, fence: int) -> KeptJob:
        its = self._of(job)
        if fence != its.fence or fence == 0:
            raise refusals.fenced(job, fence)
        return its

    async def ping(self) -> None:
        """See Store.ping."""
        await self._blobs.ping()

    async def now_ms(self) -> int:
        """See Store.now_ms."""
        return self._now_ms()

    async def close(self) -> None:
        """See Store.close."""
        await self._blobs.close()

    # -- agents
    async def enroll(
        self, client: ClientId, memory_bytes: int, agent_version: str, lease_token: str = ""
    ) -> AgentRecord:
        """See Store.enroll."""
        known = self._agents.get(client)
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

    def _check_lease(self, client: ClientId, lease_token: str) -> AgentRecord:
        record = self._agents.get(client)
        if record is None:
            raise refusals.not_enrolled(client)
        if record.lease_token != lease_token:
            raise refusals.lease_superseded(client)
        return record

    async def check_lease(self, client: ClientId, lease_token: str) -> AgentRecord:
        """See Store.check_lease."""
        record = self._check_lease(client, lease_token)
        record = record.model_copy(update={"last_seen_ms": self._now_ms()})
        self._agents[client] = record
        return record

    async def agents(self, clients: Collection[ClientId]) -> Mapping[ClientId, AgentRecord]:
        """See Store.agents."""
        return {client: self._agents[client] for client in sorted(clients) if client in self._agents}

    async def forget_agent(self, client: ClientId) -> None:
        """See Store.forget_agent."""
        self._agents.pop(client, None)

    # -- jobs
    async def create_job(self, job: JobId, spec_json: str) -> bool:
        """See Store.create_job."""
        its = self._jobs.setdefault(job, KeptJob())
        if its.record is not None:
            if its.record.spec_json == spec_json:
                return False
            raise refusals.job_exists(job)
        # Re-inserting puts the job at the end of the order of creation.
        self._jobs[job] = self._jobs.pop(job)
        its.record = JobRecord(
            job=job, spec_json=spec_json, status=JobStatus.WAITING, reason="", created_ms=self._now_ms()
        )
        return True

    async def job(self, job: JobId) -> JobRecord:
        """See Store.job."""
        return self._existing(job)[1]

    async def jobs(self) -> list[JobRecord]:
        """See Store.jobs."""
        return [its.record for its in self._jobs.values() if its.record is not None]

    async def set_status(
        self, job: JobId, status: JobStatus, reason: str, expected: Collection[JobStatus], fence: int | None = None
    ) -> bool:
        """See Store.set_status."""
        its, record = self._existing(job)
        if fence is not None:
            self._fenced(job, fence)
        if record.status not in expected:
            return False
        its.record = record.model_copy(update={"status": status, "reason": reason})
        its.wake(Topic.TASKS)
        its.wake(Topic.ARRIVALS)
        return True

    # -- joining
    async def fix_schema(self, job: JobId, schema_json: str) -> str:
        """See Store.fix_schema."""
        its, _ = self._existing(job)
        if its.schema is None:
            its.schema = schema_json
        return its.schema

    async def schema(self, job: JobId) -> str | None:
        """See Store.schema."""
        return self._of(job).schema

    async def join(self, job: JobId, client: ClientRecord) -> None:
        """See Store.join."""
        its, _ = self._existing(job)
        its.clients[ClientId(client.client)] = client
        its.wake(Topic.ARRIVALS)

    async def set_signature(self, job: JobId, client: ClientId, signature: tuple[float, ...]) -> bool:
        """See Store.set_signature."""
        its = self._of(job)
        record = its.clients.get(client)
        if record is None:
            return False
        its.clients[client] = record.model_copy(update={"signature": signature})
        return True

    async def leave(self, job: JobId, client: ClientId) -> bool:
        """See Store.leave."""
        its = self._of(job)
        if its.clients.pop(client, None) is None:
            return False
        its.wake(Topic.ARRIVALS)
        return True

    async def client(self, job: JobId, client: ClientId) -> ClientRecord | None:
        """See Store.client."""
        return self._of(job).clients.get(client)

    async def clients(self, job: JobId) -> Mapping[ClientId, ClientRecord]:
        """See Store.clients."""
        return dict(sorted(self._of(job).clients.items()))

    # -- the coordinator lease
    async def acquire(self, job: JobId, holder: str, ttl_ms: int) -> int | None:
        """See Store.acquire."""
        its = self._jobs.setdefault(job, KeptJob())
        now_ms = self._now_ms()
        held = its.holder is not None and now_ms < its.held_until_ms
        if held and its.holder != holder:
            return None
        if not held:
            its.fence += 1
        its.holder, its.held_until_ms = holder, now_ms + ttl_ms
        return its.fence

    async def release(self, job: JobId, holder: str) -> None:
        """See Store.release."""
        its = self._of(job)
        if its.holder == holder and self._now_ms() < its.held_until_ms:
            its.holder = None
            its.fence += 1

    # -- rounds
    async def open_round(self, job: JobId, round_: RoundRecord, fence: int) -> None:
        """See Store.open_round."""
        self._fenced(job, fence)
        its = self._running(job)
        last = its.round
        if last is not None and last.phase is Phase.COLLECTING and its.opened == round_:
            return
        following = last.number + 1 if last else 1
        if round_.number != following or (last and last.phase is not Phase.PUBLISHED):
            raise refusals.round_closed(job, round_.number, its.state())
        its.round = its.opened = round_
        its.updates.pop(round_.number - KEPT_UPDATE_ROUNDS, None)
        its.wake(Topic.TASKS)

    async def round(self, job: JobId) -> RoundRecord | None:
        """See Store.round."""
        return self._of(job).round

    async def accept(self, job: JobId, update: UpdateRecord, lease_token: str) -> AcceptResult:
        """See Store.accept."""
        # Looked up first, judged last: nothing is awaited between the checks and the recording.
        missing = bool(update.digest) and await self._blobs.size(job, update.digest) is None
        its = self._running(job)
        client = ClientId(update.client)
        self._check_lease(client, lease_token)
        now = its.round
        if now is None or now.number != update.round:
            raise refusals.round_closed(job, update.round, its.state())
        if client not in now.participants:
            raise refusals.not_participant(client, update.round)
        recorded = its.updates.setdefault(update.round, {})
        if client in recorded:
            if recorded[client].digest == update.digest:
                return AcceptResult.REPEATED
            raise refusals.update_conflict(client, update.round)
        if now.phase is not Phase.COLLECTING:
            raise refusals.round_closed(job, update.round, its.state())
        if now.base_version != update.base_version:
            raise refusals.stale_version(update.base_version, str(now.base_version))
        if missing:
            raise refusals.unknown_blob(job, update.digest)
        recorded[client] = update
        its.wake(Topic.ARRIVALS)
        return AcceptResult.ACCEPTED

    async def updates(self, job: JobId, number: int) -> Mapping[ClientId, UpdateRecord]:
        """See Store.updates."""
        return dict(sorted(self._of(job).updates.get(number, {}).items()))

    async def accepted_count(self, job: JobId, number: int) -> int:
        """See Store.accepted_count."""
        return len(self._of(job).updates.get(number, {}))

    async def delivered(self, job: JobId, number: int, client: ClientId) -> bool:
        """See Store.delivered."""
        return client in self._of(job).updates.get(number, {})

    async def extend_round(self, job: JobId, number: int, deadline_ms: int, fence: int) -> None:
        """See Store.extend_round."""
        its = self._fenced(job, fence)
        now = its.round
        if now is None or now.number != number or now.phase is not Phase.COLLECTING:
            raise refusals.round_closed(job, number, its.state())
        if now.deadline_ms != deadline_ms:
            its.round = now.model_copy(update={"deadline_ms": deadline_ms, "extensions": now.extensions + 1})

    async def begin_fold(self, job: JobId, number: int, fence: int) -> tuple[ClientId, ...]:
        """See Store.begin_fold."""
        its = self._fenced(job, fence)
        now = its.round
        if now is None or now.number != number or now.phase is Phase.PUBLISHED:
            raise refusals.round_closed(job, number, its.state())
        if now.phase is Phase.COLLECTING:
            pinned = tuple(sorted(its.updates.get(number, {})))
            now = its.round = now.model_copy(update={"phase": Phase.FOLDING, "pinned": pinned})
            its.wake(Topic.TASKS)
        return tuple(ClientId(client) for client in now.pinned)

    async def publish(
        self,
        job: JobId,
        number: int,
        version: VersionRecord,
        summary: str,
        fence: int,
        traffic: Mapping[str, Traffic] | None = None,
    ) -> bool:
        """See Store.publish."""
        its = self._fenced(job, fence)
        now = its.round
        if now is not None and (now.number > number or (now.number == number and now.phase is Phase.PUBLISHED)):
            return False
        if now is None or now.number != number or now.phase is not Phase.FOLDING:
            raise refusals.round_closed(job, number, its.state())
        its.versions[version.version] = version
        its.latest_version = version.version
        its.history.append(summary)
        its.traffic.update(traffic or {})
        its.round = now.model_copy(update={"phase": Phase.PUBLISHED})
        its.wake(Topic.TASKS)
        return True

    async def version(self, job: JobId, number: int | None = None) -> VersionRecord | None:
        """See Store.version."""
        its = self._of(job)
        wanted = its.latest_version if number is None else number
        return None if wanted is None else its.versions.get(wanted)

    async def drop_versions(self, job: JobId, below: int) -> list[VersionRecord]:
        """See Store.drop_versions."""
        its = self._of(job)
        gone = sorted(number for number in its.versions if number < below and number != its.latest_version)
        return [its.versions.pop(number) for number in gone]

    async def history(self, job: JobId, start: int = 0, stop: int | None = None) -> list[str]:
        """See Store.history."""
        return self._of(job).history[start:stop]

    async def traffic(self, job: JobId, clients: Collection[str]) -> Mapping[str, Traffic]:
        """See Store.traffic."""
        known = self._of(job).traffic
        return {client: known[client] for client in clients if client in known}

    # -- memberships
    async def memberships(self, job: JobId, version: int = 0) -> MembershipRecord | None:
        """See Store.memberships."""
        records = self._of(job).memberships
        wanted = version or len(records)
        return records[wanted - 1] if 0 < wanted <= len(records) else None

    async def publish_memberships(self, job: JobId, record: MembershipRecord, expected_version: int) -> bool:
        """See Store.publish_memberships."""
        if record.version != expected_version + 1:
            raise refusals.wrong_membership_version(record.version, expected_version)
        its = self._jobs.setdefault(job, KeptJob())
        if len(its.memberships) == record.version and its.memberships[-1] == record:
            return True
        if len(its.memberships) != expected_version:
            return False
        its.memberships.append(record)
        return True

    # -- waiting
    async def changes(self, job: JobId, topic: Topic) -> int:
        """See Store.changes."""
        its = self._jobs.get(job)
        return its.counters[topic] if its else 0

    async def wait_change(self, job: JobId, topic: Topic, seen: int, timeout_s: float) -> int:
        """See Store.wait_change."""
        its = self._jobs.setdefault(job, KeptJob())
        try:
            async with asyncio.timeout(max(timeout_s, 0)):
                while its.counters[topic] == seen:
                    await its.moved[topic].wait()
        except TimeoutError:
            pass
        return its.counters[topic]
