"""The dictionaries of the in-memory store, and the checks that its transitions share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from fedhft.ids import ClientId, JobId
from fedhft.records import AgentRecord, EventKind, EventRecord, JobRecord, JobStatus, Revocation
from fedhft.store import refusals
from fedhft.store.blobs import BlobStore
from fedhft.store.in_memory_job import KeptJob
from fedhft.store.transfers import TransferStore


class InMemoryTables:
    """What the parts of InMemoryStore have in common."""

    _blobs: BlobStore
    _transfers: TransferStore

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._agents: dict[ClientId, AgentRecord] = {}
        self._jobs: dict[JobId, KeptJob] = {}
        self._revoked: dict[str, Revocation] = {}
        self._revocation_changes = 0
        self._revocation_moved = asyncio.Event()

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)

    def _note(self, its: KeptJob, kind: EventKind, *, round: int = 0, client: str = "", text: str = "") -> None:
        """Add an event to a job's log."""
        event = EventRecord(at_ms=self._now_ms(), kind=kind, round=round, client=client, text=text)
        (its.client_events if client else its.events).append(event)

    def _of(self, job: JobId) -> KeptJob:
        """What is kept of a job, to be read only: empty for a job that does not exist."""
        return self._jobs.get(job) or KeptJob()

    def _existing(self, job: JobId) -> tuple[KeptJob, JobRecord]:
        its = self._jobs.get(job)
        if its is None or its.record is None:
            raise refusals.unknown_job(job)
        return its, its.record

    def _running(self, job: JobId) -> KeptJob:
        its, record = self._existing(job)
        if record.status not in (JobStatus.RUNNING, JobStatus.EVALUATING):
            raise refusals.job_not_running(job, record.status)
        return its

    def _fenced(self, job: JobId, fence: int) -> KeptJob:
        its = self._of(job)
        if fence != its.fence or fence == 0:
            raise refusals.fenced(job, fence)
        return its

    def _check_lease(self, client: ClientId, lease_token: str) -> AgentRecord:
        record = self._agents.get(client)
        if record is None:
            raise refusals.not_enrolled(client)
        if record.lease_token != lease_token:
            raise refusals.lease_superseded(client)
        return record
