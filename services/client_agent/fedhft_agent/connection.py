"""An agent's only connection: stubs, the lease, patience with a server that is away.

Every call carries the lease token and a deadline. While the server (or its store) is away, calls are retried with
jittered back-off until it answers, the agent is stopped, or time runs out. When the server has forgotten the agent, the
agent enrols again and repeats the call.
"""

from __future__ import annotations

import contextlib
import logging
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, TypeVar

import grpc

from fedhft import PROTOCOL_VERSION, __version__
from fedhft.errors import ErrorCode, FedhftError
from fedhft.ids import ClientId
from fedhft.process.signals import StopSignal
from fedhft.rpc.address import parse_address
from fedhft.rpc.channel import ChannelSettings, FreshChannel
from fedhft.rpc.go_ahead import is_go_ahead
from fedhft.rpc.outage import CAUSES, CURED_ELSEWHERE, Outage
from fedhft.rpc.piece_size import PieceSize
from fedhft.rpc.retry import Backoff, CallStoppedError, Wait, call_with_retry
from fedhft.rpc.sockets import SocketMeter
from fedhft.rpc.status import error_from_rpc
from fedhft.rpc.tls import TlsSettings
from fedhft.telemetry import metrics
from fedhft.v1 import adapter_pb2, federation_pb2, federation_pb2_grpc

log = logging.getLogger(__name__)

T = TypeVar("T")
Answer = TypeVar("Answer", covariant=True)

CALL_S = 30.0
"""Deadline of a control call."""
POLL_MARGIN_S = 10.0
"""How long after the requested wait a long poll is given up."""
TURN_S = 120.0
"""How long an upload may wait for the server's go-ahead, on top of the time for its bytes."""
SLOWEST_LINK = 4096
"""Bytes per second below which a stream is cut and resumed."""
CHUNK_BYTES = 64 * 1024
"""Of the first chunks that an agent sends."""
LARGEST_CHUNK_BYTES = 256 * 1024
"""Of the chunks that it sends once the link has shown to be fast; the server may ask for smaller ones."""
LEAST_CHUNK_BYTES = 4 * 1024
"""Chunks get smaller, down to this size, after every attempt that brought nothing."""
LONGEST_REASON = 500
"""Characters of a reason that the server takes."""
DEFECTS_IN_A_ROW = 5
"""Internal errors in a row with which the server may answer a call before the agent reports the error."""
_REENROLMENTS = 3
_DEFAULT_WAIT_MS = 10_000


@dataclass(frozen=True)
class Peer:
    """Whom to talk to, as whom, and how long to wait for an answer."""

    server: str
    """HOST:PORT."""
    client: ClientId
    memory_bytes: int = 0
    tls: TlsSettings | None = None
    give_up_after_s: float | None = None
    """Seconds that one call may go unanswered; None: for ever."""
    backoff: Backoff = field(default_factory=lambda: Backoff(first_s=0.5, longest_s=15.0))


class _Cancellable(Protocol):
    """A call in flight."""

    def cancel(self) -> object: ...


class _Call(_Cancellable, Protocol[Answer]):
    """A call in flight that ends in one message."""

    def result(self) -> Answer: ...


