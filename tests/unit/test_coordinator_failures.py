"""Whole jobs as stories: what a crash changes, and another replica."""

from __future__ import annotations

import pytest

from fedhft.errors import ErrorCode, FedhftError
from fedhft.records import JobStatus
from tests.unit.story import CLUSTERED, JOB, LEASE_MS, Crash, Story, rules

# -- crashes


@pytest.mark.parametrize("point", ["open", "folding", "folded", "published"])
async def test_a_coordinator_that_dies_anywhere_leaves_a_job_that_another_finishes_alike(point: str) -> None:
    async def play(crash_at: str) -> tuple[list[str], list[int]]:
        story = await Story.begin([2, 2, 2], **CLUSTERED, rounds=rules())
        first = story.coordinator("one", crash_at=crash_at)
        await story.join("a", "b", signature=(1.0,))
        crashed = False
        coordinator = first
        for _ in range(2):
            try:
                await story.settle(coordinator)
                await story.deliver("a", "b")
                await story.settle(coordinator)
            except Crash:
                crashed = True
                coordinator = story.coordinator("two")
                story.wait(LEASE_MS / 1000 + 1)
                await story.be_heard("a", "b")
                await story.settle(coordinator)
                if await story.is_collecting(1):
                    await story.deliver("a", "b")
        await story.settle(coordinator)
        if await story.is_collecting(2):
            await story.deliver("a", "b")
            await story.settle(coordinator)
        assert crashed == bool(crash_at)
        assert await story.status() is JobStatus.COMPLETED
        version = await story.store.version(JOB)
        assert version is not None
        assert story.clusterer is not None
        digests = [blob.digest for group in (version.deltas, version.snapshots) for blob in group.values()]
        return sorted(digests), story.clusterer.asked

    digests, asked = await play(point)
    undisturbed, _ = await play("")
    assert digests == undisturbed
    assert asked == sorted(set(asked))  # a repeated fold does not ask the clusterer again


async def test_a_repeated_fold_finds_the_memberships_it_already_got() -> None:
    story = await Story.begin([2, 2, 2], **CLUSTERED, rounds=rules())
    one = story.coordinator(crash_at="folded")
    await story.join("a", "b", signature=(1.0,))
    await story.settle(one)
    await story.deliver("a", "b")
    with pytest.raises(Crash):
        await story.settle(one)
    assert story.clusterer is not None
    assert story.clusterer.asked == [0, 1]
    await story.settle(story.coordinator("one"))
    assert story.clusterer.asked == [0, 1]
    assert await story.is_collecting(2)


async def test_updates_that_came_after_the_fold_began_are_not_in_it() -> None:
    story = await Story.begin(rounds=rules(target=0.5, quorum=0.5))
    one = story.coordinator(crash_at="folding")
    await story.join("a", "b")
    await story.settle(one)
    await story.deliver("a")
    with pytest.raises(Crash):
        await story.settle(one)
    with pytest.raises(FedhftError) as caught:
        await story.deliver("b")
    assert caught.value.code is ErrorCode.ROUND_CLOSED
    await story.settle(story.coordinator("one"))
    assert story.published[0].summary.accepted == 1


async def test_a_round_that_another_replica_published_meanwhile_is_told_by_that_one_alone() -> None:
    story = await Story.begin(rounds=rules())
    one = story.coordinator()
    await story.join("a", "b")
    await story.settle(one)
    await story.deliver("a", "b")
    real = story.store.publish

    async def second(*arguments: object) -> bool:
        assert await real(*arguments)  # type: ignore[arg-type]
        return await real(*arguments)  # type: ignore[arg-type]

    story.store.publish = second  # type: ignore[method-assign,assignment]
    await story.settle(one)
    assert story.published == []
    assert await story.is_collecting(2)
