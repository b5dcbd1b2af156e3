"""Jobs of the in-memory store: specification, status, clients, memberships and the coordinator lease."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from fedhft.adapter import Float32, Float64
from fedhft.ids import ClientId, JobId
from fedhft.records import ClientRecord, EventKind, JobRecord, JobStatus, MembershipRecord, Topic, VersionRecord
from fedhft.store import refusals
from fedhft.store.in_memory_job import KeptJob
from fedhft.store.in_memory_tables import InMemoryTables
from fedhft.store.keys import KEPT_MEMBERSHIPS


class InMemoryJobs(InMemoryTables):
    """The job part of InMemoryStore."""

    async def create_job(
        self,
        job: JobId,
        spec_json: str,
        submitted_by: str = "",
        schema_json: str = "",
        start: VersionRecord | None = None,
    ) -> bool:
        """See Store.create_job."""
        its = self._jobs.setdefault(job, KeptJob())
        if its.record is not None:
            same = start is None or its.versions.get(0) in (None, start)
            if its.record.spec_json == spec_json and schema_json in ("", its.schema) and same:
                return False
            raise refusals.job_exists(job)
        # Re-inserting puts the job at the end of the order of creation.
        self._jobs[job] = self._jobs.pop(job)
        its.record = JobRecord(
            job=job,
            spec_json=spec_json,
            status=JobStatus.WAITING,
            reason="",
            created_ms=self._now_ms(),
            submitted_by=submitted_by,
            schema_pinned=bool(schema_json),
        )
        its.schema = schema_json or None
        if start is not None:
            its.versions[start.version], its.latest_version = start, start.version
        self._note(its, EventKind.SUBMITTED, text=submitted_by)
        return True

    async def job(self, job: JobId) -> JobRecord:
        """See Store.job."""
        return self._existing(job)[1]

    async def jobs(self) -> list[JobRecord]:
        """See Store.jobs."""
        return [its.record for its in self._jobs.values() if its.record is not None]

    async def open_jobs(self) -> list[JobId]:
        """See Store.open_jobs."""
        return [job for job, its in self._jobs.items() if its.record is not None and not its.record.status.over]

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
        self._note(its, EventKind(status.value), text=reason)
        for topic in Topic:
            its.wake(topic)
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
        its.declines.pop(ClientId(client.client), None)
        its.seen_ms[ClientId(client.client)] = self._now_ms()
        self._note(its, EventKind.JOINED, client=client.client)
        its.wake(Topic.ARRIVALS)

    async def set_signature(self, job: JobId, client: ClientId, signature: tuple[float, ...]) -> bool:
        """See Store.set_signature."""
        its = self._of(job)
        record = its.clients.get(client)
        if record is None:
            return False
        its.clients[client] = record.model_copy(update={"signature": signature})
        return True

    async def leave(self, job: JobId, client: ClientId, reason: str = "") -> bool:
        """See Store.leave."""
        its = self._of(job)
        if its.clients.pop(client, None) is None:
            return False
        its.seen_ms.pop(client, None)
        self._note(its, EventKind.LEFT, client=client, text=reason)
        its.wake(Topic.ARRIVALS)
        return True

    async def client(self, job: JobId, client: ClientId) -> ClientRecord | None:
        """See Store.client."""
        return self._of(job).clients.get(client)

    async def clients(self, job: JobId, wanted: Collection[ClientId] | None = None) -> Mapping[ClientId, ClientRecord]:
        """See Store.clients."""
        known = self._of(job).clients
        names = sorted(known if wanted is None else set(wanted) & known.keys())
        return {client: known[client].model_copy(update={"signature": (), "halves": ()}) for client in names}

    async def client_ids(self, job: JobId) -> list[ClientId]:
        """See Store.client_ids."""
        return sorted(self._of(job).clients)

    async def signatures(self, job: JobId) -> Mapping[ClientId, Float64]:
        """See Store.signatures."""
        known = sorted(self._of(job).clients.items())
        return {client: np.array(record.signature, np.float64) for client, record in known if record.signature}

    async def signature_halves(self, job: JobId) -> Mapping[ClientId, Float32]:
        """See Store.signature_halves."""
        known = sorted(self._of(job).clients.items())
        return {client: np.array(record.halves, np.float32) for client, record in known if record.halves}

    async def has_signatures(self, job: JobId) -> bool:
        """See Store.has_signatures."""
        return any(record.signature for record in self._of(job).clients.values())

    async def live(self, job: JobId, within_ms: int) -> list[ClientId]:
        """See Store.live."""
        oldest_ms = self._now_ms() - within_ms
        return sorted(client for client, seen_ms in self._of(job).seen_ms.items() if seen_ms >= oldest_ms)

    async def last_seen(self, job: JobId, clients: Collection[ClientId]) -> Mapping[ClientId, int]:
        """See Store.last_seen."""
        known = self._of(job).seen_ms
        return {client: known[client] for client in sorted(clients) if client in known}

    # -- the coordinator lease
    async def acquire(self, job: JobId, holder: str, ttl_ms: int) -> int | None:
        """See Store.acquire."""
        its = self._jobs.setdefault(job, KeptJob())
        now_ms = self._now_ms()
        held = its.holder is not None and now_ms < its.held_until_ms
        if held and its.holder != holder:
            its.held_until_ms = min(its.held_until_ms, now_ms + ttl_ms)
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

    # -- memberships
    async def memberships(self, job: JobId, version: int = 0) -> MembershipRecord | None:
        """See Store.memberships."""
        records = self._of(job).memberships
        return records.get(version or max(records, default=0))

    async def publish_memberships(self, job: JobId, record: MembershipRecord, expected_version: int) -> bool:
        """See Store.publish_memberships."""
        if record.version != expected_version + 1:
            raise refusals.wrong_membership_version(record.version, expected_version)
        its = self._jobs.setdefault(job, KeptJob())
        latest = max(its.memberships, default=0)
        if latest == record.version and its.memberships[latest] == record:
            return True
        if latest != expected_version:
            return False
        its.memberships[record.version] = record
        its.memberships.pop(record.version - KEPT_MEMBERSHIPS, None)
        return True
