"""A blocking client of the Jobs service. Refusals are raised as FedhftError; a server that is away is tried again."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Protocol, TypeVar

import grpc

from fedhft.adapter import AdapterSchema
from fedhft.errors import ErrorCode, FedhftError
from fedhft.job import JobSpec
from fedhft.records import JobStatus
from fedhft.rounds.paging import HISTORY_PAGE
from fedhft.rpc.channel import ChannelSettings, FreshChannel
from fedhft.rpc.outage import Outage
from fedhft.rpc.retry import Backoff, Wait, call_with_retry
from fedhft.rpc.status import error_from_rpc
from fedhft.rpc.tls import TlsSettings
from fedhft.v1 import adapter_pb2, clients_pb2, jobs_pb2, jobs_pb2_grpc, plans_pb2

T = TypeVar("T")
WatchStream = Any
"""gRPC's call object: an iterator of Job that can be cancelled."""

_CALL_S = 30.0
_BACKOFF = Backoff(first_s=0.2, longest_s=5.0)


class CallListener(Protocol):
    """Learns how calls go, so that a person can be told that a server does not answer."""

    def begin(self) -> None:
        """A call begins."""
        ...

    def retrying(self, wait: Wait) -> None:
        """It failed and is made again after a wait."""
        ...

    def end(self) -> None:
        """It was answered, or given up."""
        ...


class _Nobody:
    def begin(self) -> None:
        pass

    def retrying(self, wait: Wait) -> None:
        pass

    def end(self) -> None:
        pass


_NOBODY = _Nobody()


def is_over(job: jobs_pb2.Job) -> bool:
    """Whether nothing happens to the job any more."""
    return JobStatus(job.status).over


