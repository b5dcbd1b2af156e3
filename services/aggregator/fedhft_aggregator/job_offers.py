"""The jobs that clients may join, read from the store at most once a second however many clients ask."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from dataclasses import dataclass

from fedhft.errors import ErrorCode, FedhftError
from fedhft.ids import ClientId, JobId
from fedhft.job import load_canonical
from fedhft.records import JobRecord
from fedhft.rounds.joining import check_authorised
from fedhft.store.interface import Store
from fedhft.v1 import federation_pb2

log = logging.getLogger(__name__)

_FRESH_S = 1.0


@dataclass(frozen=True)
class _Open:
    """An unfinished job. Its spec never changes, so it is parsed once."""

    record: JobRecord
    digest: bytes
    admitted: frozenset[str]
    """Clients that may join; empty means any."""
    readable: bool


class JobOffers:
    """Unfinished jobs of one process."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._open: dict[JobId, _Open] = {}
        self._read_s = float("-inf")
        self._lock = asyncio.Lock()

    async def to(self, client: ClientId) -> list[federation_pb2.JobOffer]:
        """The jobs on offer to a client, without their specs."""
        await self._refresh()
        return [
            federation_pb2.JobOffer(job=job, submitted_by=it.record.submitted_by, spec_digest=it.digest)
            for job, it in self._open.items()
            if it.readable and (not it.admitted or client in it.admitted)
        ]

    async def get(self, job: JobId, client: ClientId) -> federation_pb2.JobOffer:
        """One job on offer, with its spec. Raises UNKNOWN_JOB, JOB_NOT_RUNNING, NOT_AUTHORISED, INVALID_JOB."""
        record = await self._store.job(job)
        if record.status.over:
            raise FedhftError(ErrorCode.JOB_NOT_RUNNING, f"job {job} is {record.status}: {record.reason or 'it ended'}")
        check_authorised(load_canonical(record.spec_json), client)
        return federation_pb2.JobOffer(
            job=job, spec_json=record.spec_json, submitted_by=record.submitted_by, spec_digest=_digest(record)
        )

    def ended(self, job: JobId) -> None:
        """Offer a job no more, without waiting for the next reading."""
        self._open.pop(job, None)

    async def _refresh(self) -> None:
        clock = asyncio.get_running_loop()
        async with self._lock:
            if clock.time() - self._read_s < _FRESH_S:
                return
            found: dict[JobId, _Open] = {}
            for job in await self._store.open_jobs():
                # Deleted and submitted again, a job can have another spec: its status is fresh, its spec is looked at.
                try:
                    record = await self._store.job(job)
                except FedhftError as error:
                    if error.code is not ErrorCode.UNKNOWN_JOB:
                        raise
                    continue
                known = self._open.get(job)
                same = known is not None and known.record.created_ms == record.created_ms
                found[job] = known if known is not None and same else _opened(record)
            self._open, self._read_s = found, clock.time()


def _opened(record: JobRecord) -> _Open:
    try:
        admitted, readable = frozenset(load_canonical(record.spec_json).clients), True
    except FedhftError as error:  # e.g. of another release; agents can still serve the other jobs
        log.warning("job not offered: %s", error, extra={"job": record.job})
        admitted, readable = frozenset(), False
    return _Open(record, _digest(record), admitted, readable)


def _digest(record: JobRecord) -> bytes:
    return hashlib.sha256(record.spec_json.encode()).digest()
