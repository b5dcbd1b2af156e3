"""Whole jobs as stories: from the first client to the end, how rounds open and close, and who may act."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from fedhft.records import JobStatus, Phase
from tests.unit.story import JOB, LEASE_MS, Story, rules

FIVE = ("a", "b", "c", "d", "e")


# -- a job from its first client to its end


async def test_a_job_waits_for_its_clients_runs_its_rounds_and_completes() -> None:
    story = await Story.begin(rounds=rules(total=3))
    one = story.coordinator()
    await story.settle(one)
    assert await story.status() is JobStatus.WAITING
    await story.join("a")
    await story.settle(one)
    assert await story.status() is JobStatus.WAITING
    await story.join("b")
    for number in (1, 2, 3):
        await story.settle(one)
        assert await story.is_collecting(number)
        await story.deliver("a", "b")
    assert await story.settle(one) is None
    assert await story.status() is JobStatus.COMPLETED
    assert [entry.summary.round for entry in story.published] == [1, 2, 3]
    version = await story.store.version(JOB)
    assert version is not None
    assert version.version == 3


async def test_a_job_without_enough_clients_fails_after_its_join_timeout_and_says_why() -> None:
    story = await Story.begin(rounds=rules(min_clients=3))
    one = story.coordinator()
    await story.join("a", "b")
    await story.settle(one)
    await story.go_on(one, 299, "a", "b")
    assert await story.status() is JobStatus.WAITING
    assert await story.go_on(one, 2, "a", "b") is None
    assert await story.status() is JobStatus.FAILED
    assert "2 of rounds.min_clients = 3 clients joined" in await story.reason()


async def test_a_final_evaluation_asks_every_live_client_and_closes_with_their_scores() -> None:
    story = await Story.begin(rounds=rules(total=1, sample=0.5, min_clients=4), evaluation={"final": True})
    one = story.coordinator()
    await story.join("a", "b", "c", "d")
    await story.settle(one)
    assert len((await story.round()).participants) == 2
    await story.deliver(*(await story.round()).participants)
    await story.settle(one)
    assert await story.status() is JobStatus.EVALUATING
    final = await story.round()
    assert (final.evaluation, sorted(final.participants), final.target) == (True, ["a", "b", "c", "d"], 4)
    await story.deliver("a", "b", "c", "d")
    assert await story.settle(one) is None
    assert await story.status() is JobStatus.COMPLETED
    entry = story.published[-1]
    assert (entry.evaluation, [result.client for result in entry.results]) == (True, ["a", "b", "c", "d"])


async def test_a_cancelled_job_is_left_at_the_next_full_look() -> None:
    story = await Story.begin(rounds=rules())
    one = story.coordinator()
    await story.join("a", "b")
    await story.settle(one)
    alive = [status for status in JobStatus if not status.over]
    await story.store.set_status(JOB, JobStatus.CANCELLED, "enough", alive)
    story.wait(6)
    assert await one.step() is None


# -- how a round closes


async def test_a_round_closes_when_its_target_has_come() -> None:
    story = await Story.begin(rounds=rules(target=0.6, quorum=0.2, min_clients=5))
    one = story.coordinator()
    await story.join(*FIVE)
    await story.settle(one)
    await story.deliver("a", "b")
    await story.settle(one)
    assert await story.is_collecting(1)
    await story.deliver("c")
    await story.settle(one)
    assert await story.is_collecting(2)
    assert story.published[0].summary.accepted == 3


async def test_a_round_with_its_quorum_closes_at_the_deadline_and_not_before() -> None:
    story = await Story.begin(rounds=rules(quorum=0.4, min_clients=5))
    one = story.coordinator()
    await story.join(*FIVE)
    await story.settle(one)
    await story.deliver("a", "b")
    story.wait(59)
    await story.be_heard(*FIVE)
    await story.settle(one)
    assert await story.is_collecting(1)
    story.wait(1)
    await story.settle(one)
    assert await story.is_collecting(2)
    assert story.published[0].summary.accepted == 2


async def test_a_deadline_is_kept_although_nobody_delivers_after_the_last_look() -> None:
    story = await Story.begin(rounds=rules(quorum=0.5, deadline="3s"))
    one = story.coordinator()
    await story.join("a", "b")
    await story.settle(one)
    await story.deliver("a")
    assert await story.settle(one) == pytest.approx(3.0)  # full look: the open round is remembered for cheap ones
    story.wait(2)
    assert await story.settle(one) == pytest.approx(1.0)  # cheap look
    story.wait(1)
    await story.settle(one)
    assert [entry.summary.round for entry in story.published] == [1]


async def test_a_round_without_quorum_is_extended_and_then_fails_the_job() -> None:
    story = await Story.begin(rounds=rules(quorum=0.8, min_clients=5, extensions=2))
    one = story.coordinator()
    await story.join(*FIVE)
    await story.settle(one)
    await story.deliver("a", "b", "c")
    for extension in (1, 2):
        story.wait(60)
        await story.settle(one)
        assert ((await story.round()).extensions, await story.status()) == (extension, JobStatus.RUNNING)
    story.wait(60)
    assert await story.settle(one) is None
    assert await story.status() is JobStatus.FAILED
    assert "3 of 5 participants delivered, 4 needed" in await story.reason()


async def test_looking_at_a_round_reads_no_client_and_no_participant() -> None:
    story = await Story.begin(rounds=rules(min_clients=5))
    one = story.coordinator()
    await story.join(*FIVE)
    await story.settle(one)
    read: list[str] = []

    def spied(name: str) -> Callable[..., Awaitable[object]]:
        real = getattr(story.store, name)

        async def spy(*arguments: object) -> object:
            read.append(name)
            return await real(*arguments)  # type: ignore[no-any-return]

        return spy

    for name in ("look", "round", "clients", "client_ids", "updates", "live", "agents"):
        setattr(story.store, name, spied(name))
    for _ in range(4):
        story.wait(5)
        await one.step()
    assert read == ["look"] * 4


async def test_clients_that_fell_silent_are_not_asked_and_a_round_waits_for_those_on_their_way_back() -> None:
    story = await Story.begin(rounds=rules(min_clients=3, quorum=0.5))
    one = story.coordinator()
    await story.join("a", "b", "c")
    await story.play_round(one)
    assert await story.is_collecting(2)
    story.wait(45)  # past client_timeout: nobody was heard from since
    await story.be_heard("a", "b")
    await story.deliver("a", "b")
    story.wait(15)
    await story.be_heard("a", "b")
    await story.settle(one)
    assert await story.status() is JobStatus.COMPLETED


async def test_with_too_few_live_clients_the_next_round_opens_after_client_timeout() -> None:
    story = await Story.begin(rounds=rules(min_clients=3, total=3, target=0.6))
    one = story.coordinator()
    await story.join("a", "b", "c")
    await story.play_round(one)
    await story.go_on(one, 50, "a", "b")
    await story.deliver("a", "b")
    await story.settle(one)  # c was first missed five seconds ago: two of three are live, so round 3 waits
    assert (await story.round()).phase is Phase.PUBLISHED
    await story.go_on(one, 34, "a", "b")
    assert (await story.round()).phase is Phase.PUBLISHED
    await story.go_on(one, 1, "a", "b")
    assert sorted((await story.round()).participants) == ["a", "b"]


async def test_a_client_that_comes_back_ends_the_waiting_for_it() -> None:
    story = await Story.begin(rounds=rules(min_clients=3, total=4, target=0.6))
    one = story.coordinator()
    await story.join("a", "b", "c")
    await story.play_round(one)
    await story.go_on(one, 50, "a", "b")
    await story.deliver("a", "b")
    await story.go_on(one, 30, "a", "b")
    await story.go_on(one, 1, "a", "b", "c")
    assert sorted((await story.round()).participants) == ["a", "b", "c"]
    await story.go_on(one, 45, "a", "b")  # silent again: the patience begins anew
    await story.deliver("a", "b")
    await story.go_on(one, 39, "a", "b")
    assert (await story.round()).phase is Phase.PUBLISHED
    await story.go_on(one, 1, "a", "b")
    assert sorted((await story.round()).participants) == ["a", "b"]


async def test_a_job_whose_clients_have_all_fallen_silent_fails_after_its_join_timeout() -> None:
    story = await Story.begin(rounds=rules(total=3, join_timeout="100s"))
    one = story.coordinator()
    await story.join("a", "b")
    await story.settle(one)
    story.wait(41)
    await story.settle(one)
    current = await story.round()
    for client in current.participants:
        await story.deliver(client)
    story.wait(41)
    await story.settle(one)
    await story.go_on(one, 99)
    assert await story.status() is JobStatus.RUNNING
    await story.go_on(one, 2)
    assert await story.status() is JobStatus.FAILED
    assert "no client was heard from for rounds.join_timeout" in await story.reason()


# -- who may act


async def test_of_two_replicas_one_acts_and_the_other_takes_over_when_it_is_gone() -> None:
    story = await Story.begin(rounds=rules())
    one, two = story.coordinator("one"), story.coordinator("two")
    await story.join("a", "b")
    await story.settle(one)
    assert await two.step() == pytest.approx(LEASE_MS / 3000)
    await story.deliver("a", "b")
    await story.settle(two)
    assert await story.is_collecting(1)  # not the second one's to close
    story.wait(LEASE_MS / 1000 + 1)
    await story.be_heard("a", "b")
    await story.settle(two)
    assert await story.is_collecting(2)


async def test_time_without_a_coordinator_does_not_count_as_silence_of_clients() -> None:
    story = await Story.begin(rounds=rules(join_timeout="100s"))
    one = story.coordinator("one")
    await story.settle(one)
    story.wait(200)  # nobody looked, so no agent could join either
    two = story.coordinator("two")
    await story.settle(two)
    assert await story.status() is JobStatus.WAITING
    await story.go_on(two, 99)
    assert await story.status() is JobStatus.WAITING
    await story.go_on(two, 2)
    assert await story.status() is JobStatus.FAILED


async def test_a_holder_that_lost_its_lease_and_got_it_back_begins_a_new_watch() -> None:
    story = await Story.begin(rounds=rules(join_timeout="100s"))
    one, two = story.coordinator("one"), story.coordinator("two")
    await story.settle(one)
    story.wait(50)
    await story.settle(two)
    story.wait(60)  # the second one is gone as well; the first comes back
    await story.settle(one)
    assert await story.status() is JobStatus.WAITING
    await story.go_on(one, 99)
    assert await story.status() is JobStatus.WAITING
    await story.go_on(one, 2)
    assert await story.status() is JobStatus.FAILED


async def test_what_a_former_holder_remembers_of_an_open_round_is_not_believed() -> None:
    story = await Story.begin(rounds=rules(deadline="20s", quorum=0.5, extensions=3))
    one, two = story.coordinator("one"), story.coordinator("two")
    await story.join("a", "b")
    await story.settle(one)
    await one.step()
    story.wait(LEASE_MS / 1000 + 1)
    await story.be_heard("a", "b")
    await story.settle(two)
    await story.deliver("a", "b")
    await story.settle(two)
    assert await story.is_collecting(2)
    story.wait(LEASE_MS / 1000 + 1)
    await story.settle(one)
    assert (await story.round()).number == 2