class JobsClient:
    """Calls to one aggregator. A context manager; every method raises FedhftError.

    give_up_after_s: how long a call is repeated while the server is away (SERVER_UNAVAILABLE, STORE_UNAVAILABLE). What
    a retry cannot change (one of fedhft.rpc.outage.CAUSES) is raised at once. listener: is told when calls begin, are
    made again and end.
    """

    def __init__(
        self,
        server: str,
        tls: TlsSettings | None = None,
        give_up_after_s: float = 10.0,
        listener: CallListener | None = None,
    ) -> None:
        self.server = server
        """host:port."""
        self._channel = FreshChannel(ChannelSettings(server, tls=tls))
        self._outage = Outage(server, tls)
        self._give_up_after_s = give_up_after_s
        self._listener = listener or _NOBODY
        self._closed = False

    def __enter__(self) -> JobsClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; calls in flight, and watches in other threads, end with SERVER_UNAVAILABLE."""
        self._closed = True
        self._channel.close()

    @property
    def _stub(self) -> jobs_pb2_grpc.JobsStub:
        """Of a channel that uses the TLS files as they are now: a watch may outlive a certificate."""
        return jobs_pb2_grpc.JobsStub(self._channel.current())

    def submit(self, spec: JobSpec, schema: AdapterSchema | None = None) -> jobs_pb2.Job:
        """Store a job; submitting the identical job again succeeds, so a retry after a lost answer is safe.

        schema: pins what is trained; None leaves it to the first client that joins.
        """
        request = jobs_pb2.SubmitJobRequest(
            spec_json=spec.canonical(), schema_json="" if schema is None else schema.to_json()
        )
        return self._recent(self._call(lambda: self._stub.Submit(request, timeout=_CALL_S)))

    def get(self, job: str, last: int | None = None) -> jobs_pb2.Job:
        """One job with the newest `last` rounds (1 or more) of its history, None: with all of it that is kept.

        Takes a call per HISTORY_PAGE rounds, the first of which says where the job stands.
        """
        newest = self._page(job, last=min(last or HISTORY_PAGE, HISTORY_PAGE))
        history = [*newest.history]
        page = newest
        while page.history_from and history and history[0].round > page.history_from:
            missing = HISTORY_PAGE if last is None else min(HISTORY_PAGE, last - len(history))
            if missing == 0:
                break
            page = self._page(job, before=history[0].round, last=missing)
            if not page.history:
                break
            history = [*page.history, *history]
        if not page.history_from:
            return self._from_the_beginning(page, last)
        return _with_history(newest, history)

    def list(self) -> list[jobs_pb2.Job]:
        """Every job, oldest first, without specs and histories."""
        return [*self._call(lambda: self._stub.List(jobs_pb2.ListJobsRequest(), timeout=_CALL_S)).jobs]

    def clients(self, job: str) -> Iterator[clients_pb2.JobClient]:
        """Who serves a job, and who will not, in ascending order, over as many calls as that takes."""
        after = ""
        while True:
            request = clients_pb2.ListClientsRequest(job=job, after=after)
            page = self._call(lambda request=request: self._stub.Clients(request, timeout=_CALL_S))  # type: ignore[misc]
            yield from page.clients
            if not page.more or not page.clients:
                return
            after = page.clients[-1].client

    def plan(self, job: str, what_if: Sequence[plans_pb2.WhatIf] = ()) -> plans_pb2.ExplainPlanResponse:
        """Who trains what in a job that plans by capacity, and why; or would, if devices were as in `what_if`."""
        request = plans_pb2.ExplainPlanRequest(job=job, what_if=what_if)
        return self._call(lambda: self._stub.ExplainPlan(request, timeout=_CALL_S))

    def events(self, job: str, last: int = 0) -> jobs_pb2.ListEventsResponse:
        """What happened to a job and its clients, in order: the newest `last` events, 0 for all that are kept."""
        request = jobs_pb2.ListEventsRequest(job=job, last=last)
        return self._call(lambda: self._stub.Events(request, timeout=_CALL_S))

    def known_clients(self) -> Iterator[clients_pb2.KnownClient]:
        """Every client that is enrolled or in a job that is not over, ascending, over as many calls as that takes."""
        after = ""
        while True:
            request = clients_pb2.ListKnownClientsRequest(after=after)
            page = self._call(lambda request=request: self._stub.KnownClients(request, timeout=_CALL_S))  # type: ignore[misc]
            yield from page.clients
            if not page.more or not page.clients:
                return
            after = page.clients[-1].client

    def remove_client(self, client: str, reason: str) -> tuple[str, ...]:
        """Take a client out of every job that is not over and end its lease; returns the jobs that it left."""
        request = clients_pb2.RemoveClientRequest(client=client, reason=reason)
        return tuple(self._call(lambda: self._stub.RemoveClient(request, timeout=_CALL_S)).jobs)

    def cancel(self, job: str, reason: str) -> jobs_pb2.Job:
        """End a job."""
        request = jobs_pb2.CancelJobRequest(job=job, reason=reason)
        return self._recent(self._call(lambda: self._stub.Cancel(request, timeout=_CALL_S)))

    def pause(self, job: str, reason: str) -> jobs_pb2.Job:
        """Let a job wait until it is resumed."""
        request = jobs_pb2.PauseJobRequest(job=job, reason=reason)
        return self._recent(self._call(lambda: self._stub.Pause(request, timeout=_CALL_S)))

    def resume(self, job: str) -> jobs_pb2.Job:
        """Let a paused job go on."""
        request = jobs_pb2.ResumeJobRequest(job=job)
        return self._recent(self._call(lambda: self._stub.Resume(request, timeout=_CALL_S)))

    def delete(self, job: str, force: bool = False) -> None:
        """Delete a job that is over, by force any."""
        request = jobs_pb2.DeleteJobRequest(job=job, force=force)
        self._call(lambda: self._stub.Delete(request, timeout=_CALL_S))

    def revoke(self, serial: str, identity: str, not_after_ms: int, reason: str) -> int:
        """Put a certificate on the deny list; returns how many are on it."""
        request = jobs_pb2.RevokeRequest(serial=serial, identity=identity, not_after_ms=not_after_ms, reason=reason)
        return self._call(lambda: self._stub.Revoke(request, timeout=_CALL_S)).revoked

    def export(self, job: str, version: int = 0) -> jobs_pb2.ExportJobResponse:
        """References to everything needed to build the adapters of a version, the last for 0."""
        request = jobs_pb2.ExportJobRequest(job=job, version=version)
        answer = self._call(lambda: self._stub.Export(request, timeout=_CALL_S))
        if version and answer.version != version:
            raise FedhftError.field(
                ErrorCode.INVALID_ARGUMENT, "version", version, f"this server exports only its last, {answer.version}",
                "upgrade the aggregator, or leave the version out",
            )  # fmt: skip
        return answer

    def watch(self, job: str, last: int | None = HISTORY_PAGE) -> Iterator[jobs_pb2.Job]:
        """The job now and after every change until it is over, with all rounds that this watch has brought so far.

        last: it begins with the newest so many rounds (1 to HISTORY_PAGE), at once; None: with the oldest that is kept,
        once all are there. Servers of earlier releases know only the latter.

        A broken connection is reopened; the server may be away for `give_up_after_s` at a time, and time without news
        on an open connection does not count.
        """
        history: list[jobs_pb2.RoundSummary] = []
        away_since: float | None = None
        repeat = 0
        self._listener.begin()
        while True:
            begin_with = 0 if history or last is None else min(last, HISTORY_PAGE)
            stream = self._open_watch(job, history[-1].round if history else 0, begin_with)
            try:
                for told in stream:
                    self._outage.answered()
                    self._listener.end()
                    away_since, repeat = None, 0
                    if _add_history(history, told):
                        continue  # the rest of the history is on its way
                    yield told
                    if is_over(told):
                        return
                refusal = FedhftError(ErrorCode.SERVER_UNAVAILABLE, "the server stopped; start it again")
            except grpc.RpcError as error:
                refusal = self._explained(error)
                if not refusal.outcome.retryable:
                    self._listener.end()
                    raise refusal from error
            finally:
                stream.cancel()
            away_since = time.monotonic() if away_since is None else away_since
            if self._closed or time.monotonic() - away_since > self._give_up_after_s:
                self._listener.end()
                raise refusal
            repeat += 1
            pause_s = random.uniform(0, _BACKOFF.bound_s(repeat))
            self._listener.begin()
            self._listener.retrying(Wait(refusal, pause_s, repeat))
            time.sleep(pause_s)

    def blob(self, job: str, ref: adapter_pb2.BlobRef) -> bytes:
        """The bytes of one blob; resumes where a broken stream ended. Raises DIGEST_MISMATCH, TRUNCATED_STREAM."""
        data = bytearray()

        def pull() -> None:
            request = jobs_pb2.JobBlobRequest(job=job, digest=ref.digest, offset=len(data))
            for chunk in self._stub.Blob(request, timeout=_CALL_S):
                if chunk.offset != len(data) or len(data) + len(chunk.data) > ref.size:
                    raise FedhftError(
                        ErrorCode.TRUNCATED_STREAM,
                        f"blob {ref.digest.hex()[:16]}: a chunk of {len(chunk.data)} bytes at offset {chunk.offset} "
                        f"came after {len(data)} of {ref.size} bytes; try again",
                    )
                data.extend(chunk.data)
            if len(data) < ref.size:
                raise FedhftError(
                    ErrorCode.TRUNCATED_STREAM,
                    f"blob {ref.digest.hex()[:16]}: {len(data)} of {ref.size} bytes came; try again",
                )

        self._call(pull)
        if hashlib.sha256(data).digest() != ref.digest:
            raise FedhftError(ErrorCode.DIGEST_MISMATCH, f"blob {ref.digest.hex()[:16]}: wrong content; export again")
        return bytes(data)

    def _page(self, job: str, after: int = 0, before: int = 0, last: int = 0) -> jobs_pb2.Job:
        request = jobs_pb2.GetJobRequest(job=job, history_after=after, history_before=before, history_last=last)
        return self._call(lambda: self._stub.Get(request, timeout=_CALL_S))

    def _recent(self, told: jobs_pb2.Job) -> jobs_pb2.Job:
        """A job as a call answered it, which brings its oldest page, with its newest page instead."""
        if told.history and told.history[-1].round < told.rounds_done:
            return self.get(told.job, HISTORY_PAGE)
        return told

    def _from_the_beginning(self, told: jobs_pb2.Job, last: int | None) -> jobs_pb2.Job:
        """As `get`, from a server that always begins with the oldest page; `told` is its answer with that page."""
        history: list[jobs_pb2.RoundSummary] = []
        while _add_history(history, told):
            told = self._page(told.job, after=history[-1].round)
        return told if last is None else _with_history(told, history[-last:])

    def _open_watch(self, job: str, history_after: int, history_last: int = 0) -> WatchStream:
        request = jobs_pb2.WatchJobRequest(job=job, history_after=history_after, history_last=history_last)
        try:
            return self._stub.Watch(request)
        except ValueError as error:  # what gRPC raises on a closed channel
            if not self._closed:
                raise
            raise FedhftError(ErrorCode.SERVER_UNAVAILABLE, "this client was closed") from error

    def _call(self, call: Callable[[], T]) -> T:
        def attempt() -> T:
            try:
                result = call()
            except grpc.RpcError as error:
                raise self._explained(error) from error
            self._outage.answered()
            return result

        self._listener.begin()
        try:
            return call_with_retry(
                attempt,
                lambda: False,
                give_up_after_s=self._give_up_after_s,
                on_wait=self._listener.retrying,
                backoff=_BACKOFF,
            )
        finally:
            self._listener.end()

    def _explained(self, error: grpc.RpcError) -> FedhftError:
        refusal = error_from_rpc(error)
        return refusal if self._closed else self._outage.explain(refusal)


def _add_history(history: list[jobs_pb2.RoundSummary], told: jobs_pb2.Job) -> bool:
    """Add a message's page to the history so far and put all of it into the message; whether more is to come."""
    held = history[-1].round if history else 0
    new = [entry for entry in told.history if entry.round > held]  # a server without pages sends everything again
    more = bool(new)
    history.extend(new)
    _with_history(told, history)
    return more and history[-1].round < told.rounds_done


def _with_history(told: jobs_pb2.Job, history: list[jobs_pb2.RoundSummary]) -> jobs_pb2.Job:
    del told.history[:]
    told.history.extend(history)
    return told
