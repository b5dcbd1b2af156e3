"""A Federation service over real sockets that goes wrong on command, as bad networks and dying servers do.

It keeps the protocol's promises (leases, staged uploads, digests) and nothing else; the faults to come are queued.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from fedhft.errors import ErrorCode, FedhftError
from fedhft.rpc.go_ahead import GO_AHEAD
from fedhft.rpc.server import RunningServer, ServerSettings, start_server
from fedhft.rpc.tls import TlsSettings
from fedhft.v1 import adapter_pb2, federation_pb2, federation_pb2_grpc

Response = federation_pb2.PushUpdateResponse


@dataclass(frozen=True)
class Fault:
    """What happens to one stream, after so many bytes of the blob.

    kind: away (UNAVAILABLE), cut (the stream ends), corrupt (one bit flips), surplus (far too many bytes), or refuse
    (FedhftError of `code`). slow: no chunk larger than `after` arrives, in this stream and all later ones.
    """

    kind: str
    after: int = 0
    code: ErrorCode = ErrorCode.INTERNAL


class ScriptedFederation(federation_pb2_grpc.FederationServicer):
    """See the module."""

    def __init__(self, chunk: int = 1000) -> None:
        self.chunk = chunk
        self.blobs: dict[bytes, bytes] = {}
        self.accepted: dict[int, bytes] = {}
        self.staged: dict[bytes, bytearray] = {}
        self.pull_faults: deque[Fault] = deque()
        self.push_faults: deque[Fault] = deque()
        self.asked = threading.Event()
        self.turn = threading.Event()
        self.turn.set()
        self.call_faults: deque[Fault] = deque()
        self.pulled_from: list[int] = []
        self.pushed: list[tuple[int, int]] = []
        self.calls: list[str] = []
        self.offers: dict[str, federation_pb2.JobOffer] = {}
        self.declined: list[tuple[str, str]] = []
        self.generation = 0
        self.known = False
        self.superseded = False

    def publish(self, data: bytes) -> adapter_pb2.BlobRef:
        digest = hashlib.sha256(data).digest()
        self.blobs[digest] = data
        return adapter_pb2.BlobRef(
            digest=digest, size=len(data), kind=adapter_pb2.BLOB_KIND_DELTA, scope="shared", version=1
        )

    async def Enroll(self, request: federation_pb2.EnrollRequest, context: Any) -> federation_pb2.EnrollResponse:
        self.calls.append("Enroll")
        self.generation += 1
        self.known = True
        return federation_pb2.EnrollResponse(
            lease_token=f"lease-{self.generation}",
            jobs=[federation_pb2.JobOffer(job="scripted", spec_digest=hashlib.sha256(b"{}").digest())],
            max_wait_ms=5000,
            max_chunk_bytes=self.chunk,
        )

    async def NextTask(self, request: federation_pb2.NextTaskRequest, context: Any) -> federation_pb2.NextTaskResponse:
        self.calls.append("NextTask")
        self._check(request.lease_token)
        if self.call_faults:
            await self._fail(self.call_faults.popleft(), context)
        if request.wait_ms:
            await asyncio.sleep(request.wait_ms / 1000)
        return federation_pb2.NextTaskResponse(wait=federation_pb2.WaitTask())

    async def GetOffer(self, request: federation_pb2.GetOfferRequest, context: Any) -> federation_pb2.JobOffer:
        self._check(request.lease_token)
        return self.offers[request.job]

    async def Decline(self, request: federation_pb2.DeclineRequest, context: Any) -> federation_pb2.DeclineResponse:
        self._check(request.lease_token)
        self.declined.append((request.job, request.reason))
        return federation_pb2.DeclineResponse()

    async def PullBlob(
        self, request: federation_pb2.PullBlobRequest, context: Any
    ) -> AsyncIterator[federation_pb2.BlobChunk]:
        self._check(request.lease_token)
        self.pulled_from.append(request.offset)
        data = self.blobs.get(request.digest)
        if data is None:
            raise FedhftError(ErrorCode.UNKNOWN_BLOB, "no such blob")
        fault = self.pull_faults.popleft() if self.pull_faults else None
        end = len(data) if fault is None or fault.kind in ("corrupt", "surplus") else fault.after
        for offset in range(request.offset, end, self.chunk):
            part = data[offset : min(offset + self.chunk, end)]
            if fault is not None and fault.kind == "corrupt" and offset <= fault.after < offset + len(part):
                broken = bytearray(part)
                broken[fault.after - offset] ^= 1
                part = bytes(broken)
            yield federation_pb2.BlobChunk(offset=offset, data=part)
        if fault is not None and fault.kind == "surplus":
            for offset in range(len(data), 10 * len(data), self.chunk):
                yield federation_pb2.BlobChunk(offset=offset, data=bytes(self.chunk))
        elif fault is not None and fault.kind not in ("cut", "corrupt"):
            await self._fail(fault, context)

    async def PushUpdate(self, messages: AsyncIterator[federation_pb2.PushUpdateRequest], context: Any) -> Response:
        first = await anext(messages)
        header = first.header
        self._check(header.lease_token)
        held = self.staged.setdefault(header.digest, bytearray())
        if header.round in self.accepted:
            return Response(result=Response.RESULT_REPEATED)
        if header.query_staged:
            return Response(result=Response.RESULT_STAGED, staged_bytes=len(held))
        fault = self.push_faults.popleft() if self.push_faults else None
        if fault is not None and fault.kind == "refuse-header":
            raise FedhftError(fault.code, "refused before a byte was read")
        self.asked.set()
        await asyncio.to_thread(self.turn.wait, 20.0)
        await context.send_initial_metadata(GO_AHEAD)
        async for message in messages:
            chunk = message.chunk
            if fault is not None and fault.kind == "slow":
                self.push_faults.appendleft(fault)
                if len(chunk.data) > fault.after:
                    raise FedhftError(ErrorCode.TRUNCATED_STREAM, "nothing moved for too long")
                self.push_faults.popleft()
            if chunk.offset != len(held):
                raise FedhftError(ErrorCode.WRONG_OFFSET, f"staged {len(held)}, got {chunk.offset}")
            held += chunk.data
            self.pushed.append((chunk.offset, len(chunk.data)))
            if fault is not None and fault.kind not in ("lost-answer", "slow") and len(held) >= fault.after:
                await self._fail(fault, context)
        if len(held) < header.size:
            raise FedhftError(ErrorCode.TRUNCATED_STREAM, f"{len(held)} of {header.size} bytes")
        if header.size and hashlib.sha256(held).digest() != header.digest:
            held.clear()
            raise FedhftError(ErrorCode.DIGEST_MISMATCH, "other bytes than declared")
        self.accepted[header.round] = bytes(held)
        if fault is not None and fault.kind == "lost-answer":
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the answer is lost")
        return Response(result=Response.RESULT_ACCEPTED)

    def _check(self, token: str) -> None:
        if self.superseded:
            raise FedhftError(ErrorCode.LEASE_SUPERSEDED, "another agent enrolled under this client")
        if not self.known:
            raise FedhftError(ErrorCode.NOT_ENROLLED, "who are you?")
        if token != f"lease-{self.generation}":
            raise FedhftError(ErrorCode.LEASE_SUPERSEDED, "an older lease")

    async def _fail(self, fault: Fault, context: Any) -> None:
        if fault.kind == "away":
            await context.abort(grpc.StatusCode.UNAVAILABLE, "going down")
        raise FedhftError(fault.code, f"scripted {fault.code}")


class ServerThread:
    """The service in a thread with an event loop of its own; can go away and come back on the same port."""

    def __init__(self, service: ScriptedFederation, tls: TlsSettings | None = None) -> None:
        self._service = service
        self.tls = tls
        """What it starts with the next time."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._running: RunningServer | None = None
        self.address = "127.0.0.1:0"

    def start(self) -> None:
        self._running = self._do(self._start())
        self.address = self._running.address

    def stop(self) -> None:
        if self._running is not None:
            self._do(self._running.stop(0))
            self._running = None

    def close(self) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _start(self) -> RunningServer:
        return await start_server(
            ServerSettings(self.address, tls=self.tls),
            lambda server: federation_pb2_grpc.add_FederationServicer_to_server(self._service, server),
            ["fedhft.v1.Federation"],
        )

    def _do(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)


@contextmanager
def served(service: ScriptedFederation, tls: TlsSettings | None = None) -> Iterator[ServerThread]:
    thread = ServerThread(service, tls)
    thread.start()
    try:
        yield thread
    finally:
        thread.close()
