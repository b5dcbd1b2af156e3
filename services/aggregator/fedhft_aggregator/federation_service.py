"""The Federation service: what agents call. Receive, check, decide, record, answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable

from fedhft import PROTOCOL_VERSION
from fedhft.adapter import AdapterSchema
from fedhft.coordination.job_cache import CachedJob, JobCache
from fedhft.coordination.tasks import next_task
from fedhft.errors import ErrorCode, FedhftError
from fedhft.ids import ClientId, JobId, parse_job_id
from fedhft.job import load_canonical
from fedhft.records import AcceptResult, Phase, Topic
from fedhft.rounds.acceptance import check_evaluation, check_header, evaluation_record
from fedhft.rounds.joining import (
    Application,
    check_application,
    check_authorised,
    check_same_schema,
    client_record,
    decline_reason,
)
from fedhft.rpc.caller import Context, authenticate
from fedhft.rpc.go_ahead import GO_AHEAD
from fedhft.store.interface import Store
from fedhft.telemetry import metrics
from fedhft.v1 import federation_pb2, federation_pb2_grpc
from fedhft_aggregator.uploads import MAX_CHUNK_BYTES, Upload, Uploads, observe_agent

log = logging.getLogger(__name__)

MAX_WAIT_MS = 30_000
SEND_CHUNK_BYTES = 256 * 1024
_PULLS_AT_ONCE = 16


class Federation(federation_pb2_grpc.FederationServicer):
    """Serves agents over a store; keeps no state of its own but a cache."""

    def __init__(self, store: Store, cache: JobCache, reached: Callable[[str], None] = lambda point: None) -> None:
        self._store = store
        self._cache = cache
        self._uploads = Uploads(store, reached)
        # Blobs in memory are bounded by the streams that send at once, not by the number of clients.
        self._pulls = asyncio.Semaphore(_PULLS_AT_ONCE)

    async def Enroll(self, request: federation_pb2.EnrollRequest, context: Context) -> federation_pb2.EnrollResponse:
        """Check identity and protocol; return a lease token and the jobs on offer."""
        caller = authenticate(context)
        client = caller.client(request.client)
        if request.protocol_version != PROTOCOL_VERSION:
            raise FedhftError.field(
                ErrorCode.PROTOCOL_VERSION, "protocol_version", request.protocol_version,
                f"this server speaks {PROTOCOL_VERSION}", "install the agent release that matches the server",
            )  # fmt: skip
        agent = await self._store.enroll(client, request.memory_bytes, request.agent_version, request.lease_token)
        if agent.lease_token != request.lease_token:
            log.info("agent enrolled", extra={"client": client, "version": request.agent_version, "peer": caller.peer})
        offers = []
        for record in await self._store.jobs():
            if record.status.over:
                continue
            try:
                allowed = load_canonical(record.spec_json).clients
            except FedhftError as error:  # e.g. of another release; agents can still serve the other jobs
                log.warning("job not offered: %s", error, extra={"job": record.job})
                continue
            if not allowed or client in allowed:
                offers.append(
                    federation_pb2.JobOffer(
                        job=record.job, spec_json=record.spec_json, submitted_by=record.submitted_by
                    )
                )
        return federation_pb2.EnrollResponse(
            lease_token=agent.lease_token, jobs=offers, max_wait_ms=MAX_WAIT_MS, max_chunk_bytes=MAX_CHUNK_BYTES
        )

    async def Join(self, request: federation_pb2.JoinRequest, context: Context) -> federation_pb2.JoinResponse:
        """Admit a client whose schema agrees with the job's; the first client's schema becomes the job's."""
        caller, job = authenticate(context), parse_job_id(request.job)
        agent = await caller.agent(request, self._store)
        client = agent.client
        record = await self._store.job(job)
        if record.status.over:
            raise FedhftError(ErrorCode.JOB_NOT_RUNNING, f"job {job} is {record.status}: {record.reason or 'it ended'}")
        spec = load_canonical(record.spec_json)
        check_authorised(spec, client)
        application = Application(
            client=client,
            memory_bytes=agent.memory_bytes,
            tier=request.tier,
            schema=AdapterSchema.from_json(request.schema_json),
            samples=request.samples,
            data_digest=request.data_digest,
            signature=tuple(request.signature),
            has_shared_validation=request.has_shared_validation,
        )
        check_application(spec, application)
        stored = AdapterSchema.from_json(await self._store.fix_schema(job, application.schema.to_json()))
        check_same_schema(stored, application.schema)
        known = await self._store.client(job, client)
        joined = client_record(spec, application, known, await self._store.now_ms())
        if joined != known:
            await self._store.join(job, joined)
        return federation_pb2.JoinResponse(tier=joined.tier)

    async def NextTask(
        self, request: federation_pb2.NextTaskRequest, context: Context
    ) -> federation_pb2.NextTaskResponse:
        """Answer with work as soon as there is some, or with Wait when the client's wait_ms have passed."""
        caller, job = authenticate(context), parse_job_id(request.job)
        held = {scope.scope: scope.version for scope in request.held}
        clock = asyncio.get_running_loop()
        until = clock.time() + min(request.wait_ms, MAX_WAIT_MS) / 1000
        while True:
            client = (await caller.agent(request, self._store)).client
            seen = await self._store.changes(job, Topic.TASKS)
            cached = await self._cache.get(job, seen)
            if cached.record.status.over:
                finished = federation_pb2.FinishedTask(status=cached.record.status.value, reason=cached.record.reason)
                return federation_pb2.NextTaskResponse(finished=finished)
            if client not in cached.clients and await self._store.client(job, client) is None:
                raise FedhftError(ErrorCode.NOT_JOINED, f"client {client} is not in job {job}; call Join first")
            if await self._has_work(cached, client):
                task = next_task(cached, client, held)
                if task is not None:
                    return task
            left = until - clock.time()
            if left <= 0:
                return federation_pb2.NextTaskResponse(wait=federation_pb2.WaitTask(retry_after_ms=0))
            await self._store.wait_change(job, Topic.TASKS, seen, left)

    async def _has_work(self, cached: CachedJob, client: ClientId) -> bool:
        current = cached.round
        if current is None or current.phase is not Phase.COLLECTING or client not in current.participants:
            return False
        return not await self._store.delivered(JobId(cached.record.job), current.number, client)

    async def PullBlob(
        self, request: federation_pb2.PullBlobRequest, context: Context
    ) -> AsyncIterator[federation_pb2.BlobChunk]:
        """Send a published blob from an offset on. Updates of other clients are never served."""
        caller, job = authenticate(context), parse_job_id(request.job)
        agent = await caller.agent(request, self._store)
        client = agent.client
        digest = request.digest.hex()
        cached = await self._cache.get(job)
        if digest not in cached.served_digests():
            raise FedhftError(
                ErrorCode.UNKNOWN_BLOB, f"blob {digest[:16]} is not (or no longer) published; ask NextTask again"
            )
        part = cached.round.participants.get(client) if cached.round else None
        moved = metrics.PAYLOAD_BYTES.labels(
            direction="down",
            payload="snapshot" if digest in cached.snapshot_digests() else "delta",
            tier=part.plan.tier if part else "none",
        )
        async with self._pulls:
            async for chunk in self._chunks(job, digest, request.offset):
                moved.inc(len(chunk.data))
                yield chunk

    async def _chunks(self, job: JobId, digest: str, offset: int) -> AsyncIterator[federation_pb2.BlobChunk]:
        blobs = self._store.blobs
        size = await blobs.size(job, digest)
        if size is None:
            raise FedhftError(ErrorCode.UNKNOWN_BLOB, f"blob {digest[:16]} is not in the store; ask NextTask again")
        if offset > size:
            raise FedhftError.field(
                ErrorCode.WRONG_OFFSET, "offset", offset, f"the blob has {size} bytes", "start where your copy ends"
            )
        while offset < size:
            data = await blobs.get(job, digest, offset, SEND_CHUNK_BYTES)
            yield federation_pb2.BlobChunk(offset=offset, data=data)
            offset += len(data)

    async def PushUpdate(
        self, request_iterator: AsyncIterator[federation_pb2.PushUpdateRequest], context: Context
    ) -> federation_pb2.PushUpdateResponse:
        """Receive one update; a repeated one is acknowledged again."""
        first = await anext(request_iterator, None)
        if first is None or first.WhichOneof("message") != "header":
            raise FedhftError(ErrorCode.MALFORMED_UPDATE, "a push begins with its header; send it first")
        header = first.header
        caller, job = authenticate(context), parse_job_id(header.job)
        client = (await caller.agent(header, self._store)).client
        repeated = await self._repeated(client, job, header)
        if repeated is not None:
            return repeated
        cached = await self._cache.get(job)
        awaited = check_header(cached.record, cached.spec, cached.schema, cached.round, client, header)
        upload = Upload(client, job, header.lease_token, awaited, header)
        if header.query_staged:
            response = federation_pb2.PushUpdateResponse
            return response(result=response.RESULT_STAGED, staged_bytes=await self._uploads.staged(upload))
        return await self._uploads.receive(upload, request_iterator, lambda: context.send_initial_metadata(GO_AHEAD))

    async def _repeated(
        self, client: ClientId, job: JobId, header: federation_pb2.UpdateHeader
    ) -> federation_pb2.PushUpdateResponse | None:
        """The acknowledgement of an update that is already recorded, even when its round is long over; else None."""
        if not await self._store.delivered(job, header.round, client):
            return None
        known = (await self._store.updates(job, header.round))[client]
        if known.digest != header.digest.hex():
            raise FedhftError(
                ErrorCode.UPDATE_CONFLICT,
                f"round {header.round} already has another update of client {client}; it stands, ask NextTask",
            )
        response = federation_pb2.PushUpdateResponse
        return response(result=response.RESULT_REPEATED, staged_bytes=header.size)

    async def ReportEvaluation(
        self, request: federation_pb2.ReportEvaluationRequest, context: Context
    ) -> federation_pb2.ReportEvaluationResponse:
        """Record the scores of the final evaluation."""
        caller, job = authenticate(context), parse_job_id(request.job)
        agent = await caller.agent(request, self._store)
        client = agent.client
        cached = await self._cache.get(job)
        check_evaluation(cached.round, request)
        part = cached.round.participants.get(client) if cached.round else None
        result = await self._store.accept(job, evaluation_record(client, request, part), request.lease_token)
        if part is not None and result is AcceptResult.ACCEPTED:
            observe_agent(request.measurements, part.plan.tier)
        return federation_pb2.ReportEvaluationResponse(recorded=result is AcceptResult.ACCEPTED)

    async def Leave(self, request: federation_pb2.LeaveRequest, context: Context) -> federation_pb2.LeaveResponse:
        """Leave one job, or every job and the server."""
        client = (await authenticate(context).agent(request, self._store)).client
        if request.job:
            await self._store.leave(parse_job_id(request.job), client)
        else:
            for record in await self._store.jobs():
                await self._store.leave(JobId(record.job), client)
            await self._store.forget_agent(client)
        return federation_pb2.LeaveResponse()

    async def Decline(self, request: federation_pb2.DeclineRequest, context: Context) -> federation_pb2.DeclineResponse:
        """Leave a job, and record why for those who run it."""
        client = (await authenticate(context).agent(request, self._store)).client
        job = parse_job_id(request.job)
        check_authorised(load_canonical((await self._store.job(job)).spec_json), client)
        reason = decline_reason(request.reason)
        await self._store.leave(job, client)
        await self._store.decline(job, client, reason)
        log.info("job declined", extra={"job": job, "client": client, "reason": reason})
        return federation_pb2.DeclineResponse()
