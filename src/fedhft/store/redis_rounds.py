"""Rounds in Redis: opened, collected, folded, published; each transition is one script."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from pydantic import ValidationError

from fedhft.errors import ErrorCode, FedhftError
from fedhft.ids import ClientId, JobId
from fedhft.job import load_canonical
from fedhft.readings import History, Look
from fedhft.records import (
    AcceptResult,
    JobStatus,
    Phase,
    RoundHead,
    RoundRecord,
    Topic,
    Traffic,
    UpdateRecord,
    VersionRecord,
)
from fedhft.rounds import upgrade
from fedhft.store import keys, refusals
from fedhft.store.blobs import BlobStore
from fedhft.store.blobs_redis import RedisBlobs
from fedhft.store.connection import RedisConnection
from fedhft.store.keys import KEPT_UPDATE_ROUNDS, JobKeys
from fedhft.store.reading import reading


class RedisRounds:
    """The round part of RedisStore."""

    _redis: RedisConnection
    _blobs: BlobStore

    async def look(self, job: JobId, live_within_ms: int) -> Look:
        """See Store.look."""
        its = JobKeys(job)
        outcome, *found = await self._redis.run(
            "look", (its.job, its.clients, its.seen, its.round, its.declines), live_within_ms, its.updates_prefix
        )
        if outcome != b"ok":
            raise refusals.unknown_job(job)
        now_ms, status, reason, created_ms, paused, blocked, joined, live, declined, accepted, *at = found
        return Look(
            now_ms=int(now_ms),
            status=JobStatus(status.decode()),
            reason=reason.decode(),
            created_ms=int(created_ms),
            joined=joined,
            live=live,
            declined=declined,
            round=await self._head(job, at),
            accepted=accepted,
            paused=bool(paused),
            blocked=blocked.decode(),
        )

    async def _head(self, job: JobId, fields: list[bytes]) -> RoundHead | None:
        if not fields[0]:
            return None
        if b"" in fields:  # a round that an earlier release opened
            current = await self.round(job)
            return None if current is None else current.head
        number, phase, evaluation, base_version, opened_ms, deadline_ms, extensions, target, quorum, asked = fields
        return RoundHead(
            number=int(number),
            phase=Phase(phase.decode()),
            evaluation=evaluation == b"1",
            base_version=int(base_version),
            opened_ms=int(opened_ms),
            deadline_ms=int(deadline_ms),
            extensions=int(extensions),
            target=int(target),
            quorum=int(quorum),
            asked=int(asked),
        )

    async def open_round(self, job: JobId, round_: RoundRecord, fence: int) -> None:
        """See Store.open_round."""
        its = JobKeys(job)
        outcome, *detail = await self._redis.run(
            "open_round",
            (
                its.fence,
                its.job,
                its.round,
                its.participants,
                its.updates(round_.number - KEPT_UPDATE_ROUNDS),
                its.changes(Topic.TASKS),
                its.changes(Topic.PROGRESS),
                its.events,
            ),
            fence,
            round_.number,
            round_.to_json(),
            round_.phase.value,
            round_.base_version,
            round_.deadline_ms,
            int(round_.evaluation),
            round_.opened_ms,
            round_.target,
            round_.quorum,
            *round_.participants,
        )
        _check(outcome, detail, job, round_.number, fence)

    async def round(self, job: JobId) -> RoundRecord | None:
        """See Store.round."""
        record, phase, deadline_ms, extensions, pinned = await self._redis.call(
            "HMGET", JobKeys(job).round, "record", "phase", "deadline_ms", "extensions", "pinned"
        )
        if record is None:
            return None
        with reading(f"the round of job {job}"):
            try:
                opened = RoundRecord.from_json(record)
            except ValidationError:
                (spec_json,) = await self._redis.call("HMGET", JobKeys(job).job, "spec")
                opened = upgrade.with_plans(record, load_canonical(spec_json.decode()))
            return opened.model_copy(
                update={
                    "phase": Phase(phase.decode()),
                    "deadline_ms": int(deadline_ms),
                    "extensions": int(extensions),
                    "pinned": _sorted_clients(pinned),
                }
            )

    async def accept(
        self, job: JobId, update: UpdateRecord, lease_token: str, data: bytes | None = None
    ) -> AcceptResult:
        """See Store.accept."""
        if not update.digest:
            blob_state = "present"
        elif isinstance(self._blobs, RedisBlobs):
            blob_state = "look" if data is None else "data"
        elif data is not None:
            await self._blobs.put(job, data, update.digest)
            blob_state = "present"
        else:
            blob_state = "absent" if await self._blobs.size(job, update.digest) is None else "present"
        its = JobKeys(job)
        client = ClientId(update.client)
        outcome, *detail = await self._redis.run(
            "accept",
            (
                its.job,
                keys.agent(client),
                its.round,
                its.participants,
                its.updates(update.round),
                its.blob(update.digest),
                its.blobs,
                its.deliveries,
                its.changes(Topic.ARRIVALS),
            ),
            client,
            update.round,
            update.base_version,
            update.digest,
            update.model_dump_json(),
            lease_token,
            blob_state,
            *((data,) if data is not None and blob_state == "data" else ()),
        )
        match outcome:
            case b"accepted":
                return AcceptResult.ACCEPTED
            case b"repeated":
                return AcceptResult.REPEATED
            case b"not_enrolled":
                raise refusals.not_enrolled(client)
            case b"lease_superseded":
                raise refusals.lease_superseded(client)
            case b"not_participant":
                raise refusals.not_participant(client, update.round)
            case b"update_conflict":
                raise refusals.update_conflict(client, update.round)
            case b"stale_version":
                raise refusals.stale_version(update.base_version, detail[0].decode())
            case b"unknown_blob":
                raise refusals.unknown_blob(job, update.digest)
        raise _refusal(outcome, detail, job, update.round)

    async def updates(self, job: JobId, number: int) -> Mapping[ClientId, UpdateRecord]:
        """See Store.updates."""
        found = await self._redis.call("HGETALL", JobKeys(job).updates(number))
        with reading(f"an update of round {number} of job {job}"):
            return {
                ClientId(raw.decode()): UpdateRecord.model_validate_json(record)
                for raw, record in sorted(found.items())
            }

    async def update(self, job: JobId, number: int, client: ClientId) -> UpdateRecord | None:
        """See Store.update."""
        found = await self._redis.call("HGET", JobKeys(job).updates(number), client)
        with reading(f"the update of {client} in round {number} of job {job}"):
            return None if found is None else UpdateRecord.model_validate_json(found)

    async def delivered(self, job: JobId, number: int, client: ClientId) -> bool:
        """See Store.delivered."""
        return bool(await self._redis.call("HEXISTS", JobKeys(job).updates(number), client))

    async def deliveries(self, job: JobId, clients: Collection[ClientId]) -> Mapping[ClientId, int]:
        """See Store.deliveries."""
        names = sorted(clients)
        found = await self._redis.call("HMGET", JobKeys(job).deliveries, *names) if names else []
        return {client: int(count) for client, count in zip(names, found, strict=True) if count is not None}

    async def extend_round(self, job: JobId, number: int, deadline_ms: int, fence: int, counted: bool = True) -> None:
        """See Store.extend_round."""
        its = JobKeys(job)
        outcome, *detail = await self._redis.run(
            "extend_round", (its.fence, its.round, its.events), fence, number, deadline_ms, int(counted)
        )
        _check(outcome, detail, job, number, fence)

    async def begin_fold(self, job: JobId, number: int, fence: int) -> tuple[ClientId, ...]:
        """See Store.begin_fold."""
        its = JobKeys(job)
        outcome, *detail = await self._redis.run(
            "begin_fold", (its.fence, its.round, its.updates(number), its.changes(Topic.PROGRESS)), fence, number
        )
        _check(outcome, detail, job, number, fence)
        return _sorted_clients(detail[0])

    async def reopen_round(self, job: JobId, number: int, deadline_ms: int, fence: int) -> None:
        """See Store.reopen_round."""
        its = JobKeys(job)
        outcome, *detail = await self._redis.run(
            "reopen_round",
            (
                its.fence,
                its.round,
                its.updates(number),
                its.set_aside(number),
                its.changes(Topic.TASKS),
                its.changes(Topic.PROGRESS),
                its.events,
            ),
            fence,
            number,
            deadline_ms,
        )
        _check(outcome, detail, job, number, fence)

    async def publish(
        self,
        job: JobId,
        number: int,
        version: VersionRecord,
        summary: str,
        fence: int,
        traffic: Mapping[str, Traffic] | None = None,
        kept: int | None = None,
    ) -> bool:
        """See Store.publish."""
        its = JobKeys(job)
        outcome, *detail = await self._redis.run(
            "publish",
            (its.fence, its.round, its.versions, its.history, its.traffic, its.changes(Topic.PROGRESS), its.events),
            fence,
            number,
            version.version,
            version.model_dump_json(exclude_none=True),
            summary,
            0 if kept is None else kept,
            *(text for client, moved in (traffic or {}).items() for text in (client, json.dumps(moved))),
        )
        _check(outcome, detail, job, number, fence)
        return bool(detail[0])

    async def version(self, job: JobId, number: int | None = None) -> VersionRecord | None:
        """See Store.version."""
        outcome, *record = await self._redis.run(
            "read_latest", (JobKeys(job).versions,), "latest" if number is None else number
        )
        with reading(f"a version of job {job}"):
            return VersionRecord.model_validate_json(record[0]) if outcome == b"ok" else None

    async def drop_versions(self, job: JobId, below: int, fence: int, keep: int = 0) -> list[VersionRecord]:
        """See Store.drop_versions."""
        its = JobKeys(job)
        outcome, *dropped = await self._redis.run("drop_versions", (its.fence, its.versions), fence, below, keep)
        _check(outcome, dropped, job, below, fence)
        with reading(f"a version of job {job}"):
            records = [VersionRecord.model_validate_json(record) for record in dropped]
        return sorted(records, key=lambda record: record.version)

    async def history(self, job: JobId, start: int = 0, stop: int | None = None) -> History:
        """See Store.history."""
        its = JobKeys(job)
        kept_from, *entries = await self._redis.run(
            "read_history", (its.history, its.round), start, "" if stop is None else stop
        )
        return History(kept_from, tuple(entry.decode() for entry in entries))

    async def traffic(self, job: JobId, clients: Collection[str]) -> Mapping[str, Traffic]:
        """See Store.traffic."""
        if not clients:
            return {}
        names = list(clients)
        found = await self._redis.call("HMGET", JobKeys(job).traffic, *names)
        with reading(f"the traffic of job {job}"):
            return {name: _traffic(text) for name, text in zip(names, found, strict=True) if text is not None}


def _traffic(text: bytes) -> Traffic:
    socket_sent, socket_received, payload_sent, payload_received = json.loads(text)
    return (socket_sent, socket_received, payload_sent, payload_received)


def _sorted_clients(joined: bytes) -> tuple[ClientId, ...]:
    return tuple(sorted(ClientId(client) for client in joined.decode().split()))


def _refusal(outcome: bytes, detail: list[Any], job: JobId, number: int, fence: int = 0) -> FedhftError:
    match outcome:
        case b"fenced":
            return refusals.fenced(job, fence)
        case b"unknown_job":
            return refusals.unknown_job(job)
        case b"job_not_running":
            return refusals.job_not_running(job, detail[0].decode())
        case b"round_closed":
            return refusals.round_closed(job, number, detail[0].decode())
    return FedhftError(ErrorCode.INTERNAL, f"a store script returned an unknown outcome: {outcome!r}")


def _check(outcome: bytes, detail: list[Any], job: JobId, number: int, fence: int) -> None:
    if outcome != b"ok":
        raise _refusal(outcome, detail, job, number, fence)
