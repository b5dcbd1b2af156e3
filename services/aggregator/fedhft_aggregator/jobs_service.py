"""The Jobs service: what people call through the command line."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from fedhft.coordination.describe import describe, older_rounds, outline
from fedhft.coordination.exported import exported, kept_whole
from fedhft.coordination.known_clients import known_clients, remove_client
from fedhft.coordination.plan_explained import explained_plan
from fedhft.coordination.roster import Roster
from fedhft.coordination.state_blobs import save_start
from fedhft.errors import ErrorCode, FedhftError
from fedhft.identity import Role, parse_identity
from fedhft.ids import JobId, parse_client_id, parse_job_id
from fedhft.job import submitted_job
from fedhft.records import JobStatus, Topic
from fedhft.rounds import requests
from fedhft.rounds.joining import pinned_schema
from fedhft.rounds.starting import checked_start
from fedhft.rpc.caller import Context, authenticate
from fedhft.store.interface import Store
from fedhft.v1 import clients_pb2, jobs_pb2, jobs_pb2_grpc, plans_pb2
from fedhft_aggregator.loops import JobLoops
from fedhft_aggregator.published_blobs import PIECE_BYTES
from fedhft_aggregator.revocations import revocation_of

log = logging.getLogger(__name__)

MOST_UNFINISHED_JOBS = 200
"""Every one has a coordinator, and is offered to every agent."""
_WATCH_HEARTBEAT_S = 15.0
"""A watcher hears at least this often."""
_WATCH_LOOK_S = 3.0
"""How often a watch looks for what wakes nobody: updates that were accepted, clients that joined."""


async def _nothing() -> None:
    """Nobody follows the deny list."""


def _news(job: jobs_pb2.Job) -> bytes:
    """What of a message makes a difference to who watches."""
    told = jobs_pb2.Job()
    told.CopyFrom(job)
    # What differs in messages about the same; rounds that a message brings are looked at by themselves.
    for name in ("age_seconds", "history"):
        told.ClearField(name)
    if told.HasField("open"):
        told.open.ClearField("seconds")
        told.open.ClearField("seconds_left")
    return told.SerializeToString(deterministic=True)


class Jobs(jobs_pb2_grpc.JobsServicer):
    """Serves people over a store."""

    def __init__(self, store: Store, loops: JobLoops, on_revoked: Callable[[], Awaitable[None]] = _nothing) -> None:
        """`on_revoked` is awaited before a revocation is acknowledged."""
        self._store = store
        self._roster = Roster(store)
        self._loops = loops
        self._on_revoked = on_revoked

    async def Submit(self, request: jobs_pb2.SubmitJobRequest, context: Context) -> jobs_pb2.Job:
        """Validate strictly, store the canonical form, start driving the job."""
        caller = authenticate(context)
        spec = submitted_job(request.spec_json)
        job = parse_job_id(spec.name)
        await self._check_room(job)
        pinned = pinned_schema(spec, request.schema_json)
        snapshots = checked_start(spec, pinned, request.start)
        start = await save_start(self._store.blobs, job, spec, pinned, snapshots)
        if await self._store.create_job(job, spec.canonical(), caller.operator, pinned, start):
            log.info("job submitted", extra={"job": job, "by": caller.name, "peer": caller.peer})
        self._loops.start(job)
        return await describe(self._store, await self._store.job(job))

    async def _check_room(self, job: JobId) -> None:
        """Refuse a further job where there are as many unfinished ones as there may be. Raises TOO_MANY_JOBS."""
        unfinished = await self._store.open_jobs()
        if job not in unfinished and len(unfinished) >= MOST_UNFINISHED_JOBS:
            raise FedhftError.field(
                ErrorCode.TOO_MANY_JOBS, "unfinished jobs", len(unfinished),
                f"at most {MOST_UNFINISHED_JOBS} are driven", "wait for one to end, or cancel or delete one",
            )  # fmt: skip

    async def Get(self, request: jobs_pb2.GetJobRequest, context: Context) -> jobs_pb2.Job:
        """One job, with a page of its history."""
        authenticate(context)
        record = await self._store.job(parse_job_id(request.job))
        after = requests.number("history_after", request.history_after)
        last = requests.number("history_last", request.history_last)
        before = requests.number("history_before", request.history_before)
        if before:
            return await older_rounds(self._store, record, before=before, after=after, last=last)
        return await describe(self._store, record, after=after, last=last)

    async def List(self, request: jobs_pb2.ListJobsRequest, context: Context) -> jobs_pb2.ListJobsResponse:
        """Every job, oldest first, without specs and histories."""
        authenticate(context)
        jobs = []
        for record in await self._store.jobs():
            job = await outline(self._store, record)
            job.ClearField("results")
            jobs.append(job)
        return jobs_pb2.ListJobsResponse(jobs=jobs)

    async def Watch(self, request: jobs_pb2.WatchJobRequest, context: Context) -> AsyncIterator[jobs_pb2.Job]:
        """The job now and after every change, until it ends; every round of its history from where it begins once."""
        caller = authenticate(context)
        name, sent = parse_job_id(request.job), requests.number("history_after", request.history_after)
        last = requests.number("history_last", request.history_last)
        last_told: bytes | None = None
        told_at = 0.0
        while True:
            caller.recheck()  # a watch may outlast what its caller is allowed
            seen = await self._store.changes(name, Topic.PROGRESS)
            record = await self._store.job(name)
            job = await describe(self._store, record, after=sent, last=last)
            now = time.monotonic()
            news = _news(job)
            if job.history or news != last_told or now - told_at >= _WATCH_HEARTBEAT_S:
                yield job
                last_told, told_at = news, now
            last = 0
            if job.history:
                sent = job.history[-1].round
                if sent < job.rounds_done:
                    continue
            if record.status.over:
                return
            await self._store.wait_change(name, Topic.PROGRESS, seen, _WATCH_LOOK_S)

    async def Clients(
        self, request: clients_pb2.ListClientsRequest, context: Context
    ) -> clients_pb2.ListClientsResponse:
        """A page of the clients that serve a job, or will not."""
        authenticate(context)
        record = await self._store.job(parse_job_id(request.job))
        return await self._roster.page(record, request.after, request.limit)

    async def ExplainPlan(
        self, request: plans_pb2.ExplainPlanRequest, context: Context
    ) -> plans_pb2.ExplainPlanResponse:
        """The plans of a job that plans by capacity, in force or supposed."""
        authenticate(context)
        return await explained_plan(self._store, parse_job_id(request.job), request.what_if)

    async def Events(self, request: jobs_pb2.ListEventsRequest, context: Context) -> jobs_pb2.ListEventsResponse:
        """What happened to a job, the newest of it."""
        authenticate(context)
        name = parse_job_id(request.job)
        await self._store.job(name)
        events = (await self._store.events(name))[-request.last :]
        return jobs_pb2.ListEventsResponse(
            events=[jobs_pb2.JobEvent(**event.model_dump(mode="json")) for event in events],
            now_ms=await self._store.now_ms(),
        )

    async def KnownClients(
        self, request: clients_pb2.ListKnownClientsRequest, context: Context
    ) -> clients_pb2.ListKnownClientsResponse:
        """A page of the clients that are enrolled or in a job."""
        authenticate(context)
        return await known_clients(self._store, request.after, request.limit)

    async def RemoveClient(
        self, request: clients_pb2.RemoveClientRequest, context: Context
    ) -> clients_pb2.RemoveClientResponse:
        """Take a client out of its jobs and end its lease."""
        caller = authenticate(context)
        client = parse_client_id(request.client)
        left = await remove_client(self._store, client, requests.reason(request.reason, "removed"))
        log.info("client removed", extra={"client": client, "jobs": left, "by": caller.name, "peer": caller.peer})
        return clients_pb2.RemoveClientResponse(jobs=left)

    async def Cancel(self, request: jobs_pb2.CancelJobRequest, context: Context) -> jobs_pb2.Job:
        """End a job that has not ended."""
        caller = authenticate(context)
        name = parse_job_id(request.job)
        reason = requests.reason(request.reason, "cancelled")
        alive = [status for status in JobStatus if not status.over]
        if not await self._store.set_status(name, JobStatus.CANCELLED, reason, alive):
            record = await self._store.job(name)
            raise FedhftError(ErrorCode.JOB_NOT_RUNNING, f"job {name} is already {record.status}; nothing to cancel")
        log.info("job cancelled", extra={"job": name, "by": caller.name, "peer": caller.peer, "reason": request.reason})
        return await describe(self._store, await self._store.job(name))

    async def Pause(self, request: jobs_pb2.PauseJobRequest, context: Context) -> jobs_pb2.Job:
        """Let a job wait until somebody resumes it."""
        caller = authenticate(context)
        name = parse_job_id(request.job)
        if not await self._store.pause_job(name, requests.reason(request.reason, "paused")):
            record = await self._store.job(name)
            state = "paused already" if record.paused else f"already {record.status}"
            raise FedhftError(ErrorCode.JOB_NOT_RUNNING, f"job {name} is {state}; nothing to pause")
        log.info("job paused", extra={"job": name, "by": caller.name, "peer": caller.peer, "reason": request.reason})
        return await describe(self._store, await self._store.job(name))

    async def Resume(self, request: jobs_pb2.ResumeJobRequest, context: Context) -> jobs_pb2.Job:
        """Let a paused job go on."""
        caller = authenticate(context)
        name = parse_job_id(request.job)
        if not await self._store.resume_job(name):
            raise FedhftError(ErrorCode.JOB_NOT_RUNNING, f"job {name} is not paused; nothing to resume")
        log.info("job resumed", extra={"job": name, "by": caller.name, "peer": caller.peer})
        self._loops.start(name)
        return await describe(self._store, await self._store.job(name))

    async def Delete(self, request: jobs_pb2.DeleteJobRequest, context: Context) -> jobs_pb2.DeleteJobResponse:
        """Delete everything of a job that is over; of any other only by force."""
        caller = authenticate(context)
        name = parse_job_id(request.job)
        allowed = [status for status in JobStatus if request.force or status.over]
        await self._store.delete_job(name, allowed)
        log.info("job deleted", extra={"job": name, "by": caller.name, "peer": caller.peer, "force": request.force})
        return jobs_pb2.DeleteJobResponse()

    async def Export(self, request: jobs_pb2.ExportJobRequest, context: Context) -> jobs_pb2.ExportJobResponse:
        """References to what is needed to build the adapters of a version."""
        authenticate(context)
        return await exported(self._store, parse_job_id(request.job), requests.number("version", request.version))

    async def Blob(self, request: jobs_pb2.JobBlobRequest, context: Context) -> AsyncIterator[jobs_pb2.JobBlobChunk]:
        """A snapshot's bytes from an offset on."""
        authenticate(context)
        name = parse_job_id(request.job)
        versions = await kept_whole(self._store, name)
        offered = {blob.digest for version in versions for blob in version.snapshots.values()}
        digest = requests.blob_digest(request.digest)
        size = await self._store.blobs.size(name, digest) if digest in offered else None
        if size is None:
            raise FedhftError(ErrorCode.UNKNOWN_BLOB, f"blob {digest[:16]} is in no version that is kept; export again")
        offset = requests.number("offset", request.offset)
        while offset < size:
            data = await self._store.blobs.get(name, digest, offset, PIECE_BYTES)
            yield jobs_pb2.JobBlobChunk(offset=offset, data=data)
            offset += len(data)

    async def Revoke(self, request: jobs_pb2.RevokeRequest, context: Context) -> jobs_pb2.RevokeResponse:
        """Put a certificate on the deny list of every service; an agent's lease ends with it."""
        caller = authenticate(context)
        serial, revocation = revocation_of(request)
        await self._store.revoke(serial, revocation)
        await self._on_revoked()
        holder = parse_identity(revocation.identity)
        if holder.role is Role.AGENT:
            await self._store.forget_agent(parse_client_id(holder.name))
        log.warning(
            "certificate revoked",
            extra={"identity": holder.uri, "serial": serial, "by": caller.name, "reason": revocation.reason},
        )
        return jobs_pb2.RevokeResponse(revoked=len(await self._store.revocations()))
