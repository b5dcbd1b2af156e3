"""Receiving updates: header, chunks, checks, one durable append, then the acknowledgement.

A small update (one piece) stays in memory until it is stored and recorded. A larger one is staged in the store piece by
piece, so a broken stream resumes at its offset, on this replica or another. Memory is bounded by the number of streams
that may receive at once, not by the number of clients. The others wait for the go-ahead until their deadline; a client
that does not wait for it is held by gRPC's flow control.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass

from fedhft.adapter import AdapterSchema
from fedhft.coordination.job_cache import CachedJob
from fedhft.coordination.tasks import update_bound
from fedhft.errors import ErrorCode, FedhftError
from fedhft.ids import ClientId, JobId
from fedhft.plan import AdapterPlan
from fedhft.records import AcceptResult, RoundRecord, UpdateRecord
from fedhft.rounds.acceptance import check_update, largest_values
from fedhft.rounds.summary import write_report
from fedhft.store.interface import Store
from fedhft.telemetry import metrics
from fedhft.v1 import adapter_pb2, federation_pb2
from fedhft.wire.codec import decode
from fedhft_aggregator.intake import Intake

MAX_CHUNK_BYTES = 1 << 20
STREAMS_AT_ONCE = 16
_CHECKS_AT_ONCE = 2
_CHUNK_TIMEOUT_S = 60.0
MAX_SIGNATURE = 4096
_MAX_SCORES = 32
_MAX_COUNT = 2**53
_CHECK_IN_THREAD_ABOVE = 1 << 19

Chunks = AsyncIterator[federation_pb2.PushUpdateRequest]


@dataclass(frozen=True)
class Upload:
    """One update being pushed: who, what for, and what its plan allows."""

    client: ClientId
    job: JobId
    lease_token: str
    view: CachedJob
    schema: AdapterSchema
    current: RoundRecord
    plan: AdapterPlan
    header: federation_pb2.UpdateHeader

    @property
    def digest(self) -> str:
        """Hex SHA-256 the client claims; empty where nothing is shared."""
        return self.header.digest.hex()

    @property
    def transfer(self) -> str:
        """Name of the staged transfer: one per client and round, so that a client can never pile them up."""
        return hashlib.sha256(f"{self.client}\x1f{self.header.round}".encode()).hexdigest()


def check_header(client: ClientId, job: JobId, view: CachedJob, header: federation_pb2.UpdateHeader) -> Upload:
    """What can be refused before a byte of tensor is read. Raises FedhftError with the refusal's code."""
    current = view.round
    if view.record.status.over:
        raise FedhftError(
            ErrorCode.JOB_NOT_RUNNING, f"job {job} is {view.record.status}: {view.record.reason or 'it has ended'}"
        )
    if current is None or view.schema is None or header.round != current.number:
        open_now = 0 if current is None else current.number
        raise FedhftError(
            ErrorCode.ROUND_CLOSED,
            f"round = {header.round}: the job is at round {open_now}; ask NextTask for the current one",
        )
    if current.evaluation:
        raise FedhftError(
            ErrorCode.ROUND_CLOSED, f"round {header.round} is the final evaluation and takes no updates; ask NextTask"
        )
    if header.base_version != current.base_version:
        raise FedhftError.field(
            ErrorCode.STALE_VERSION, "base_version", header.base_version,
            f"round {current.number} starts from version {current.base_version}", "train the task NextTask gives",
        )  # fmt: skip
    check_report(header.scores, header.measurements, header.signature)
    if str(client) not in current.participants:
        raise FedhftError(
            ErrorCode.NOT_PARTICIPANT, f"client {client} was not asked in round {header.round}; ask NextTask for a task"
        )
    if len(header.digest) not in (0, 32):
        raise FedhftError(
            ErrorCode.MALFORMED_UPDATE, f"digest has {len(header.digest)} bytes; send the 32 bytes of a SHA-256"
        )
    plan = current.participants[str(client)].plan
    bound = update_bound(view, view.schema, plan)
    if header.size > bound:
        raise FedhftError.field(
            ErrorCode.UPDATE_TOO_LARGE, "size", header.size, f"the plan allows {bound} bytes",
            "send only the rows of the plan, or raise limits.update_bytes",
        )  # fmt: skip
    if (header.size == 0) != (bound == 0) or (header.size > 0) != (len(header.digest) == 32):
        raise FedhftError.field(
            ErrorCode.MALFORMED_UPDATE, "size", header.size, "does not fit the job's method or the digest",
            "methods that share nothing send size 0 and no digest, all others both",
        )  # fmt: skip
    return Upload(client, job, header.lease_token, view, view.schema, current, plan, header)


