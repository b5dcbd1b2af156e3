"""Whole jobs as stories: what defects, surroundings that fail, damaged updates and clocks that are set change."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from fedhft.coordination.coordinator import Coordinator
from fedhft.errors import ErrorCode, FedhftError
from fedhft.ids import ClientId
from fedhft.records import JobStatus
from fedhft.rounds.patience import LONGEST_PAUSE_S, MOST_ATTEMPTS
from tests.unit.story import JOB, LEASE_MS, Crash, Story, rules


def failing(story: Story, name: str, errors: list[Exception], on: object = None) -> None:
    """Let the next calls of a method of the store raise these, in turn."""
    target = story.store if on is None else on
    real: Callable[..., Awaitable[Any]] = getattr(target, name)

    async def call(*arguments: Any, **named: Any) -> Any:
        if errors:
            raise errors.pop(0)
        return await real(*arguments, **named)

    setattr(target, name, call)


async def run_until(story: Story, coordinator: Coordinator, done: Callable[[], Awaitable[bool]]) -> None:
    """Let a coordinator run, without any waiting, until something is so."""

    found = asyncio.Event()

    async def look(*arguments: object) -> int:
        if await done():
            found.set()
        await asyncio.sleep(0)
        return 0

    story.store.wait_change = look  # type: ignore[method-assign,assignment]
    story.after_pause = look
    running = asyncio.create_task(coordinator.run())
    try:
        async with asyncio.timeout(10):
            waiting = asyncio.create_task(found.wait())
            await asyncio.wait([running, waiting], return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def delivered(**changes: Any) -> tuple[Story, Coordinator]:
    """A story in which the updates of round 1 are there and its fold is next."""
    story = await Story.begin(rounds=rules(**changes))
    await story.join("a", "b", "c")
    one = story.coordinator()
    await story.settle(one)
    await story.deliver("a", "b", "c")
    return story, one


def is_over(story: Story) -> Callable[[], Awaitable[bool]]:
    async def over() -> bool:
        return (await story.status()).over

    return over


def is_paused(story: Story) -> Callable[[], Awaitable[bool]]:
    async def paused() -> bool:
        return bool((await story.store.job(JOB)).paused)

    return paused


# -- defects


async def test_a_defect_pauses_the_job_with_a_number_and_it_goes_on_when_resumed() -> None:
    story, one = await delivered(total=1)
    failing(story, "publish", [RuntimeError("a defect")] * MOST_ATTEMPTS)
    await run_until(story, one, is_paused(story))
    record = await story.store.job(JOB)
    assert record.status is JobStatus.RUNNING
    assert record.paused.startswith("incident ")
    assert "RuntimeError: a defect" in record.paused
    assert await story.settle(story.coordinator("one")) == 60  # others find it paused, too
    await story.store.resume_job(JOB)
    await run_until(story, one, is_over(story))
    assert await story.status() is JobStatus.COMPLETED


async def test_fewer_defects_than_that_pause_nothing() -> None:
    story, one = await delivered(total=1)
    failing(story, "publish", [RuntimeError("a defect")] * (MOST_ATTEMPTS - 1))
    await run_until(story, one, is_over(story))
    assert await story.status() is JobStatus.COMPLETED
    assert len(story.pauses) == MOST_ATTEMPTS - 1


async def test_a_defect_of_a_mere_look_pauses_too() -> None:
    story, one = await delivered()
    failing(story, "look", [RuntimeError("a defect")] * MOST_ATTEMPTS)
    await run_until(story, one, is_paused(story))
    assert "a defect" in (await story.store.job(JOB)).paused


async def test_a_fold_that_kills_its_process_pauses_the_job_instead_of_killing_one_after_the_other() -> None:
    story, _ = await delivered()
    story.wait(LEASE_MS / 1000 + 1)
    for number in range(MOST_ATTEMPTS):
        with pytest.raises(Crash):
            await story.settle(story.coordinator(f"replica {number}", crash_at="folded"))
        story.wait(LEASE_MS / 1000 + 1)
    await story.settle(story.coordinator("the last"))
    record = await story.store.job(JOB)
    assert (record.status, bool(record.paused)) == (JobStatus.RUNNING, True)
    assert "ended without a result, or with their process" in record.paused


async def test_while_a_job_is_paused_no_deadline_passes() -> None:
    story = await Story.begin(rounds=rules(total=1, quorum=1.0))
    await story.join("a", "b")
    one = story.coordinator()
    await story.settle(one)
    await story.go_on(one, 50, "a", "b")
    await story.store.pause_job(JOB, "by hand")
    await story.go_on(one, 500, "a", "b")
    assert await story.is_collecting(1)
    await story.deliver("a")  # what was on its way is accepted
    await story.store.resume_job(JOB)
    await story.go_on(one, 5, "a", "b")
    current = await story.round()
    assert (current.extensions, await story.is_collecting(1)) == (0, True)
    await story.deliver("b")
    await story.settle(one)
    assert await story.status() is JobStatus.COMPLETED


async def test_a_job_paused_before_it_began_waits_for_clients_as_long_as_it_would_have() -> None:
    story = await Story.begin(rounds=rules())
    one = story.coordinator()
    await story.settle(one)
    await story.store.pause_job(JOB, "by hand")
    await story.go_on(one, 1000)
    await story.store.resume_job(JOB)
    await story.go_on(one, 290)
    assert await story.status() is JobStatus.WAITING
    await story.go_on(one, 20)
    assert await story.status() is JobStatus.FAILED


# -- surroundings


@pytest.mark.parametrize(
    "error",
    [
        FedhftError(ErrorCode.STORE_UNAVAILABLE, "no answer from the volume"),
        FedhftError(ErrorCode.STORE_FULL, "no room"),
        OSError("broken disk"),
        MemoryError(),
    ],
    ids=repr,
)
async def test_surroundings_are_waited_for_however_often_and_the_job_says_so(error: Exception) -> None:
    story, one = await delivered(total=1)
    errors = [error] * (3 * MOST_ATTEMPTS)
    failing(story, "put", errors, story.store.blobs)
    told = []

    async def seen() -> bool:
        record = await story.store.job(JOB)
        told.append(record.blocked)
        return record.status.over

    await run_until(story, one, seen)
    record = await story.store.job(JOB)
    assert (record.status, record.paused, record.blocked, errors) == (JobStatus.COMPLETED, "", "", [])
    assert any(told)
    assert len(story.pauses) == 3 * MOST_ATTEMPTS
    assert max(story.pauses) > LONGEST_PAUSE_S / 2
    assert all(pause <= LONGEST_PAUSE_S for pause in story.pauses)


async def test_a_job_that_was_blocked_in_another_replicas_time_is_cleared_when_it_goes_on() -> None:
    story, one = await delivered(total=1)
    await story.store.set_blocked(JOB, "the volume is away")
    await run_until(story, one, is_over(story))
    assert (await story.store.job(JOB)).blocked == ""


# -- updates set aside


async def lose(story: Story, client: str) -> None:
    record = (await story.store.updates(JOB, 1))[ClientId(client)]
    await story.store.blobs.delete(JOB, [record.digest])


async def damage(story: Story, client: str) -> None:
    record = (await story.store.updates(JOB, 1))[ClientId(client)]
    blobs = story.store.blobs._jobs[JOB].blobs  # type: ignore[attr-defined]
    blobs[record.digest] = bytes(reversed(blobs[record.digest]))


async def spoil_report(story: Story, client: str) -> None:
    kept = story.store._jobs[JOB].updates[1]
    kept[ClientId(client)] = kept[ClientId(client)].model_copy(update={"report": b"{nonsense"})


@pytest.mark.parametrize("spoil", [lose, damage, spoil_report])
async def test_a_fold_sets_aside_what_it_cannot_read_and_names_it(
    spoil: Callable[[Story, str], Awaitable[None]],
) -> None:
    story, one = await delivered()
    await spoil(story, "b")
    await story.settle(one)
    (entry,) = story.published
    assert [one.client for one in entry.summary.set_aside] == ["b"]
    assert (entry.summary.accepted, entry.summary.set_aside_count) == (2, 1)
    assert entry.summary.set_aside[0].reason
    assert await story.is_collecting(2)

    without = await Story.begin(rounds=rules(target=0.6))
    await without.join("a", "b", "c")
    other = without.coordinator()
    await without.settle(other)
    await without.deliver("a", "c")
    await without.settle(other)
    versions = [await one.store.version(JOB, 1) for one in (story, without)]
    assert versions[0] is not None
    assert versions[0] == versions[1]  # the same bytes as if it had never come


async def test_a_round_with_too_little_left_is_collected_again() -> None:
    story, one = await delivered(total=1, quorum=1.0)
    await lose(story, "b")
    await story.settle(one)
    current = await story.round()
    assert (await story.is_collecting(1), current.extensions) == (True, 1)
    assert sorted(await story.store.updates(JOB, 1)) == ["a", "c"]
    await story.deliver("b")
    await story.settle(one)
    assert await story.status() is JobStatus.COMPLETED
    assert story.published[0].summary.accepted == 3
    assert story.published[0].summary.set_aside_count == 0


async def test_and_fails_when_it_was_extended_often_enough() -> None:
    story, one = await delivered(total=1, quorum=1.0, extensions=0)
    await lose(story, "b")
    await story.settle(one)
    assert await story.status() is JobStatus.FAILED
    assert "2 usable updates, 3 needed" in await story.reason()


async def test_a_fold_repeated_by_another_replica_leaves_out_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    story, _ = await delivered()
    await lose(story, "b")
    lost = (await story.store.updates(JOB, 1))[ClientId("b")]
    with pytest.raises(Crash):
        await story.settle(story.coordinator("one", crash_at="folded"))
    story.wait(LEASE_MS / 1000 + 1)
    story.store.blobs._jobs[JOB].blobs[lost.digest] = b"it comes back"  # type: ignore[attr-defined]
    await story.be_heard("a", "b", "c")
    await story.settle(story.coordinator("two"))
    assert story.published[0].summary.set_aside[0].client == "b"


async def test_an_update_that_kills_the_folding_process_three_times_is_set_aside() -> None:
    story, _ = await delivered(total=1)

    class Killer:
        """Ends the process whenever the update of `b` is folded."""

        def __call__(self, point: str) -> None:
            if point == "decoding=b":
                raise Crash

    deaths = 0
    story.wait(LEASE_MS / 1000 + 1)
    for number in range(4):
        coordinator = Coordinator(
            story.store, JOB, None, f"replica {number}", lease_ms=LEASE_MS, reached=Killer(),
            observe=story.published.append, monotonic=lambda: story.clock[0],
        )  # fmt: skip
        try:
            await story.settle(coordinator)
        except Crash:
            deaths += 1
            story.wait(LEASE_MS / 1000 + 1)
    assert deaths == 3
    assert await story.status() is JobStatus.COMPLETED
    (aside,) = story.published[0].summary.set_aside
    assert aside.client == "b"
    assert "ended while this update was being folded" in aside.reason


# -- tidying


async def test_a_coordinator_that_slept_before_tidying_deletes_nothing_when_it_wakes() -> None:
    story, _ = await delivered(total=9)
    asleep, awake = asyncio.Event(), asyncio.Event()
    real = story.store.blobs.mark

    async def sleepy(job: Any) -> float:
        if not asleep.is_set():
            asleep.set()
            await awake.wait()
        return await real(job)

    story.store.blobs.mark = sleepy  # type: ignore[method-assign]
    first = asyncio.create_task(story.coordinator("one").step())
    await asleep.wait()
    two = story.coordinator("two")
    for _ in range(3):
        story.wait(LEASE_MS / 1000 + 3600)
        await story.be_heard("a", "b", "c")
        await story.play_round(two, "a", "b", "c")
    stored = dict(story.store.blobs._jobs[JOB].blobs)  # type: ignore[attr-defined]
    awake.set()
    with pytest.raises(FedhftError) as caught:
        await first
    assert caught.value.code is ErrorCode.FENCED
    assert story.store.blobs._jobs[JOB].blobs == stored  # type: ignore[attr-defined]


async def test_and_nothing_live_when_it_sleeps_in_the_middle_of_it() -> None:
    story, _ = await delivered(total=9)
    asleep, awake = asyncio.Event(), asyncio.Event()
    real = story.store.blobs.delete

    async def sleepy(*arguments: Any) -> None:
        if not asleep.is_set():
            asleep.set()
            await awake.wait()
        await real(*arguments)

    story.store.blobs.delete = sleepy  # type: ignore[method-assign]
    first = asyncio.create_task(story.coordinator("one").step())
    await asleep.wait()
    two = story.coordinator("two")
    for _ in range(3):
        story.wait(LEASE_MS / 1000 + 3600)
        await story.be_heard("a", "b", "c")
        await story.play_round(two, "a", "b", "c")
    await story.deliver("a")  # of the round that is open now
    version = await story.store.version(JOB)
    assert version is not None
    awake.set()
    with pytest.raises(FedhftError, match="fence"):
        await first
    live = [
        blob.digest for group in (version.deltas, version.snapshots, version.server_state) for blob in group.values()
    ]
    live += [record.digest for record in (await story.store.updates(JOB, (await story.round()).number)).values()]
    stored = await story.stored()
    assert live
    assert all(map(stored, live))
