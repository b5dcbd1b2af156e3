"""Jobs in Redis: specification, status, clients, memberships and the coordinator lease."""

from __future__ import annotations

import json
import struct
from collections.abc import Collection, Mapping

import numpy as np

from fedhft.adapter import Float32, Float64
from fedhft.ids import ClientId, JobId
from fedhft.records import ClientRecord, JobRecord, JobStatus, MembershipRecord, Topic, VersionRecord
from fedhft.store import refusals
from fedhft.store.connection import RedisConnection
from fedhft.store.keys import JOBS, KEPT_MEMBERSHIPS, JobKeys
from fedhft.store.reading import reading


class RedisJobs:
    """The job part of RedisStore."""

    _redis: RedisConnection

    async def create_job(
        self,
        job: JobId,
        spec_json: str,
        submitted_by: str = "",
        schema_json: str = "",
        start: VersionRecord | None = None,
    ) -> bool:
        """See Store.create_job."""
        its = JobKeys(job)
        outcome, *created = await self._redis.run(
            "create_job",
            (its.job, JOBS, its.schema, its.events, its.versions),
            job,
            spec_json,
            submitted_by,
            schema_json,
            "" if start is None else start.model_dump_json(exclude_none=True),
        )
        if outcome == b"job_exists":
            raise refusals.job_exists(job)
        return bool(created[0])

    async def job(self, job: JobId) -> JobRecord:
        """See Store.job."""
        found = await self._redis.call("HGETALL", JobKeys(job).job)
        if not found:
            raise refusals.unknown_job(job)
        return _job_record(job, found)

    async def jobs(self) -> list[JobRecord]:
        """See Store.jobs."""
        ids = [JobId(raw.decode()) for raw in await self._redis.call("LRANGE", JOBS, 0, -1)]
        if not ids:
            return []
        found = await self._redis.together(*(("HGETALL", JobKeys(job).job) for job in ids))
        # One without fields is being deleted.
        return [_job_record(job, fields) for job, fields in zip(ids, found, strict=True) if fields]

    async def open_jobs(self) -> list[JobId]:
        """See Store.open_jobs."""
        prefix, _, suffix = JobKeys(JobId("*")).job.partition("*")
        over = [status.value for status in JobStatus if status.over]
        return [JobId(raw.decode()) for raw in await self._redis.run("open_jobs", (JOBS,), prefix, suffix, *over)]

    async def set_status(
        self, job: JobId, status: JobStatus, reason: str, expected: Collection[JobStatus], fence: int | None = None
    ) -> bool:
        """See Store.set_status."""
        its = JobKeys(job)
        outcome, *changed = await self._redis.run(
            "set_status",
            (
                *(its.job, its.fence),
                *(its.changes(topic) for topic in (Topic.TASKS, Topic.ARRIVALS, Topic.PROGRESS)),
                its.events,
            ),
            "" if fence is None else fence,
            status.value,
            reason,
            *(one.value for one in expected),
        )
        if outcome == b"unknown_job":
            raise refusals.unknown_job(job)
        if outcome == b"fenced" and fence is not None:
            raise refusals.fenced(job, fence)
        return bool(changed[0])

    async def fix_schema(self, job: JobId, schema_json: str) -> str:
        """See Store.fix_schema."""
        its = JobKeys(job)
        outcome, *stored = await self._redis.run("fix_schema", (its.job, its.schema), schema_json)
        if outcome == b"unknown_job":
            raise refusals.unknown_job(job)
        text: str = stored[0].decode()
        return text

    async def schema(self, job: JobId) -> str | None:
        """See Store.schema."""
        found = await self._redis.call("GET", JobKeys(job).schema)
        return None if found is None else str(found.decode())

    async def join(self, job: JobId, client: ClientRecord) -> None:
        """See Store.join."""
        its = JobKeys(job)
        (outcome,) = await self._redis.run(
            "join",
            (
                *(its.job, its.clients, its.seen, its.signatures, its.halves, its.declines),
                *(its.changes(Topic.ARRIVALS), its.client_events),
            ),
            client.client,
            client.model_dump_json(exclude={"signature", "halves"}),
            _packed(client.signature),
            np.array(client.halves, "<f4").tobytes(),
        )
        if outcome == b"unknown_job":
            raise refusals.unknown_job(job)

    async def set_signature(self, job: JobId, client: ClientId, signature: tuple[float, ...]) -> bool:
        """See Store.set_signature."""
        its = JobKeys(job)
        _, joined = await self._redis.run("set_signature", (its.clients, its.signatures), client, _packed(signature))
        return bool(joined)

    async def leave(self, job: JobId, client: ClientId, reason: str = "") -> bool:
        """See Store.leave."""
        its = JobKeys(job)
        _, left = await self._redis.run(
            "leave",
            (its.clients, its.seen, its.signatures, its.halves, its.changes(Topic.ARRIVALS), its.client_events),
            client,
            reason,
        )
        return bool(left)

    async def client(self, job: JobId, client: ClientId) -> ClientRecord | None:
        """See Store.client."""
        its = JobKeys(job)
        outcome, *found = await self._redis.run("read_client", (its.clients, its.signatures, its.halves), client)
        if outcome != b"ok":
            return None
        record, signature, halves = found
        with reading(f"client {client} of job {job}"):
            sent = tuple(np.frombuffer(halves, "<f4").tolist())
            return ClientRecord(**json.loads(record), signature=_unpacked(signature), halves=sent)

    async def clients(self, job: JobId, wanted: Collection[ClientId] | None = None) -> Mapping[ClientId, ClientRecord]:
        """See Store.clients."""
        key = JobKeys(job).clients
        if wanted is None:
            found = await self._redis.call("HGETALL", key)
            pairs = [(ClientId(raw.decode()), record) for raw, record in sorted(found.items())]
        else:
            names = sorted(wanted)
            records = await self._redis.call("HMGET", key, *names) if names else []
            pairs = list(zip(names, records, strict=True))
        with reading(f"a client of job {job}"):
            return {client: ClientRecord.model_validate_json(record) for client, record in pairs if record is not None}

    async def client_ids(self, job: JobId) -> list[ClientId]:
        """See Store.client_ids."""
        return sorted(ClientId(raw.decode()) for raw in await self._redis.call("HKEYS", JobKeys(job).clients))

    async def signatures(self, job: JobId) -> Mapping[ClientId, Float64]:
        """See Store.signatures."""
        found = await self._redis.call("HGETALL", JobKeys(job).signatures)
        return {ClientId(raw.decode()): np.frombuffer(packed, "<f8") for raw, packed in sorted(found.items())}

    async def signature_halves(self, job: JobId) -> Mapping[ClientId, Float32]:
        """See Store.signature_halves."""
        found = await self._redis.call("HGETALL", JobKeys(job).halves)
        return {ClientId(raw.decode()): np.frombuffer(packed, "<f4") for raw, packed in sorted(found.items())}

    async def has_signatures(self, job: JobId) -> bool:
        """See Store.has_signatures."""
        return bool(await self._redis.call("HLEN", JobKeys(job).signatures))

    async def live(self, job: JobId, within_ms: int) -> list[ClientId]:
        """See Store.live."""
        (found,) = await self._redis.run("live", (JobKeys(job).seen,), within_ms)
        return sorted(map(ClientId, filter(None, found.decode().split("\n"))))

    async def last_seen(self, job: JobId, clients: Collection[ClientId]) -> Mapping[ClientId, int]:
        """See Store.last_seen."""
        names = sorted(clients)
        found = await self._redis.call("ZMSCORE", JobKeys(job).seen, *names) if names else []
        return {client: int(float(score)) for client, score in zip(names, found, strict=True) if score is not None}

    async def acquire(self, job: JobId, holder: str, ttl_ms: int) -> int | None:
        """See Store.acquire."""
        its = JobKeys(job)
        outcome, *fence = await self._redis.run("acquire", (its.lease, its.fence), holder, ttl_ms)
        return int(fence[0]) if outcome == b"ok" else None

    async def release(self, job: JobId, holder: str) -> None:
        """See Store.release."""
        its = JobKeys(job)
        await self._redis.run("release", (its.lease, its.fence), holder)

    async def memberships(self, job: JobId, version: int = 0) -> MembershipRecord | None:
        """See Store.memberships."""
        outcome, *record = await self._redis.run("read_latest", (JobKeys(job).memberships,), version or "latest")
        with reading(f"the memberships of job {job}"):
            return MembershipRecord.model_validate_json(record[0]) if outcome == b"ok" else None

    async def publish_memberships(self, job: JobId, record: MembershipRecord, expected_version: int) -> bool:
        """See Store.publish_memberships."""
        if record.version != expected_version + 1:
            raise refusals.wrong_membership_version(record.version, expected_version)
        _, published = await self._redis.run(
            "publish_memberships",
            (JobKeys(job).memberships,),
            record.version,
            expected_version,
            record.model_dump_json(),
            KEPT_MEMBERSHIPS,
        )
        return bool(published)


def _job_record(job: JobId, fields: Mapping[bytes, bytes]) -> JobRecord:
    """A job's fields as a record; a damaged job is shown as one that failed, and hides no other."""
    try:
        status, created_ms = JobStatus(fields[b"status"].decode()), int(fields[b"created_ms"])
        spec_json, reason = fields[b"spec"].decode(), fields[b"reason"].decode()
    except (KeyError, ValueError) as error:
        damage = f"its record in the store is damaged ({type(error).__name__}: {error}); delete the job"
        return JobRecord(job=job, spec_json="", status=JobStatus.FAILED, reason=damage, created_ms=0)
    return JobRecord(
        job=job,
        spec_json=spec_json,
        status=status,
        reason=reason,
        created_ms=created_ms,
        submitted_by=fields.get(b"submitted_by", b"").decode(),
        schema_pinned=fields.get(b"schema_pinned") == b"1",
        paused=fields.get(b"paused", b"").decode(),
        blocked=fields.get(b"blocked", b"").decode(),
    )


def _packed(signature: tuple[float, ...]) -> bytes:
    return struct.pack(f"<{len(signature)}d", *signature)


def _unpacked(data: bytes) -> tuple[float, ...]:
    return struct.unpack(f"<{len(data) // 8}d", data)