class Uploads:
    """Receives updates for one process."""

    def __init__(self, store: Store, reached: Callable[[str], None]) -> None:
        self._store = store
        self._reached = reached
        self._streams = asyncio.Semaphore(STREAMS_AT_ONCE)
        self._checks = asyncio.Semaphore(_CHECKS_AT_ONCE)

    async def staged(self, upload: Upload) -> int:
        """Bytes of this update that are here already."""
        blobs = self._store.blobs
        if upload.digest and await blobs.size(upload.job, upload.digest) is not None:
            return int(upload.header.size)
        return await blobs.staged(upload.job, upload.transfer)

    async def receive(
        self, upload: Upload, chunks: Chunks, go_ahead: Callable[[], Awaitable[None]]
    ) -> federation_pb2.PushUpdateResponse:
        """Take the chunks, check the whole, record it. Raises FedhftError; nothing accepted is ever lost by it.

        `go_ahead` is called when it is this stream's turn: its client sends no chunk before.
        """
        with metrics.QUEUE_WAIT_SECONDS.time():
            await self._streams.acquire()
        try:
            if upload.header.size:
                await go_ahead()
                await self._take(upload, chunks)
        finally:
            self._streams.release()
        return await self._record(upload)

    async def _take(self, upload: Upload, chunks: Chunks) -> None:
        """Check the update and store it under its digest.

        A refused update's bytes are left to the sweep: the same bytes may be another client's accepted update.
        """
        blobs, size = self._store.blobs, int(upload.header.size)
        intake = Intake(blobs, upload.job, upload.transfer, size)
        try:
            async for chunk in _within(chunks):
                await intake.add(chunk)
        finally:
            await intake.stage()  # also of a stream that broke: the next attempt goes on from there
        if (data := intake.whole) is not None:
            if hashlib.sha256(data).digest() != upload.header.digest:
                raise FedhftError(
                    ErrorCode.DIGEST_MISMATCH, "the bytes received do not have the declared SHA-256; send them again"
                )
            await self._check(upload, data)
            await blobs.put(upload.job, data)
            return
        received = await self.staged(upload) if intake.received is None else intake.received
        if received != size:
            raise FedhftError(
                ErrorCode.TRUNCATED_STREAM,
                f"the stream ended after {received} of {size} bytes; ask with query_staged and resume there",
            )
        if await blobs.size(upload.job, upload.digest) is None:
            await blobs.commit(upload.job, upload.transfer, upload.digest)
        await self._check(upload, None)

    async def _check(self, upload: Upload, data: bytes | None) -> None:
        """Decode and check; None reads the stored blob, once it is this update's turn, so that few are in memory."""
        spec, schema, plan = upload.view.spec, upload.schema, upload.plan

        def check(data: bytes) -> None:
            most = largest_values(spec, schema, plan)
            blob = decode(data, schema, kind=adapter_pb2.BLOB_KIND_UPDATE, max_values=most)
            check_update(spec, schema, plan, blob.delta)
            if blob.version != upload.header.base_version:
                raise FedhftError.field(
                    ErrorCode.MALFORMED_UPDATE, "version of the blob", blob.version,
                    f"the header says base_version = {upload.header.base_version}", "send the update of this round",
                )  # fmt: skip

        async with self._checks:
            if data is None:
                data = await self._store.blobs.get(upload.job, upload.digest)
            if len(data) > _CHECK_IN_THREAD_ABOVE:
                await asyncio.to_thread(check, data)
            else:
                check(data)

    async def _record(self, upload: Upload) -> federation_pb2.PushUpdateResponse:
        header = upload.header
        result = await self._store.accept(
            upload.job,
            UpdateRecord(
                client=str(upload.client),
                round=header.round,
                base_version=header.base_version,
                digest=upload.digest,
                size=header.size,
                samples=upload.current.participants[str(upload.client)].samples,
                report=write_report(header.scores, header.measurements, header.signature),
            ),
            upload.lease_token,
        )
        self._reached("accepted")
        response = federation_pb2.PushUpdateResponse
        if result is AcceptResult.REPEATED:
            return response(result=response.RESULT_REPEATED, staged_bytes=header.size)
        tier = upload.plan.tier
        metrics.PAYLOAD_BYTES.labels(direction="up", payload="update", tier=tier).inc(header.size)
        raw = header.measurements.raw_bytes_sent
        metrics.PAYLOAD_RAW_BYTES.labels(direction="up", payload="update", tier=tier).inc(raw)
        metrics.UPDATES_ACCEPTED.labels(tier=tier).inc()
        observe_agent(header.measurements, tier)
        return response(result=response.RESULT_ACCEPTED, staged_bytes=header.size)


