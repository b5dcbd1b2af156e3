"""Receiving updates: header, chunks, checks, one durable append, then the acknowledgement.

A small update (one piece) stays in memory until it is stored and recorded. A larger one is staged in the store piece by
piece, so a broken stream resumes at its offset, on this replica or another. Memory is bounded by the number of streams
that are received at once, not by the number of clients. The others wait for the go-ahead until their deadline; a client
that does not wait is stopped by gRPC's flow control.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from fedhft.adapter import MaskedDelta
from fedhft.aggregation.direction import NOTHING, Measured
from fedhft.coordination.decoded import DecodedUpdates
from fedhft.errors import ErrorCode, FedhftError
from fedhft.ids import ClientId, JobId
from fedhft.records import AcceptResult
from fedhft.rounds.acceptance import Awaited, check_blob, update_record
from fedhft.store.interface import Store
from fedhft.telemetry import metrics
from fedhft.v1 import federation_pb2
from fedhft_aggregator.intake import Intake
from fedhft_aggregator.transfer_places import TransferPlaces, Turn

MAX_CHUNK_BYTES = 1 << 20
MAX_INLINE_BYTES = 64 * 1024
"""An update up to this size comes inside its header: waiting for a turn would cost more than its bytes."""
STREAMS_AT_ONCE = 16
_CHECKS_AT_ONCE = 2
_RECORDED_AT_ONCE = 8
"""Updates on their way into the store. It writes those that come together to disk together."""
_CHECK_IN_THREAD_ABOVE = 1 << 19

Chunks = AsyncIterator[federation_pb2.PushUpdateRequest]


@dataclass(frozen=True)
class Upload:
    """One update being pushed: by which client, for which job, and what the round expects of it."""

    client: ClientId
    job: JobId
    lease_token: str
    awaited: Awaited
    header: federation_pb2.UpdateHeader
    opened_s: float = 0.0
    """`time.monotonic()` when the round opened, as far as this process can tell."""

    @property
    def digest(self) -> str:
        """The SHA-256 that the client claims, hex; empty if nothing is shared."""
        return self.header.digest.hex()

    @property
    def transfer(self) -> str:
        """Name of the staged transfer: one per client and round, so that a client cannot accumulate them."""
        return hashlib.sha256(f"{self.client}\x1f{self.header.round}".encode()).hexdigest()


class Uploads:
    """Receives updates for one process."""

    def __init__(self, store: Store, reached: Callable[[str], None], decoded: DecodedUpdates | None = None) -> None:
        self._store = store
        self._reached = reached
        self._decoded = decoded
        self._places = TransferPlaces(STREAMS_AT_ONCE, "up")
        self._checks = asyncio.Semaphore(_CHECKS_AT_ONCE)
        self._recording = asyncio.Semaphore(_RECORDED_AT_ONCE)

    async def staged(self, upload: Upload) -> int:
        """How many bytes of this update are already here."""
        if upload.digest and await self._store.blobs.size(upload.job, upload.digest) is not None:
            return int(upload.header.size)
        return await self._store.transfers.staged(upload.job, upload.transfer)

    async def receive(
        self, upload: Upload, chunks: Chunks, go_ahead: Callable[[], Awaitable[None]]
    ) -> federation_pb2.PushUpdateResponse:
        """Receive the chunks, check the update, record it. Raises FedhftError, which never affects accepted updates.

        `go_ahead` is called when it is this stream's turn; its client sends no chunk before that.
        """
        if not upload.header.size:
            return await self._record(upload, None, NOTHING)
        if upload.header.blob:
            inline = _inline(upload.header)
            return await self._record(upload, inline, await self._check(upload, inline))
        async with self._places.place(upload.client) as turn:
            await go_ahead()
            data, measured = await self._take(upload, chunks, turn)
            # Before the place is free: a store that is slower than the links must not collect updates in memory.
            await self._recording.acquire()
        try:
            return await self._record(upload, data, measured)
        finally:
            self._recording.release()

    async def _take(self, upload: Upload, chunks: Chunks, turn: Turn) -> tuple[bytes | None, Measured]:
        """Receive and check the update; its bytes (None when they are stored under their digest already) and figures.

        A refused update's bytes are left to the sweep: the same bytes may be another client's accepted update.
        """
        blobs, transfers, size = self._store.blobs, self._store.transfers, int(upload.header.size)
        intake = Intake(transfers, upload.job, upload.transfer, size)
        try:
            async for chunk in _checked(chunks):
                await intake.add(chunk)
                turn.moved()
        finally:
            await intake.stage()  # even when the stream broke: the next attempt resumes there
        if (data := intake.take_whole()) is not None:
            _check_digest(upload.header, data)
            return data, await self._check(upload, data)
        received = await self.staged(upload) if intake.received is None else intake.received
        if received != size:
            raise FedhftError(
                ErrorCode.TRUNCATED_STREAM,
                f"the stream ended after {received} of {size} bytes; ask with query_staged and resume there",
            )
        if await blobs.size(upload.job, upload.digest) is None:
            await transfers.commit(upload.job, upload.transfer, upload.digest)
        return None, await self._check(upload, None)

    async def _check(self, upload: Upload, data: bytes | None) -> Measured:
        """Decode and check; returns the update's figures.

        data: None to read the stored blob, only when it is this update's turn, to keep few in memory.
        """
        async with self._checks:
            if data is None:
                data = await self._store.blobs.get(upload.job, upload.digest)
            if len(data) > _CHECK_IN_THREAD_ABOVE:
                delta, measured = await asyncio.to_thread(_measured, upload.awaited, data)
            else:
                delta, measured = _measured(upload.awaited, data)
        if self._decoded is not None:
            self._decoded.keep(upload.job, upload.digest, delta)
        return measured

    async def _record(
        self, upload: Upload, data: bytes | None, measured: Measured
    ) -> federation_pb2.PushUpdateResponse:
        header, part = upload.header, upload.awaited.part
        seconds = max(0.0, time.monotonic() - upload.opened_s)
        record = update_record(str(upload.client), header, part, measured, seconds)
        result = await self._store.accept(upload.job, record, upload.lease_token, data)
        self._reached("accepted")
        response = federation_pb2.PushUpdateResponse
        if result is AcceptResult.REPEATED:
            return response(result=response.RESULT_REPEATED, staged_bytes=header.size)
        tier = part.plan.tier
        labels = {"federation": upload.job, "tier": tier}
        metrics.PAYLOAD_BYTES.labels(**labels, direction="up", payload="update").inc(header.size)
        metrics.PAYLOAD_FP32_BYTES.labels(**labels).inc(header.measurements.raw_bytes_sent)
        metrics.PAYLOAD_MODEL_BYTES.labels(**labels).inc(header.measurements.model_bytes)
        metrics.UPDATES_ACCEPTED.labels(**labels).inc()
        observe_client(header.measurements, upload.job, tier)
        return response(result=response.RESULT_ACCEPTED, staged_bytes=header.size)


def _inline(header: federation_pb2.UpdateHeader) -> bytes:
    """The update that came inside its header. Raises UPDATE_TOO_LARGE, MALFORMED_UPDATE, DIGEST_MISMATCH."""
    data = bytes(header.blob)
    if len(data) > MAX_INLINE_BYTES:
        raise FedhftError.field(
            ErrorCode.UPDATE_TOO_LARGE, "blob", len(data), f"a header carries at most {MAX_INLINE_BYTES} bytes",
            "send the update in chunks",
        )  # fmt: skip
    if len(data) != header.size:
        raise FedhftError.field(
            ErrorCode.MALFORMED_UPDATE, "size", header.size, f"the header carries {len(data)} bytes",
            "send the whole update in the header, or none of it",
        )  # fmt: skip
    _check_digest(header, data)
    return data


def _check_digest(header: federation_pb2.UpdateHeader, data: bytes) -> None:
    if hashlib.sha256(data).digest() != header.digest:
        raise FedhftError(
            ErrorCode.DIGEST_MISMATCH, "the bytes received do not have the declared SHA-256; send them again"
        )


async def _checked(chunks: Chunks) -> AsyncIterator[federation_pb2.BlobChunk]:
    """The chunks, bounded in size. Raises UPDATE_TOO_LARGE, MALFORMED_UPDATE."""
    async for message in chunks:
        if message.WhichOneof("message") != "chunk":
            raise FedhftError(ErrorCode.MALFORMED_UPDATE, "a second header in one push; send the header once, first")
        if len(message.chunk.data) > MAX_CHUNK_BYTES:
            raise FedhftError.field(
                ErrorCode.UPDATE_TOO_LARGE, "chunk", len(message.chunk.data), f"more than {MAX_CHUNK_BYTES} bytes",
                "split the update into smaller chunks",
            )  # fmt: skip
        yield message.chunk


def _measured(awaited: Awaited, data: bytes) -> tuple[MaskedDelta, Measured]:
    with metrics.DECODING_SECONDS.time():
        delta = check_blob(awaited, data)
    return delta, Measured.of(delta)


def observe_client(figures: federation_pb2.Measurements, job: JobId, tier: str) -> None:
    """Expose what an agent measured, since an agent behind NAT cannot be scraped."""
    if figures.peak_rss_bytes:
        metrics.CLIENT_PEAK_MEMORY_BYTES.labels(federation=job, tier=tier).observe(figures.peak_rss_bytes)
    if figures.steps:
        metrics.CLIENT_STEP_SECONDS.labels(federation=job, tier=tier).observe(figures.train_seconds / figures.steps)
