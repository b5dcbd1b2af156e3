"""The store's clock is set while a job runs: it goes on, and nobody's time is up early."""

from __future__ import annotations

import asyncio

import pytest
from fedhft_aggregator.loops import JobLoops

from fedhft.coordination.coordinator import Coordinator
from fedhft.coordination.job_cache import JobCache
from fedhft.ids import JobId
from fedhft.records import JobStatus, Topic
from fedhft.store.in_memory import InMemoryStore
from tests.light import light_job
from tests.unit.story import JOB, Story, rules
from tests.unit.test_coordinator_trouble import run_until


@pytest.mark.parametrize("hours", [-2, 2])
async def test_a_job_completes_although_the_stores_clock_is_set(hours: int) -> None:
    story = await Story.begin(rounds=rules(total=2))
    one = story.coordinator()
    await story.settle(one)
    story.set_clock(hours * 3600)  # while it waits for clients
    await story.go_on(one, 10)
    assert await story.status() is JobStatus.WAITING
    await story.join("a", "b")
    await story.settle(one)
    story.set_clock(hours * 3600)  # while it collects
    await story.deliver("a", "b")
    await story.settle(one)
    await story.go_on(one, 5, "a", "b")
    assert await story.is_collecting(2)
    story.set_clock(hours * 3600)
    await story.go_on(one, 100, "a")  # b is gone: the round's own deadline still counts
    await story.deliver("a")
    await story.go_on(one, 100, "a")
    assert await story.status() is JobStatus.COMPLETED


async def test_clients_gone_when_the_clock_is_set_forward_are_waited_for_as_long_as_ever() -> None:
    story = await Story.begin(rounds=rules(total=3))
    one = story.coordinator()
    await story.join("a", "b")
    await story.play_round(one)
    await story.deliver("a", "b")
    story.wait(60)  # everybody falls silent, and the round is published
    await story.settle(one)
    story.set_clock(7200)
    await story.go_on(one, 200)
    assert await story.status() is JobStatus.RUNNING
    await story.go_on(one, 150)
    assert await story.status() is JobStatus.FAILED


@pytest.mark.parametrize("spec", ["[" * 100_000, '{"version":7}', "{", '{"version":1,"name":"x","name":"y"}'])
async def test_a_job_whose_stored_spec_cannot_be_read_is_shown_as_such_and_ends_nothing(spec: str) -> None:
    story = await Story.begin(rounds=rules())
    its = story.store._jobs[JOB]
    assert its.record is not None
    its.record = its.record.model_copy(update={"spec_json": spec})

    async def paused() -> bool:
        return bool((await story.store.job(JOB)).paused)

    await run_until(story, story.coordinator(), paused)
    record = await story.store.job(JOB)
    assert "stored job" in record.paused or "version = 7" in record.paused
    assert not record.status.over


class Waited(InMemoryStore):
    """Notes how long it is asked to wait, and ends whoever asks."""

    seconds = 0.0

    async def wait_change(self, job: JobId, topic: Topic, seen: int, timeout_s: float) -> int:
        self.seconds = timeout_s
        raise asyncio.CancelledError


@pytest.mark.parametrize(("lease_ms", "longest_s"), [(1_500, 0.5), (15_000, 5.0), (300_000, 5.0)])
async def test_no_wait_outlasts_the_lease(lease_ms: int, longest_s: float) -> None:
    store = Waited()
    await store.create_job(JOB, light_job(JOB, rounds={"join_timeout": "1d"}).canonical())
    with pytest.raises(asyncio.CancelledError):
        await Coordinator(store, JOB, None, "one", lease_ms=lease_ms).run()
    assert store.seconds == pytest.approx(longest_s)


async def test_a_process_that_died_keeps_its_jobs_as_long_as_its_settings_say() -> None:
    now = [1_000.0]
    store = InMemoryStore(clock=lambda: now[0])
    await store.create_job(JOB, light_job(JOB, rounds={"join_timeout": "1d"}).canonical())
    loops = JobLoops(store, JobCache(store), None, lambda point: None, lease_ms=2_000)
    loops.start(JOB)
    for _ in range(500):
        if store._jobs[JOB].holder is not None:
            break
        await asyncio.sleep(0.01)
    driving = loops._tasks[JOB]
    driving.cancel()
    await asyncio.wait([driving])
    now[0] += 1.9
    assert await store.acquire(JOB, "another", 60_000) is None
    now[0] += 0.2
    assert await store.acquire(JOB, "another", 60_000) is not None
