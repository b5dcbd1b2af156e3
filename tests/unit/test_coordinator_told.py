"""Whole jobs as stories: what clients are told of updates that were not folded as they were."""

from __future__ import annotations

import pytest

from fedhft.ids import ClientId
from fedhft.records import JobStatus, Outcome, OutcomeKind
from tests.unit.story import JOB, LEASE_MS, Crash, Story, rules


async def damage(story: Story, client: str) -> None:
    record = (await story.store.updates(JOB, 1))[ClientId(client)]
    blobs = story.store.blobs._jobs[JOB].blobs  # type: ignore[attr-defined]
    blobs[record.digest] = bytes(reversed(blobs[record.digest]))


async def told(story: Story) -> dict[str, tuple[int, OutcomeKind]]:
    return {client: (outcome.round, outcome.kind) for client, outcome in (await story.store.outcomes(JOB)).items()}


async def test_a_client_whose_update_is_damaged_is_told_and_the_others_are_not() -> None:
    story = await Story.begin(rounds=rules(total=2))
    await story.join("a", "b", "c")
    one = story.coordinator()
    await story.settle(one)
    await story.deliver("a", "b", "c")
    await damage(story, "b")
    await story.settle(one)
    (outcome,) = (await story.store.outcomes(JOB)).values()
    assert await told(story) == {"b": (1, OutcomeKind.SET_ASIDE)}
    assert "SHA-256" in outcome.reason
    assert outcome.factor == 0
    await story.play_round(one)
    assert await told(story) == {"b": (1, OutcomeKind.SET_ASIDE)}


async def test_one_whose_update_was_scaled_down_is_told_by_how_much() -> None:
    story = await Story.begin(rounds=rules())
    await story.join(*"abcdefgz")
    one = story.coordinator()
    await story.settle(one)
    await story.deliver(*"abcdefg", alike=0.5)
    await story.deliver("z", scale=1.0, alike=0.5)
    await story.settle(one)
    (clipped,) = story.published[0].summary.clipped
    outcome = (await story.store.outcomes(JOB))["z"]
    assert await told(story) == {"z": (1, OutcomeKind.CLIPPED)}
    assert outcome.factor == clipped.factor


async def test_one_that_points_against_the_others_is_told_so() -> None:
    story = await Story.begin(rounds=rules())
    await story.join(*"abcdefgz")
    one = story.coordinator()
    await story.settle(one)
    await story.deliver(*"abcdefg", alike=3.0)
    await story.deliver("z", scale=-0.01, alike=3.0)
    await story.settle(one)
    assert list(story.published[0].summary.opposed) == ["z"]
    assert await told(story) == {"z": (1, OutcomeKind.OPPOSED)}


async def test_a_holder_that_dies_before_it_publishes_leaves_word_already() -> None:
    story = await Story.begin(rounds=rules(total=1))
    await story.join("a", "b", "c")
    await story.settle(story.coordinator())
    await story.deliver("a", "b", "c")
    await damage(story, "b")
    with pytest.raises(Crash):
        await story.settle(story.coordinator("one", crash_at="published"))
    assert await told(story) == {"b": (1, OutcomeKind.SET_ASIDE)}
    story.wait(LEASE_MS / 1000 + 1)
    await story.be_heard("a", "b", "c")
    await story.settle(story.coordinator("two"))
    assert await told(story) == {"b": (1, OutcomeKind.SET_ASIDE)}


async def test_a_round_that_is_collected_again_tells_why_and_takes_the_same_bytes_anew() -> None:
    story = await Story.begin(rounds=rules(total=1, quorum=1.0))
    await story.join("a", "b", "c")
    one = story.coordinator()
    await story.settle(one)
    await story.deliver("a", "b", "c")
    before = await story.store.updates(JOB, 1)
    await damage(story, "b")
    story.wait(1)
    await story.settle(one)
    assert await story.is_collecting(1)
    assert await told(story) == {"b": (1, OutcomeKind.SET_ASIDE)}
    stored = await story.stored()
    assert [stored(before[ClientId(client)].digest) for client in "abc"] == [True, False, True]
    await story.deliver("b")
    assert await story.store.updates(JOB, 1) == before
    await story.settle(one)
    assert await story.status() is JobStatus.COMPLETED
    assert story.published[0].summary.set_aside_count == 0


async def test_a_job_that_fails_for_want_of_usable_updates_tells_whose_were_not() -> None:
    story = await Story.begin(rounds=rules(total=1, quorum=1.0, extensions=0))
    await story.join("a", "b", "c")
    one = story.coordinator()
    await story.settle(one)
    await story.deliver("a", "b", "c")
    await damage(story, "b")
    await story.settle(one)
    assert await story.status() is JobStatus.FAILED
    assert await told(story) == {"b": (1, OutcomeKind.SET_ASIDE)}


def test_an_outcome_is_the_same_after_the_store_has_kept_it() -> None:
    outcome = Outcome(round=3, kind=OutcomeKind.CLIPPED, reason="much", factor=0.1)
    assert Outcome.model_validate_json(outcome.model_dump_json()) == outcome
