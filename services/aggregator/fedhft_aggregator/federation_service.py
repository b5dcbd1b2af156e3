"""The Federation service: what agents call. Receive, check, decide, record, answer."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager

from fedhft import PROTOCOL_VERSION
from fedhft.adapter import AdapterSchema
from fedhft.coordination.decoded import DecodedUpdates
from fedhft.coordination.job_cache import CachedJob, JobCache
from fedhft.coordination.tasks import next_task, with_outcome
from fedhft.errors import ErrorCode, FedhftError
from fedhft.ids import ClientId, JobId, parse_job_id
from fedhft.job import load_canonical
from fedhft.methods import Allocation
from fedhft.planning.estimates import Durations
from fedhft.records import AcceptResult, Phase
from fedhft.rounds import requests
from fedhft.rounds.acceptance import check_evaluation, check_header, evaluation_record
from fedhft.rounds.joining import (
    Application,
    capacity_of,
    check_application,
    check_authorised,
    check_enrolment,
    check_same_schema,
    client_record,
    decline_reason,
)
from fedhft.rpc.caller import Caller, Context, authenticate
from fedhft.rpc.go_ahead import GO_AHEAD
from fedhft.store.interface import Store
from fedhft.telemetry import metrics
from fedhft.telemetry.federations import CONTENT_CODES
from fedhft.v1 import federation_pb2, federation_pb2_grpc
from fedhft_aggregator.job_offers import JobOffers
from fedhft_aggregator.published_blobs import PublishedBlobs, piece_size
from fedhft_aggregator.transfer_places import TransferPlaces
from fedhft_aggregator.turns import Turns
from fedhft_aggregator.uploads import MAX_CHUNK_BYTES, MAX_INLINE_BYTES, Upload, Uploads, observe_client
from fedhft_aggregator.waiting import Waiting

log = logging.getLogger(__name__)

MAX_WAIT_MS = 55_000
"""Proxies on the way commonly end a call on which nothing moves for a minute."""
PULLS_AT_ONCE = 16


class Federation(federation_pb2_grpc.FederationServicer):
    """Serves agents over a store; keeps no state of its own but a cache."""

    def __init__(
        self,
        store: Store,
        cache: JobCache,
        reached: Callable[[str], None] = lambda point: None,
        decoded: DecodedUpdates | None = None,
    ) -> None:
        self._store = store
        self._cache = cache
        self._offers = JobOffers(store)
        self._uploads = Uploads(store, reached, decoded)
        self._waiting = Waiting(store, cache)
        self._turns = Turns(MAX_WAIT_MS / 1000)
        self._published = PublishedBlobs(store.blobs)
        # Blobs in memory are bounded by the streams that send at once, not by the number of clients.
        self._pulls = TransferPlaces(PULLS_AT_ONCE, "down")

    async def Enroll(self, request: federation_pb2.EnrollRequest, context: Context) -> federation_pb2.EnrollResponse:
        """Check identity and protocol; return a lease token and the jobs on offer."""
        caller = authenticate(context)
        client = caller.client(request.client)
        _check_protocol(request.protocol_version)
        check_enrolment(request.memory_bytes, request.agent_version, request.lease_token)
        agent = await self._store.enroll(
            client, request.memory_bytes, request.agent_version, request.lease_token, caller.serial
        )
        if agent.lease_token != request.lease_token:
            metrics.ENROLMENTS.inc()
            self._waiting.recall(client)  # another agent that waits under this name learns it at once
            log.info("agent enrolled", extra={"client": client, "version": request.agent_version, "peer": caller.peer})
        return federation_pb2.EnrollResponse(
            lease_token=agent.lease_token,
            jobs=await self._offers.to(client),
            max_wait_ms=MAX_WAIT_MS,
            max_chunk_bytes=MAX_CHUNK_BYTES,
            max_inline_bytes=MAX_INLINE_BYTES,
        )

    async def Preview(self, request: federation_pb2.PreviewRequest, context: Context) -> federation_pb2.PreviewResponse:
        """What Enroll would say, without a lease: for an operator who looks before an agent starts."""
        client = authenticate(context).client(request.client)
        _check_protocol(request.protocol_version)
        return federation_pb2.PreviewResponse(
            now_ms=await self._store.now_ms(),
            jobs=await self._offers.to(client),
            offer=await self._offers.get(parse_job_id(request.job), client) if request.job else None,
        )

    async def GetOffer(self, request: federation_pb2.GetOfferRequest, context: Context) -> federation_pb2.JobOffer:
        """A job that this client may join, with its spec."""
        caller, job = authenticate(context), parse_job_id(request.job)
        agent = await caller.agent(request, self._store)
        return await self._offers.get(job, agent.client)

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
            halves=tuple(request.signature_halves),
            has_shared_validation=request.has_shared_validation,
            trial=Durations.of(request.durations) if request.HasField("durations") else None,
            keeps_frozen_layers=request.keeps_frozen_layers,
            deepest=request.deepest,
            most_steps=request.most_steps,
            too_large=requests.plans_too_large(request.too_large),
        )
        check_application(spec, application)
        stored = AdapterSchema.from_json(await self._store.fix_schema(job, application.schema.to_json()))
        check_same_schema(stored, application.schema)
        known = await self._store.client(job, client)
        joined = client_record(spec, application, known, await self._store.now_ms())
        if joined != known:
            await self._store.join(job, joined)
            declined = {one.tier for one in joined.too_large} - {one.tier for one in (known.too_large if known else ())}
            for tier in declined:
                metrics.PLANS_TOO_LARGE.labels(federation=job, tier=tier).inc()
        if spec.method.allocation is Allocation.CAPACITY:
            before = (await self._store.capacities(job, [client])).get(client)
            same_data = known is None or known.data_digest == application.data_digest
            capacity = capacity_of(application, before, same_data=same_data)
            if capacity != before:
                await self._store.note_capacity(job, client, capacity)
        return federation_pb2.JoinResponse(tier=joined.tier)

    async def NextTask(
        self, request: federation_pb2.NextTaskRequest, context: Context
    ) -> federation_pb2.NextTaskResponse:
        """Answer with work as soon as there is some, or with Wait when the client's wait_ms have passed; and with what
        became of the client's last update, where it was not folded as sent and the client does not know.
        """
        caller, job = authenticate(context), parse_job_id(request.job)
        answer, cached, client = await self._next(request, caller, job)
        return with_outcome(answer, cached.outcomes.get(client), request.outcome_seen)

    async def _next(
        self, request: federation_pb2.NextTaskRequest, caller: Caller, job: JobId
    ) -> tuple[federation_pb2.NextTaskResponse, CachedJob, ClientId]:
        """The answer, the reading of the job that it comes from, and the client."""
        held = requests.held_of(request)
        clock = asyncio.get_running_loop()
        begun = clock.time()
        while True:
            poll = await caller.poll(request, job, self._store)
            client = poll.agent.client
            cached = await self._cache.get(job, poll.tasks)
            if cached.record.status.over:
                self._offers.ended(job)
                finished = federation_pb2.FinishedTask(status=cached.record.status.value, reason=cached.record.reason)
                return federation_pb2.NextTaskResponse(finished=finished), cached, client
            if not poll.joined:
                raise FedhftError(ErrorCode.NOT_JOINED, f"client {client} is not in job {job}; call Join first")
            if cached.round is not None and cached.round.number > poll.round:
                continue  # the job moved on between the two readings
            if poll.phase is Phase.COLLECTING and not poll.delivered and not cached.record.paused:
                task = next_task(cached, client, held)
                if task is not None:
                    return task, cached, client
            # A client that waits is alive, and must ask again before it would count as silent.
            wait_s = min(request.wait_ms / 1000, MAX_WAIT_MS / 1000, cached.spec.rounds.client_timeout / 2)
            until = self._turns.end(client, wait_s, begun)
            woken_by = None
            if (left := until - clock.time()) > 0:
                woken_by = await self._waiting.wait(job, client, poll.tasks, left)
            if woken_by is None and clock.time() >= until:
                nothing = federation_pb2.WaitTask(retry_after_ms=0)
                return federation_pb2.NextTaskResponse(wait=nothing), cached, client
            # Nothing of a round that has just opened can be delivered yet; about one that goes on, ask the store.
            if woken_by is not None and woken_by.round is not None and woken_by.round.number > poll.round:
                task = None if woken_by.record.paused else next_task(woken_by, client, held)
                if task is not None:
                    return task, woken_by, client

    # gRPC takes a coroutine that writes its answers, too; the generated types know generators only.
    async def PullBlob(  # type: ignore[override]
        self, request: federation_pb2.PullBlobRequest, context: Context
    ) -> None:
        """Send a published blob from an offset on, to a member of the job. Updates of clients are never served."""
        caller, job = authenticate(context), parse_job_id(request.job)
        poll = await caller.poll(request, job, self._store)
        client, digest = poll.agent.client, requests.blob_digest(request.digest)
        cached = await self._cache.get(job, poll.tasks)
        if not poll.joined:
            raise FedhftError(ErrorCode.NOT_JOINED, f"client {client} is not in job {job}; call Join first")
        if digest not in cached.served_digests:
            raise FedhftError(
                ErrorCode.UNKNOWN_BLOB, f"blob {digest[:16]} is not (or no longer) published; ask NextTask again"
            )
        part = cached.round.participants.get(client) if cached.round else None
        moved = metrics.PAYLOAD_BYTES.labels(
            federation=job,
            direction="down",
            payload="snapshot" if digest in cached.snapshot_digests else "delta",
            tier=part.plan.tier if part else "none",
        )
        begin = requests.number("offset", request.offset)
        async with self._pulls.place(client) as turn:
            async for offset, piece in self._published.pieces(job, digest, begin, piece_size(turn.crowded)):
                # Written here and not yielded, so that a reader that does not read is bounded in time.
                await context.write(federation_pb2.BlobChunk(offset=offset, data=piece))
                moved.inc(len(piece))
                turn.moved()

    async def PushUpdate(
        self, request_iterator: AsyncIterator[federation_pb2.PushUpdateRequest], context: Context
    ) -> federation_pb2.PushUpdateResponse:
        """Receive one update; a repeated one is acknowledged again."""
        first = await anext(request_iterator, None)
        if first is None or first.WhichOneof("message") != "header":
            raise FedhftError(ErrorCode.MALFORMED_UPDATE, "a push begins with its header; send it first")
        header = first.header
        requests.number("round", header.round)
        requests.number("base_version", header.base_version)
        caller, job = authenticate(context), parse_job_id(header.job)
        poll = await caller.poll(header, job, self._store)
        client = poll.agent.client
        if poll.delivered or header.round != poll.round:
            repeated = await self._repeated(client, job, header)
            if repeated is not None:
                return repeated
        cached = await self._cache.get(job, poll.tasks)
        with _refusals_counted(job):
            awaited = check_header(cached.record, cached.spec, cached.schema, cached.round, client, header)
            opened_s = time.monotonic() - max(0, poll.now_ms - awaited.opened_ms) / 1000
            upload = Upload(client, job, header.lease_token, awaited, header, opened_s)
            if header.query_staged:
                response = federation_pb2.PushUpdateResponse
                return response(result=response.RESULT_STAGED, staged_bytes=await self._uploads.staged(upload))
            return await self._uploads.receive(
                upload, request_iterator, lambda: context.send_initial_metadata(GO_AHEAD)
            )

    async def _repeated(
        self, client: ClientId, job: JobId, header: federation_pb2.UpdateHeader
    ) -> federation_pb2.PushUpdateResponse | None:
        """The acknowledgement of an update that is already recorded, even when its round is long over; else None."""
        known = await self._store.update(job, header.round, client)
        if known is None:
            return None
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
        check_evaluation(cached.spec, cached.round, request)
        part = cached.round.participants.get(client) if cached.round else None
        result = await self._store.accept(job, evaluation_record(client, request, part), request.lease_token)
        if part is not None and result is AcceptResult.ACCEPTED:
            observe_client(request.measurements, job, part.plan.tier)
        return federation_pb2.ReportEvaluationResponse(recorded=result is AcceptResult.ACCEPTED)

    async def Leave(self, request: federation_pb2.LeaveRequest, context: Context) -> federation_pb2.LeaveResponse:
        """Leave one job, or every job and the server."""
        client = (await authenticate(context).agent(request, self._store)).client
        if request.job:
            await self._store.leave(parse_job_id(request.job), client)
        else:
            for job in await self._store.open_jobs():
                await self._store.leave(job, client)
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


@contextmanager
def _refusals_counted(job: JobId) -> Iterator[None]:
    """Count an update that is refused for what it holds, and not for when it came."""
    try:
        yield
    except FedhftError as error:
        if error.code.value in CONTENT_CODES:
            metrics.UPDATES_REFUSED.labels(federation=job, code=error.code.value).inc()
        raise


def _check_protocol(version: int) -> None:
    """Raises FedhftError(PROTOCOL_VERSION)."""
    if version != PROTOCOL_VERSION:
        raise FedhftError.field(
            ErrorCode.PROTOCOL_VERSION, "protocol_version", version,
            f"this server speaks {PROTOCOL_VERSION}", "install the agent release that matches the server",
        )  # fmt: skip
