"""Blobs in, updates out: streams that resume where they broke and end with a check of the digest.

A broken connection costs the bytes of the chunk in flight, never the whole transfer. The connection waits for a server
that is away; this module counts wrong bytes, and gives up a transfer that fails several times in a row without
progress.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from fedhft.errors import ErrorCode, FedhftError
from fedhft.v1 import adapter_pb2, federation_pb2
from fedhft.wire.digest import digest_of
from fedhft_agent.connection import Connection

log = logging.getLogger(__name__)

FRUITLESS_ATTEMPTS = 5
"""Attempts in a row that may end with wrong or missing bytes and no progress."""

_WRONG_BYTES = frozenset({ErrorCode.DIGEST_MISMATCH, ErrorCode.TRUNCATED_STREAM, ErrorCode.WRONG_OFFSET})

Result = federation_pb2.PushUpdateResponse.Result


@dataclass
class PayloadCount:
    """Blob bytes of one job over the wire, after coding, retries included."""

    sent: int = 0
    received: int = 0


def pull_blob(connection: Connection, job: str, ref: adapter_pb2.BlobRef, count: PayloadCount) -> bytes:
    """The bytes of a blob.

    Raises FedhftError: DIGEST_MISMATCH or TRUNCATED_STREAM when the server keeps sending wrong bytes, UNKNOWN_BLOB when
    it no longer has the blob, and what the connection raises.
    """
    download = _Download(connection, job, ref, count)
    _until_done(connection, download)
    return bytes(download.received)


def push_update(
    connection: Connection, header: federation_pb2.UpdateHeader, data: bytes, count: PayloadCount, *, resume: bool
) -> Result.ValueType:
    """Deliver one update; RESULT_ACCEPTED, or RESULT_REPEATED when the server had it already.

    resume: ask the server first what an earlier attempt left there (after a restart); otherwise ask on every attempt
    but the first. Raises FedhftError with the server's refusal.
    """
    upload = _Upload(connection, header, data, count, ask=resume)
    _until_done(connection, upload)
    return upload.result


class _Transfer(Protocol):
    @property
    def progress(self) -> int:
        """Bytes known to have arrived."""
        ...

    def attempt(self) -> None:
        """Try to finish."""
        ...


def _until_done(connection: Connection, transfer: _Transfer) -> None:
    def attempt() -> FedhftError | None:
        # Wrong bytes are handled here, not by the connection: a server that sends them is not away.
        try:
            transfer.attempt()
        except FedhftError as error:
            if error.code in _WRONG_BYTES:
                return error
            raise
        return None

    fruitless, best = 0, 0
    while (failure := connection.persist(attempt)) is not None:
        fruitless = 1 if transfer.progress > best else fruitless + 1
        best = max(best, transfer.progress)
        log.warning("transfer broken", extra={"code": failure.code.value, "detail": failure.message, "held": best})
        if fruitless >= FRUITLESS_ATTEMPTS:
            raise failure
        connection.pause(fruitless)


class _Download:
    def __init__(self, connection: Connection, job: str, ref: adapter_pb2.BlobRef, count: PayloadCount) -> None:
        self._connection = connection
        self._job = job
        self._ref = ref
        self._count = count
        self.received = bytearray()

    @property
    def progress(self) -> int:
        return len(self.received)

    def attempt(self) -> None:
        size, name = self._ref.size, f"blob {self._ref.digest.hex()[:12]}"
        if len(self.received) < size:
            for chunk in self._connection.pull(self._job, self._ref.digest, len(self.received), size):
                if chunk.offset != len(self.received):
                    raise FedhftError.field(
                        ErrorCode.WRONG_OFFSET, f"{name}: chunk offset", chunk.offset, f"expected {len(self.received)}",
                        "the transfer resumes there",
                    )  # fmt: skip
                if len(self.received) + len(chunk.data) > size:
                    self.received.clear()
                    raise FedhftError(
                        ErrorCode.DIGEST_MISMATCH, f"{name}: more than the {size} bytes announced; it is fetched anew"
                    )
                self.received += chunk.data
                self._count.received += len(chunk.data)
        if len(self.received) < size:
            raise FedhftError(
                ErrorCode.TRUNCATED_STREAM, f"{name}: the stream ended after {len(self.received)} of {size} bytes"
            )
        if digest_of(bytes(self.received)) != self._ref.digest.hex():
            self.received.clear()
            raise FedhftError(ErrorCode.DIGEST_MISMATCH, f"{name}: the bytes received have another digest")


class _Upload:
    def __init__(
        self,
        connection: Connection,
        header: federation_pb2.UpdateHeader,
        data: bytes,
        count: PayloadCount,
        *,
        ask: bool,
    ) -> None:
        self._connection = connection
        self._header = header
        self._data = data
        self._count = count
        self._ask = ask
        self._confirmed = 0
        self._begun: int | None = None
        self.result: Result.ValueType = federation_pb2.PushUpdateResponse.RESULT_UNSPECIFIED

    @property
    def progress(self) -> int:
        return self._confirmed

    def attempt(self) -> None:
        # After a restart the server is asked first: it may have the update, or take none of its round any more.
        if not self._ask and 0 < len(self._data) <= self._connection.max_inline_bytes:
            self._header.blob = self._data
            self.result = self._connection.push(self._header, iter(()), 0).result
            self._count.sent += len(self._data)
            return
        offset = 0
        if self._ask and self._data:
            answer = self._query()
            if answer.result != federation_pb2.PushUpdateResponse.RESULT_STAGED:
                self.result = answer.result
                return
            offset = min(answer.staged_bytes, len(self._data))
            if offset == self._begun:
                self._connection.chunk_size.fruitless()
            self._confirmed = offset
        self._ask, self._begun = True, offset
        self.result = self._connection.push(self._header, self._chunks(offset), len(self._data) - offset).result

    def _query(self) -> federation_pb2.PushUpdateResponse:
        question = federation_pb2.UpdateHeader()
        question.CopyFrom(self._header)
        question.query_staged = True
        return self._connection.push(question, iter(()), 0)

    def _chunks(self, offset: int) -> Iterator[federation_pb2.BlobChunk]:
        for start, part in self._connection.chunk_size.pieces(self._data, offset):
            self._count.sent += len(part)
            yield federation_pb2.BlobChunk(offset=start, data=part)
