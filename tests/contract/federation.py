"""A small federation in a store: what most contract tests start from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from fedhft.errors import ErrorCode, FedhftError
from fedhft.ids import ClientId, JobId
from fedhft.plan import AdapterPlan
from fedhft.records import (
    ClientRecord,
    JobStatus,
    MembershipRecord,
    Participant,
    Phase,
    RoundRecord,
    UpdateRecord,
    VersionRecord,
)
from fedhft.store.interface import Store
from fedhft.stored_blob import BandBlobs, StoredBlob

JOB = JobId("tickets")
ALICE, BOB, CAROL = ClientId("alice"), ClientId("bob"), ClientId("carol")
PLAN = AdapterPlan(tier="full", depth=2, density=0.5, epochs=1.0, max_steps=0, train_a=True, train_b=True)
SPEC = '{"id": "tickets"}'
ALIVE = (JobStatus.WAITING, JobStatus.RUNNING, JobStatus.EVALUATING)


@contextmanager
def refused(code: ErrorCode) -> Iterator[None]:
    """The block must be refused with this code."""
    with pytest.raises(FedhftError) as caught:
        yield
    assert caught.value.code is code, str(caught.value)


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def client_record(client: ClientId, **changes: object) -> ClientRecord:
    record = ClientRecord(client=client, tier="full", samples=60, data_digest="d", joined_ms=1)
    return record.model_copy(update=changes)


def round_record(number: int = 1, clients: tuple[ClientId, ...] = (ALICE, BOB), **changes: object) -> RoundRecord:
    part = Participant(samples=60, plan=PLAN, memberships=(0.25, 0.75))
    record = RoundRecord(
        number=number,
        phase=Phase.COLLECTING,
        base_version=number - 1,
        membership_version=0,
        clusters=2,
        opened_ms=1,
        deadline_ms=1000,
        target=2,
        quorum=1,
        participants=dict.fromkeys(clients, part),
    )
    return record.model_copy(update=changes)


def update_record(client: ClientId, number: int = 1, **changes: object) -> UpdateRecord:
    record = UpdateRecord(
        client=client,
        round=number,
        base_version=number - 1,
        digest="",
        size=0,
        samples=60,
        report=b"\x00 bytes \xff",
    )
    return record.model_copy(update=changes)


def version_record(version: int = 1) -> VersionRecord:
    return VersionRecord(
        version=version,
        round=version,
        clusters=2,
        deltas={"shared": StoredBlob(digest=digest_of(b"delta %d" % version), size=7)},
        bands=BandBlobs(depths=(1, 4), deltas={"shared": {4: StoredBlob(digest=digest_of(b"band"), size=4)}})
        if version == 2
        else None,
    )


def membership_record(version: int, weight: float = 0.5) -> MembershipRecord:
    return MembershipRecord(version=version, round=version, clusters=2, rows={"alice": (weight, 1 - weight)})


async def running_job(store: Store, job: JobId = JOB) -> None:
    await store.create_job(job, SPEC)
    await store.set_status(job, JobStatus.RUNNING, "", ALIVE)


async def open_first_round(store: Store, job: JobId = JOB, **changes: object) -> int:
    """A running job with round 1 open for Alice and Bob; returns the coordinator's fence."""
    await running_job(store, job)
    fence = await store.acquire(job, "coordinator", 60_000)
    assert fence is not None
    await store.open_round(job, round_record(**changes), fence)
    return fence


async def token_of(store: Store, client: ClientId) -> str:
    return (await store.enroll(client, 1 << 30, "0.1.0")).lease_token
