"""Services forget the series of jobs that are over, or deleted, without being told."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from fedhft_aggregator import loops
from fedhft_clusterer import service

from fedhft.coordination.job_cache import JobCache
from fedhft.ids import JobId
from fedhft.records import JobStatus
from fedhft.store.in_memory import InMemoryStore
from fedhft.telemetry import federations, metrics
from tests.light import light_job

AT_ONCE = functools.partial(federations.EndedFederations, kept_s=0.0)


@pytest_asyncio.fixture
async def store() -> AsyncIterator[InMemoryStore]:
    made = InMemoryStore()
    for job in ("open", "over"):
        await made.create_job(JobId(job), light_job(job).canonical())
        metrics.MEMBERSHIPS_VERSION.labels(federation=job).set(1)
    await made.set_status(JobId("over"), JobStatus.CANCELLED, "", [JobStatus.WAITING])
    yield made
    for job in ("open", "over"):
        federations.drop(job)


async def only_the_open_job_is_shown() -> None:
    for _ in range(1000):
        if "over" not in federations.shown():
            break
        await asyncio.sleep(0.01)
    assert federations.shown() & {"open", "over"} == {"open"}


async def test_the_clusterer_forgets(store: InMemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "EndedFederations", AT_ONCE)
    async with service._forgetting(store):
        await only_the_open_job_is_shown()


async def test_the_aggregator_forgets(store: InMemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "EndedFederations", AT_ONCE)
    driving = loops.JobLoops(store, JobCache(store), None, lambda point: None)
    discovering = asyncio.create_task(driving.discover())
    try:
        await only_the_open_job_is_shown()
    finally:
        discovering.cancel()
        await driving.stop()