async def _within(chunks: Chunks) -> AsyncIterator[federation_pb2.BlobChunk]:
    """The chunks, each within its time and size. Raises TRUNCATED_STREAM, UPDATE_TOO_LARGE, MALFORMED_UPDATE."""
    while True:
        try:
            async with asyncio.timeout(_CHUNK_TIMEOUT_S):
                message = await anext(chunks)
        except StopAsyncIteration:
            return
        except TimeoutError as error:
            raise FedhftError(
                ErrorCode.TRUNCATED_STREAM, f"no chunk for {_CHUNK_TIMEOUT_S:g} s; resume with query_staged"
            ) from error
        if message.WhichOneof("message") != "chunk":
            raise FedhftError(ErrorCode.MALFORMED_UPDATE, "a second header in one push; send the header once, first")
        if len(message.chunk.data) > MAX_CHUNK_BYTES:
            raise FedhftError.field(
                ErrorCode.UPDATE_TOO_LARGE, "chunk", len(message.chunk.data), f"more than {MAX_CHUNK_BYTES} bytes",
                "split the update into smaller chunks",
            )  # fmt: skip
        yield message.chunk


def check_report(
    scores: Sequence[federation_pb2.Score],
    figures: federation_pb2.Measurements,
    signature: Sequence[float] = (),
) -> None:
    """Figures that a round can be summed up with. Raises NON_FINITE, INVALID_ARGUMENT."""
    numbers = [x for score in scores for x in (score.value, score.loss, score.majority)]
    numbers += [figures.train_seconds, figures.evaluate_seconds, *signature]
    if not all(math.isfinite(number) for number in numbers):
        raise FedhftError(ErrorCode.NON_FINITE, "scores, measurements and signature must be finite; send none instead")
    if len(scores) > _MAX_SCORES or len(signature) > MAX_SIGNATURE:
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, "report", f"{len(scores)} scores, {len(signature)} signature values",
            f"more than {_MAX_SCORES} or {MAX_SIGNATURE}", "send one score per split, moment and view",
        )  # fmt: skip
    counts = (
        figures.steps,
        figures.peak_rss_bytes,
        figures.socket_bytes_sent,
        figures.socket_bytes_received,
        figures.payload_bytes_sent,
        figures.payload_bytes_received,
        figures.raw_bytes_sent,
    )
    if max(counts) > _MAX_COUNT:
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT,
            "measurements",
            max(counts),
            "no machine counts that far",
            "send what was measured",
        )


def observe_agent(figures: federation_pb2.Measurements, tier: str) -> None:
    """Expose what an agent measured; nobody can scrape it behind NAT."""
    if figures.peak_rss_bytes:
        metrics.AGENT_PEAK_MEMORY_BYTES.labels(tier=tier).observe(figures.peak_rss_bytes)
    if figures.steps:
        metrics.AGENT_STEP_SECONDS.labels(tier=tier).observe(figures.train_seconds / figures.steps)
