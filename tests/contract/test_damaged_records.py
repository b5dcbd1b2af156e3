"""Records in Redis that are not what any release wrote: refused with a code of their own, and hiding nothing else."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from fedhft.errors import ErrorCode
from fedhft.ids import JobId
from fedhft.records import JobStatus
from fedhft.store.interface import Store
from fedhft.store.keys import JobKeys
from tests.contract.federation import ALICE, JOB, client_record, open_first_round, refused, token_of, update_record
from tests.light import light_job

GARBAGE = (b"", b"{", b"[]", b"null", b"[" * 100_000, b'{"number": 1}', b"\xff\xfe", b'{"samples": Infinity}')


@pytest.mark.parametrize("garbage", GARBAGE, ids=lambda data: repr(data[:20]))
async def test_a_damaged_record_is_named(own_store: Store, admin: Redis, garbage: bytes) -> None:
    store, its = own_store, JobKeys(JOB)
    await open_first_round(store)
    await store.accept(JOB, update_record(ALICE), await token_of(store, ALICE))
    await store.join(JOB, client_record(ALICE))
    await admin.hset(its.job, "spec", light_job("x").canonical())  # type: ignore[misc]
    for key, field in ((its.round, "record"), (its.updates(1), ALICE), (its.clients, ALICE)):
        await admin.hset(key, field, garbage)  # type: ignore[misc]
    for read in (
        lambda: store.round(JOB), lambda: store.updates(JOB, 1), lambda: store.update(JOB, 1, ALICE),
        lambda: store.clients(JOB),
    ):  # fmt: skip
        with refused(ErrorCode.DAMAGED_RECORD):
            await read()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("field", ["status", "created_ms", "spec", "reason"])
async def test_a_damaged_job_is_listed_as_one_and_hides_no_other(own_store: Store, admin: Redis, field: str) -> None:
    await own_store.create_job(JOB, "{}")
    await own_store.create_job(JobId("sound"), "{}")
    await admin.hset(JobKeys(JOB).job, field, b"\xff")  # type: ignore[misc]
    damaged, sound = await own_store.jobs()
    assert (damaged.status, "damaged" in damaged.reason) == (JobStatus.FAILED, True)
    assert (sound.job, sound.status) == ("sound", JobStatus.WAITING)
    assert (await own_store.job(JOB)).status is JobStatus.FAILED
