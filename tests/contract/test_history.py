"""Contract of every store: a job's history, from which old rounds are dropped while it grows."""

from __future__ import annotations

import pytest

from fedhft.errors import ErrorCode
from fedhft.readings import History
from fedhft.records import JobStatus, Phase
from fedhft.store.interface import Store
from tests.contract.federation import (
    ALIVE,
    JOB,
    SPEC,
    open_first_round,
    refused,
    round_record,
    version_record,
)


async def publish(store: Store, fence: int, number: int, kept: int | None, **changes: object) -> bool:
    """Open a round, the first of which is open already, and publish it; its entry is its number."""
    if number > 1:
        await store.open_round(JOB, round_record(number, **changes), fence)
    await store.begin_fold(JOB, number, fence)
    return await store.publish(JOB, number, version_record(number), str(number), fence, None, kept)


async def published(store: Store, rounds: int, kept: int | None) -> int:
    fence = await open_first_round(store)
    for number in range(1, rounds + 1):
        await publish(store, fence, number, kept)
    return fence


async def test_a_new_job_has_no_history(store: Store) -> None:
    assert await store.history(JOB) == History(1, ())
    await open_first_round(store)
    assert await store.history(JOB) == History(1, ())
    assert await store.history(JOB, -1) == History(1, ())


@pytest.mark.parametrize("kept", [None, 9, 5, 3, 1])
async def test_entries_are_counted_from_round_1_whatever_was_dropped(store: Store, kept: int | None) -> None:
    fence = await published(store, 5, kept)
    first = max(1, 6 - (kept or 5))
    everything = [str(number) for number in range(1, 6)]

    async def check() -> None:
        for start in range(-7, 8):
            for stop in (None, *range(-7, 8)):
                wanted = [entry for entry in everything[start:stop] if int(entry) >= first]
                assert await store.history(JOB, start, stop) == History(first, tuple(wanted)), (start, stop)

    await check()
    await store.open_round(JOB, round_record(6), fence)  # which has no entry yet
    await check()
    await store.begin_fold(JOB, 6, fence)
    await check()


async def test_entries_are_dropped_in_the_step_that_publishes_or_not_at_all(store: Store) -> None:
    fence = await published(store, 3, None)
    await store.open_round(JOB, round_record(4), fence)
    await store.begin_fold(JOB, 4, fence)
    everything = History(1, ("1", "2", "3"))
    with refused(ErrorCode.FENCED):
        await store.publish(JOB, 4, version_record(4), "4", fence - 1, None, 2)
    with refused(ErrorCode.ROUND_CLOSED):
        await store.publish(JOB, 5, version_record(5), "5", fence, None, 2)
    assert not await store.publish(JOB, 3, version_record(3), "again", fence, None, 2)
    assert await store.history(JOB) == everything
    assert await store.publish(JOB, 4, version_record(4), "4", fence, None, 2)
    assert await store.history(JOB) == History(3, ("3", "4"))
    assert not await store.publish(JOB, 4, version_record(4), "again", fence, None, 1)
    assert await store.history(JOB) == History(3, ("3", "4"))


async def test_what_is_kept_may_change_between_rounds_and_nothing_comes_back(store: Store) -> None:
    fence = await published(store, 4, None)
    for number, kept, expected in ((5, 4, 2), (6, 100, 2), (7, None, 2), (8, 1, 8), (9, 3, 8), (10, 3, 8), (11, 3, 9)):
        await publish(store, fence, number, kept)
        entries = tuple(str(one) for one in range(expected, number + 1))
        assert await store.history(JOB) == History(expected, entries)


async def test_the_last_entry_is_never_dropped(store: Store) -> None:
    fence = await published(store, 2, 1)
    await store.set_status(JOB, JobStatus.EVALUATING, "", ALIVE)
    await publish(store, fence, 3, 1, evaluation=True, base_version=2)
    assert await store.history(JOB, -1) == await store.history(JOB) == History(3, ("3",))
    found = await store.round(JOB)
    assert found is not None
    assert (found.number, found.phase) == (3, Phase.PUBLISHED)


async def test_a_job_under_the_name_of_a_deleted_one_begins_its_history_with_round_1(store: Store) -> None:
    await published(store, 3, 1)
    await store.delete_job(JOB, list(JobStatus))
    await store.create_job(JOB, SPEC)
    assert await store.history(JOB) == History(1, ())
    await published(store, 2, 1)
    assert await store.history(JOB) == History(2, ("2",))
