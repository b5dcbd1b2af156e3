"""Contract of every store: a coordinator that lost its lease changes nothing, and whoever waits is woken."""

from __future__ import annotations

import asyncio
import time

from fedhft.errors import ErrorCode
from fedhft.ids import JobId
from fedhft.records import JobStatus, Topic
from fedhft.store.interface import Store
from tests.contract.federation import (
    ALICE,
    ALIVE,
    JOB,
    open_first_round,
    refused,
    round_record,
    running_job,
    token_of,
    update_record,
    version_record,
)


class TestFencing:
    async def test_an_old_holders_token_is_refused_everywhere(self, store: Store) -> None:
        await running_job(store)
        old = await store.acquire(JOB, "old", 50)
        assert old is not None
        await asyncio.sleep(0.1)
        new = await store.acquire(JOB, "new", 60_000)
        assert new is not None
        with refused(ErrorCode.FENCED):
            await store.open_round(JOB, round_record(), old)
        assert await store.round(JOB) is None
        await store.open_round(JOB, round_record(), new)
        with refused(ErrorCode.FENCED):
            await store.open_round(JOB, round_record(), old)
        with refused(ErrorCode.FENCED):
            await store.extend_round(JOB, 1, 9999, old)
        with refused(ErrorCode.FENCED):
            await store.begin_fold(JOB, 1, old)
        assert await store.round(JOB) == round_record()
        await store.begin_fold(JOB, 1, new)
        with refused(ErrorCode.FENCED):
            await store.publish(JOB, 1, version_record(1), "{}", old)
        assert await store.version(JOB) is None
        await store.publish(JOB, 1, version_record(1), "{}", new)
        with refused(ErrorCode.FENCED):
            await store.publish(JOB, 1, version_record(1), "{}", old)

    async def test_a_released_token_is_refused_even_before_anyone_else_holds_the_lease(self, store: Store) -> None:
        fence = await open_first_round(store)
        await store.release(JOB, "coordinator")
        with refused(ErrorCode.FENCED):
            await store.begin_fold(JOB, 1, fence)

    async def test_only_the_holder_may_change_the_status_under_a_fence(self, store: Store) -> None:
        fence = await open_first_round(store)
        await store.release(JOB, "coordinator")
        with refused(ErrorCode.FENCED):
            await store.set_status(JOB, JobStatus.FAILED, "late", [JobStatus.RUNNING], fence)
        assert (await store.job(JOB)).status is JobStatus.RUNNING
        assert await store.set_status(JOB, JobStatus.CANCELLED, "by hand", [JobStatus.RUNNING])

    async def test_folding_wakes_those_who_watch_and_none_who_wait_for_work(self, store: Store) -> None:
        fence = await open_first_round(store)
        seen = [await store.changes(JOB, topic) for topic in (Topic.TASKS, Topic.PROGRESS)]
        await store.begin_fold(JOB, 1, fence)
        assert [await store.changes(JOB, topic) for topic in (Topic.TASKS, Topic.PROGRESS)] == [seen[0], seen[1] + 1]

    async def test_a_token_that_was_never_handed_out_is_refused(self, store: Store) -> None:
        await running_job(store)
        for fence in (0, 1, 7):
            with refused(ErrorCode.FENCED):
                await store.open_round(JOB, round_record(), fence)


class TestWaiting:
    async def test_a_change_wakes_all_waiters_at_once(self, store: Store) -> None:
        fence = await open_first_round(store)
        await store.begin_fold(JOB, 1, fence)
        seen = await store.changes(JOB, Topic.PROGRESS)
        waiting = [asyncio.create_task(store.wait_change(JOB, Topic.PROGRESS, seen, 10)) for _ in range(50)]
        await asyncio.sleep(0.2)
        assert not any(task.done() for task in waiting)
        started = time.monotonic()
        await store.publish(JOB, 1, version_record(1), "{}", fence)
        assert {await task for task in waiting} == {seen + 1}
        assert time.monotonic() - started < 2

    async def test_a_change_missed_before_waiting_ends_the_wait_at_once(self, store: Store) -> None:
        seen = await store.changes(JOB, Topic.TASKS)
        await open_first_round(store)
        started = time.monotonic()
        assert await store.wait_change(JOB, Topic.TASKS, seen, 10) == await store.changes(JOB, Topic.TASKS) > seen
        assert time.monotonic() - started < 2

    async def test_nothing_happens_until_the_timeout(self, store: Store) -> None:
        await open_first_round(store)
        seen = await store.changes(JOB, Topic.TASKS)
        started = time.monotonic()
        waiting = asyncio.create_task(store.wait_change(JOB, Topic.TASKS, seen, 0.4))
        await store.accept(JOB, update_record(ALICE), await token_of(store, ALICE))
        assert await waiting == seen
        assert 0.35 < time.monotonic() - started < 3

    async def test_without_time_to_wait_the_counter_is_just_read(self, store: Store) -> None:
        await running_job(store)
        seen = await store.changes(JOB, Topic.TASKS)
        assert await store.wait_change(JOB, Topic.TASKS, seen, 0) == seen
        assert await store.wait_change(JOB, Topic.TASKS, seen - 1, 0) == seen

    async def test_one_job_does_not_wake_another(self, store: Store) -> None:
        other = JobId("other")
        seen = await store.changes(other, Topic.TASKS)
        waiting = asyncio.create_task(store.wait_change(other, Topic.TASKS, seen, 0.5))
        await asyncio.sleep(0.1)
        await running_job(store)
        assert await waiting == seen

    async def test_a_waiter_that_gave_up_does_no_harm(self, store: Store) -> None:
        await running_job(store)
        seen = await store.changes(JOB, Topic.ARRIVALS)
        gone = asyncio.create_task(store.wait_change(JOB, Topic.ARRIVALS, seen, 10))
        stays = asyncio.create_task(store.wait_change(JOB, Topic.ARRIVALS, seen, 10))
        await asyncio.sleep(0.1)
        gone.cancel()
        await store.set_status(JOB, JobStatus.CANCELLED, "", ALIVE)
        assert await stays == seen + 1