class Connection:
    """Context manager. All calls but `look` come from one thread; a stop request cancels the one in flight."""

    def __init__(self, peer: Peer, stop: StopSignal, on_contact: Callable[[bool], None] = lambda reached: None) -> None:
        """`on_contact` is told after every attempt whether the server answered."""
        self._peer = peer
        self._stop = stop
        self._on_contact = on_contact
        self._outage = Outage(peer.server, peer.tls)
        self._token = ""
        self._lock = threading.Lock()
        self._in_flight: _Cancellable | None = None
        self.max_wait_ms = _DEFAULT_WAIT_MS
        self.chunk_size = PieceSize(CHUNK_BYTES, LEAST_CHUNK_BYTES, LARGEST_CHUNK_BYTES)
        """Of the chunks of updates, which the next update's begin with, too."""
        self.max_inline_bytes = 0
        self.meter = SocketMeter(remote_ports=[parse_address(peer.server, "--server")[1]])
        """Counts what the connection carried."""

    def __enter__(self) -> Connection:
        # Its own connection: two agents in one process (tests, tools) must not share sockets or counters.
        settings = ChannelSettings(self._peer.server, tls=self._peer.tls, own_connection=True)
        # What an old connection carried is counted before it goes.
        self._channel = FreshChannel(settings, before_closing=self.meter.sample)
        self._stop.on_request(self._cancel)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()

    # -- control calls

    def enroll(self) -> Sequence[federation_pb2.JobOffer]:
        """Identify this agent and get the jobs on offer, without their specs. Waits for the server."""
        return self.persist(self._enroll)

    def offer(self, job: str) -> federation_pb2.JobOffer:
        """A job on offer, with its spec."""
        return self._unary(lambda: self._stub.GetOffer.future, federation_pb2.GetOfferRequest(job=job), CALL_S)

    def join(self, request: federation_pb2.JoinRequest) -> federation_pb2.JoinResponse:
        """Enter a job."""
        return self._unary(lambda: self._stub.Join.future, request, CALL_S)

    def next_task(
        self,
        job: str,
        held: Sequence[tuple[str, int]],
        wait_ms: int | None = None,
        outcome_seen: int = 0,
        held_bands: Sequence[adapter_pb2.HeldBand] | None = None,
    ) -> federation_pb2.NextTaskResponse:
        """Wait for work for as long as the server allows. outcome_seen: round of the last outcome known here.
        held_bands: of scopes held in parts; None for a caller that adds whole scopes only.
        """
        wait = self.max_wait_ms if wait_ms is None else wait_ms
        request = federation_pb2.NextTaskRequest(
            client=self._peer.client,
            job=job,
            wait_ms=wait,
            held=[federation_pb2.HeldScope(scope=scope, version=version) for scope, version in held],
            outcome_seen=outcome_seen,
            held_bands=held_bands or (),
            takes_bands=held_bands is not None,
        )
        return self._unary(lambda: self._stub.NextTask.future, request, wait / 1000 + POLL_MARGIN_S)

    def look(self, job: str, timeout_s: float) -> federation_pb2.NextTaskResponse:
        """The client's task right now: one attempt, and the only call that may come from another thread.

        Raises grpc.RpcError.
        """
        request = federation_pb2.NextTaskRequest(client=self._peer.client, lease_token=self._token, job=job, wait_ms=0)
        answer: federation_pb2.NextTaskResponse = self._stub.NextTask(request, timeout=timeout_s)
        return answer

    def report_evaluation(
        self, request: federation_pb2.ReportEvaluationRequest
    ) -> federation_pb2.ReportEvaluationResponse:
        """Deliver the scores of an evaluation task."""
        return self._unary(lambda: self._stub.ReportEvaluation.future, request, CALL_S)

    def leave(self, job: str) -> None:
        """Leave a job, so that its rounds do not wait for this client."""
        self._unary(lambda: self._stub.Leave.future, federation_pb2.LeaveRequest(job=job), CALL_S)

    def decline(self, job: str, reason: str) -> None:
        """Leave a job, joined or not, and say why. A reason that is not a short line of text is made one."""
        request = federation_pb2.DeclineRequest(job=job, reason=one_line(reason))
        self._unary(lambda: self._stub.Decline.future, request, CALL_S)

    # -- one attempt at a stream

    def pull(self, job: str, digest: bytes, offset: int, size: int) -> Iterator[federation_pb2.BlobChunk]:
        """Chunks of a blob of `size` bytes from an offset on; one attempt. Raises FedhftError when it breaks."""
        request = federation_pb2.PullBlobRequest(
            client=self._peer.client, lease_token=self._token, job=job, digest=digest, offset=offset
        )
        call = self._stub.PullBlob(request, timeout=_stream_seconds(size - offset))
        with self._cancellable(call), _translated():
            yield from call

    def push(
        self, header: federation_pb2.UpdateHeader, chunks: Iterator[federation_pb2.BlobChunk], size: int
    ) -> federation_pb2.PushUpdateResponse:
        """Send a header and chunks that add up to `size` bytes; one attempt. Raises FedhftError.

        Chunks follow once the server gives the go-ahead; until then they wait on this side. `size` is 0 where none
        follow.
        """
        header.client, header.lease_token = self._peer.client, self._token
        started: Future[grpc.Call] = Future()

        def messages() -> Iterator[federation_pb2.PushUpdateRequest]:
            yield federation_pb2.PushUpdateRequest(header=header)
            # Empty metadata comes when the call ends before its turn, at its deadline at the latest.
            if size and not is_go_ahead(started.result().initial_metadata()):
                return
            for chunk in chunks:
                yield federation_pb2.PushUpdateRequest(chunk=chunk)

        call = self._stub.PushUpdate.future(messages(), timeout=(TURN_S if size else 0.0) + _stream_seconds(size))
        started.set_result(call)
        with self._cancellable(call), _translated():
            return call.result()

    # -- patience

    def persist(self, attempt: Callable[[], T]) -> T:
        """Make attempts until one is answered; while server or store is away, wait and try again.

        An answer is a result, or a refusal that waiting cannot fix; NOT_ENROLLED is fixed by enrolling again. A server
        that cannot be talked to until a person changes something is tried again too, though seldom: unless the cause
        is on this side, and it has never answered this process. Raises FedhftError (the refusal; SERVER_UNAVAILABLE
        and the like once time is up), or CallStoppedError.
        """
        defects = enrolments = 0

        def patient() -> T:
            nonlocal defects, enrolments
            try:
                result = attempt()
            except grpc.RpcError as rpc_error:
                error = error_from_rpc(rpc_error)
            except FedhftError as refusal:
                error = refusal
            else:
                self._outage.answered()
                self._on_contact(True)
                return result
            error = self._outage.explain(error)
            answered = not error.outcome.retryable and error.code not in CAUSES
            if answered:
                self._outage.answered()
            elif error.code is ErrorCode.SERVER_UNAVAILABLE or error.code in CAUSES:
                metrics.AGENT_CONNECTION_FAILURES.labels(code=error.code.value).inc()
            self._on_contact(answered)
            if error.code is ErrorCode.NOT_ENROLLED and enrolments < _REENROLMENTS:
                enrolments += 1
                log.info("the server does not know this agent; enrolling again")
                self._enroll()
                raise FedhftError(ErrorCode.SERVER_UNAVAILABLE, error.message) from error
            if error.code is ErrorCode.INTERNAL and defects + 1 < DEFECTS_IN_A_ROW:
                defects += 1
                raise FedhftError(ErrorCode.SERVER_UNAVAILABLE, error.message) from error
            raise error

        return call_with_retry(
            patient,
            self._stop.requested,
            give_up_after_s=self._peer.give_up_after_s,
            on_wait=_say,
            backoff=self._peer.backoff,
            seldom=lambda error: error.code in CURED_ELSEWHERE or (error.code in CAUSES and self._outage.ever_answered),
        )

    def pause(self, attempt: int) -> None:
        """Back off before repeating something the n-th time. Raises CallStoppedError when asked to stop."""
        bound = self._peer.backoff.bound_s(attempt)
        self._stop.sleep(random.uniform(bound / 2, bound))

    @property
    def _stub(self) -> federation_pb2_grpc.FederationStub:
        """Of a channel that uses the TLS files as they are now. Ask for it anew for every attempt."""
        return federation_pb2_grpc.FederationStub(self._channel.current())

    def _unary(self, method: Callable[[], Callable[..., _Call[T]]], request: _Leased, timeout_s: float) -> T:
        def attempt() -> T:
            request.client, request.lease_token = self._peer.client, self._token
            call = method()(request, timeout=timeout_s)
            with self._cancellable(call):
                return call.result()

        return self.persist(attempt)

    def _enroll(self) -> Sequence[federation_pb2.JobOffer]:
        call = self._stub.Enroll.future(
            federation_pb2.EnrollRequest(
                client=self._peer.client,
                protocol_version=PROTOCOL_VERSION,
                agent_version=__version__,
                memory_bytes=self._peer.memory_bytes,
                lease_token=self._token,
            ),
            timeout=CALL_S,
        )
        with self._cancellable(call), _translated():
            answer = call.result()
        self._token = answer.lease_token
        self.max_wait_ms = answer.max_wait_ms or _DEFAULT_WAIT_MS
        if answer.max_chunk_bytes:
            self.chunk_size.bound(answer.max_chunk_bytes)
        self.max_inline_bytes = answer.max_inline_bytes
        return answer.jobs

    @contextlib.contextmanager
    def _cancellable(self, call: _Cancellable) -> Iterator[None]:
        with self._lock:
            self._in_flight = call
        if self._stop.requested():
            call.cancel()
        try:
            yield
        except grpc.FutureCancelledError as error:  # nothing but a stop request cancels
            raise CallStoppedError("stopped during a call") from error
        finally:
            with self._lock:
                self._in_flight = None
            call.cancel()  # no effect on a finished call; an abandoned stream must not go on

    def _cancel(self) -> None:
        with self._lock:
            call = self._in_flight
        if call is not None:
            call.cancel()


def one_line(reason: str) -> str:
    """A reason as a short line of printable text."""
    line = "".join(letter if letter.isprintable() else " " for letter in reason)
    return line if len(line) <= LONGEST_REASON else line[: LONGEST_REASON - 3] + "..."


class _Leased(Protocol):
    client: str
    lease_token: str


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except grpc.RpcError as error:
        raise error_from_rpc(error) from error


def _stream_seconds(size: int) -> float:
    return CALL_S + size / SLOWEST_LINK


def _say(wait: Wait) -> None:
    log.warning(
        "waiting for the server",
        extra={"code": wait.error.code.value, "detail": wait.error.message, "seconds": round(wait.seconds, 1)},
    )
