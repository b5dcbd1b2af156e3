"""Whole jobs as stories: the best version is told, kept and exported, and a job that gets no better ends early."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from fedhft.coordination.describe import describe, outline
from fedhft.coordination.exported import exported, kept_whole
from fedhft.errors import ErrorCode, FedhftError
from fedhft.records import JobStatus
from fedhft.v1 import jobs_pb2
from tests.unit.story import JOB, LEASE_MS, Crash, Story, rules


async def played(scores: Sequence[float | None], total: int = 30, **changes: Any) -> Story:
    """A job whose round t scored version t - 1 with scores[t - 1]."""
    story = await Story.begin(rounds=rules(total=total), **changes)
    one = story.coordinator()
    await story.join("a", "b")
    for score in scores:
        await story.play_round(one, score=score)
        story.wait(1)
    return story


async def told(story: Story) -> jobs_pb2.Job:
    return await describe(story.store, await story.store.job(JOB))


RISE_AND_FALL = [0.1, 0.2, 0.9, *[0.5] * 12]


async def test_the_best_version_is_told_in_every_answer_about_a_job() -> None:
    story = await played(RISE_AND_FALL)
    best = (await told(story)).best
    assert (best.version, best.score, best.round, best.waited) == (2, 0.9, 3, 12)
    assert (await outline(story.store, await story.store.job(JOB))).best == best
    assert [entry.summary.best.version for entry in story.published[:4]] == [0, 1, 2, 2]


async def test_the_best_version_can_be_exported_long_after_its_deltas_are_gone_and_others_cannot() -> None:
    story = await played(RISE_AND_FALL)
    assert [version.version for version in await kept_whole(story.store, JOB)] == [15, 14, 2]
    export = await exported(story.store, JOB, 2)
    stored = await story.stored()
    assert export.version == 2
    assert export.blobs
    assert all(stored(ref.digest.hex()) for ref in export.blobs)
    with pytest.raises(FedhftError, match="keeps 2 and 14 and 15") as refusal:
        await exported(story.store, JOB, 3)
    assert refusal.value.code is ErrorCode.INVALID_ARGUMENT


async def test_what_was_the_best_goes_when_another_is() -> None:
    story = await played([*RISE_AND_FALL, 0.95])
    former = await story.store.version(JOB, 2)
    assert former is None
    assert [version.version for version in await kept_whole(story.store, JOB)] == [16, 15]
    stored = await story.stored()
    await story.play_round(story.coordinator(), score=0.1)
    latest = [await story.store.version(JOB, number) for number in (15, 16, 17)]
    assert all(stored(blob.digest) for version in latest if version for blob in version.snapshots.values())


async def test_a_job_that_gets_no_better_evaluates_its_last_version_and_says_why_it_ended() -> None:
    story = await played([0.1, 0.6, 0.6, 0.5], stopping={"patience": 2}, evaluation={"final": True})
    one = story.coordinator()
    await story.settle(one)
    current = await story.round()
    assert (current.number, current.evaluation, current.base_version) == (5, True, 4)
    assert await story.status() is JobStatus.EVALUATING
    await story.deliver("a", "b", score=0.7)
    assert await story.settle(one) is None
    job = await told(story)
    assert (job.status, job.rounds_done, job.final.round) == ("completed", 4, 5)
    assert job.reason.startswith("ended early: 2 scored rounds without a version better than 1, ")
    assert (job.best.version, job.best.score) == (4, 0.7), "the final evaluation scores the last version"


async def test_without_a_final_evaluation_it_is_complete_at_once() -> None:
    story = await played([0.6, 0.5], stopping={"patience": 1}, evaluation={"final": False})
    assert await story.status() is JobStatus.COMPLETED
    assert "stopping.patience = 1" in await story.reason()


async def test_rounds_that_score_nothing_use_up_no_patience() -> None:
    scores = [None, 0.6, None, 0.5, None]
    story = await played(scores, stopping={"patience": 2}, evaluation={"every": 2, "final": False})
    assert await story.status() is JobStatus.RUNNING
    await story.play_round(story.coordinator(), score=0.5)
    assert await story.status() is JobStatus.COMPLETED


async def test_a_job_with_rounds_left_goes_on_while_it_gets_better_and_ends_as_planned_without_a_reason() -> None:
    story = await played([0.1, 0.2, 0.3], total=3, stopping={"patience": 1}, evaluation={"final": False})
    assert (await story.status(), await story.reason()) == (JobStatus.COMPLETED, "")


@pytest.mark.parametrize("crash_at", ["folding", "folded", "published", "tidying"])
async def test_a_coordinator_that_dies_at_any_point_changes_neither_the_best_version_nor_the_end(crash_at: str) -> None:
    story = await Story.begin(rounds=rules(total=9), stopping={"patience": 2}, evaluation={"final": False})
    await story.join("a", "b")
    for number, score in enumerate((0.1, 0.6, 0.6, 0.5)):
        failing = story.coordinator(f"{number}", crash_at=crash_at)
        await story.settle(failing)
        await story.deliver("a", "b", score=score)
        with pytest.raises(Crash):
            await story.settle(failing)
        story.wait(LEASE_MS / 1000 + 1)
        await story.be_heard("a", "b")
        next_one = story.coordinator(f"{number} again")
        await story.settle(next_one)
        story.wait(LEASE_MS / 1000 + 1)
        await story.be_heard("a", "b")
    job = await told(story)
    assert (job.status, job.rounds_done) == ("completed", 4)
    assert (job.best.version, job.best.waited) == (1, 2)
    assert [entry.best.version for entry in job.history] == [0, 1, 1, 1]
