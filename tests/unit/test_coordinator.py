"""Whole jobs as stories: how rounds open and close, who may act, what is kept, what a crash changes."""

from __future__ import annotations

import asyncio
import json

import pytest

from fedhft.coordination import coordinator as module
from fedhft.coordination.history import RoundHistory
from fedhft.errors import ErrorCode, FedhftError
from fedhft.ids import ClientId
from fedhft.records import JobStatus, Phase
from fedhft.rounds.patience import MOST_FAILURES
from fedhft.telemetry.metrics import REGISTRY
from tests.unit.story import JOB, LEASE_MS, Crash, Story

FIVE = ("a", "b", "c", "d", "e")


def rules(**changes: object) -> dict[str, object]:
    return {"total": 2, "min_clients": 2, "deadline": "60s", "join_timeout": "300s", "client_timeout": "40s", **changes}


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


async def test_arrivals_between_two_full_looks_cost_one_count_each() -> None:
    story = await Story.begin(rounds=rules(min_clients=5))
    one = story.coordinator()
    await story.join(*FIVE)
    await story.settle(one)
    looks = 0
    real = story.store.clients

    async def counting(*arguments: object) -> object:
        nonlocal looks
        looks += 1
        return await real(*arguments)  # type: ignore[arg-type]

    story.store.clients = counting  # type: ignore[method-assign,assignment]
    for client in FIVE[:4]:
        await story.deliver(client)
        story.wait(0.5)
        await one.step()
    assert looks == 0
    story.wait(5)
    await one.step()
    assert looks == 1


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


# -- clusters


CLUSTERED = {"method": {"preset": "fedhft", "clusters": 2}}


async def test_clients_are_clustered_before_the_first_round_and_after_every_other() -> None:
    story = await Story.begin([2, 2, 2, 2], **CLUSTERED, rounds=rules(total=3))
    one = story.coordinator()
    await story.join("a", "b", signature=(1.0,))
    await story.settle(one)
    assert (await story.round()).participants["b"].memberships == (0.0, 1.0)
    for _ in range(3):
        await story.play_round(one)
    assert story.clusterer is not None
    assert story.clusterer.asked == [0, 1, 2, 3]


async def test_a_job_of_one_cluster_never_asks() -> None:
    story = await Story.begin([2], rounds=rules())
    one = story.coordinator()
    await story.join("a", "b")
    await story.play_round(one)
    assert story.clusterer is not None
    assert story.clusterer.asked == []


async def test_update_signatures_cluster_only_after_the_warm_up_and_are_noted_first() -> None:
    paper = {"method": {"preset": "fedhft-paper", "clusters": 2}, "clustering": {"warmup_rounds": 2}}
    story = await Story.begin([2, 2], **paper, rounds=rules(total=3))
    one = story.coordinator()
    await story.join("a", "b")
    await story.play_round(one, signature=(1.0, 0.0))
    assert story.clusterer is not None
    assert story.clusterer.asked == []
    assert (await story.store.clients(JOB))[ClientId("a")].signature == ()
    await story.play_round(one, signature=(0.0, 1.0))
    assert story.clusterer.asked == [2]
    assert (await story.store.clients(JOB))[ClientId("a")].signature == (0.0, 1.0)
    assert (await story.round()).participants["a"].memberships == (1.0, 0.0)


async def test_while_the_clusterer_is_away_the_old_memberships_stand() -> None:
    story = await Story.begin([2, None, 2], **CLUSTERED, rounds=rules(total=3))
    one = story.coordinator()
    await story.join("a", "b", signature=(1.0,))
    await story.play_round(one)
    current = await story.round()
    assert (current.number, current.membership_version) == (2, 1)
    assert current.participants["b"].memberships == (0.0, 1.0)


async def test_memberships_that_come_after_their_version_wait_for_one_that_has_their_clusters() -> None:
    story = await Story.begin([None, None, 2], **CLUSTERED, rounds=rules(total=3))
    one = story.coordinator()
    await story.join("a", "b", signature=(1.0,))
    await story.settle(one)
    await story.deliver("a", "b")
    assert story.clusterer is not None
    await story.settle(one)  # folds into one cluster: the clusterer was away
    assert (await story.round()).clusters == 1
    await story.deliver("a", "b")
    one_cluster = await story.store.version(JOB)
    assert one_cluster is not None
    assert one_cluster.clusters == 1
    # Its answer to the question after round 1 arrives now, while round 2 collects; round 2 is closed by a replica that
    # cannot reach it, so version 2 still has one cluster although memberships speak of two.
    await story.clusterer.publish_late()
    story.clusterer.answers.clear()
    await story.settle(one)
    third = await story.round()
    assert third.number == 3
    assert all(len(part.memberships) == third.clusters for part in third.participants.values())
    base = await story.store.version(JOB)
    assert base is not None
    assert third.clusters == base.clusters


async def test_late_memberships_are_not_used_with_a_version_that_lacks_their_clusters() -> None:
    story = await Story.begin([None, None], **CLUSTERED, rounds=rules(total=3))
    one = story.coordinator(crash_at="open")
    await story.join("a", "b", signature=(1.0,))
    with pytest.raises(Crash):
        await story.settle(one)
    two = story.coordinator("one", crash_at="published")
    await story.settle(two)
    await story.deliver("a", "b")
    with pytest.raises(Crash):  # round 1 is published with one cluster, then the process ends
        await story.settle(two)
    assert story.clusterer is not None
    await story.clusterer.publish_late()  # two clusters, before round 2 opens
    await story.settle(story.coordinator("one"))
    second = await story.round()
    assert (second.number, second.clusters) == (2, 1)
    assert {part.memberships for part in second.participants.values()} == {(1.0,)}


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


# -- what is kept


async def test_blobs_stay_as_long_as_somebody_may_need_them() -> None:
    story = await Story.begin(rounds=rules(total=12))
    one = story.coordinator()
    await story.join("a", "b")
    versions = {}
    folded: list[str] = []
    for number in range(1, 12):
        await story.settle(one)
        await story.deliver("a", "b")
        folded += [record.digest for record in (await story.store.updates(JOB, number)).values()]
        await story.settle(one)
        version = await story.store.version(JOB, number)
        assert version is not None
        versions[number] = version
    stored = await story.stored()
    kept_whole = [n for n, v in versions.items() if all(stored(blob.digest) for blob in v.snapshots.values())]
    kept_deltas = [n for n, v in versions.items() if all(stored(blob.digest) for blob in v.deltas.values())]
    assert kept_whole == [10, 11]
    assert kept_deltas == list(range(4, 12))
    assert not any(map(stored, folded))
    assert [n for n in versions if await story.store.version(JOB, n) is not None] == list(range(4, 12))


async def test_residuals_of_the_last_two_versions_stay_and_older_ones_go() -> None:
    story = await Story.begin(rounds=rules(total=5), wire={"down": "int8"})
    one = story.coordinator()
    await story.join("a", "b")
    versions = []
    for number in range(1, 5):
        await story.play_round(one)
        version = await story.store.version(JOB, number)
        assert version is not None
        versions.append(version)
    stored = await story.stored()
    kept = [version.version for version in versions if all(stored(b.digest) for b in version.server_state.values())]
    assert all(version.server_state for version in versions)
    assert kept == [3, 4]


async def test_blobs_and_transfers_that_nothing_refers_to_are_deleted_when_they_are_an_hour_old() -> None:
    story = await Story.begin(rounds=rules(total=2))
    blobs, transfers = story.store.blobs, story.store.transfers
    old = await blobs.put(JOB, b"old")
    await transfers.stage(JOB, "old", 0, b"half")
    story.wait(3600)
    young = await blobs.put(JOB, b"young")
    await transfers.stage(JOB, "young", 0, b"half")
    await story.join("a", "b")
    await story.play_round(story.coordinator())
    assert [await blobs.size(JOB, digest) for digest in (old, young)] == [None, 5]
    assert [await transfers.staged(JOB, name) for name in ("old", "young")] == [0, 4]


# -- figures


async def test_bytes_of_a_round_are_what_was_moved_since_the_clients_last_report() -> None:
    story = await Story.begin(rounds=rules(total=4))
    one = story.coordinator()
    await story.join("a", "b")
    await story.play_round(one, moved={"socket_bytes_sent": 100, "payload_bytes_sent": 70})
    await story.play_round(one, moved={"socket_bytes_sent": 130, "payload_bytes_sent": 80})
    await story.play_round(one, moved={"socket_bytes_sent": 20, "payload_bytes_sent": 5})  # restarted agents
    up = [(entry.summary.socket_bytes_up, entry.summary.payload_bytes_up) for entry in story.published]
    assert up == [(200, 140), (60, 20), (40, 10)]


async def test_a_client_that_missed_a_round_is_counted_from_its_own_last_report() -> None:
    story = await Story.begin(rounds=rules(total=3, target=0.5, quorum=0.5))
    one = story.coordinator()
    await story.join("a", "b")
    for number, (client, sent) in enumerate((("a", 100), ("b", 50), ("a", 170)), start=1):
        await story.settle(one)
        assert await story.is_collecting(number)
        await story.deliver(client, moved={"socket_bytes_sent": sent})
        await story.settle(one)
    assert [entry.summary.socket_bytes_up for entry in story.published] == [100, 50, 70]


async def test_counters_that_an_earlier_release_kept_in_its_history_go_on() -> None:
    story = await Story.begin(rounds=rules(total=4, target=0.5, quorum=0.5))
    one = story.coordinator()
    await story.join("a", "b")
    await story.settle(one)
    await story.deliver("a", moved={"socket_bytes_sent": 100})
    await story.settle(one)
    kept = story.store._jobs[JOB]
    entry = json.loads(kept.history[-1])
    entry["traffic"] = {"a": [100, 0, 0, 0], "b": [40, 0, 0, 0]}  # as it was written before
    kept.history[-1] = json.dumps(entry)
    kept.traffic.update(a=(30, 0, 0, 0))  # of a round before, when both releases ran
    for client, sent in (("a", 110), ("b", 45)):
        await story.deliver(client, moved={"socket_bytes_sent": sent})
        await story.settle(one)
    assert [one.summary.socket_bytes_up for one in story.published] == [100, 10, 5]


async def test_a_history_entry_holds_no_counters_of_clients() -> None:
    story = await Story.begin(rounds=rules())
    one = story.coordinator()
    await story.join("a", "b")
    await story.play_round(one, moved={"socket_bytes_sent": 100})
    (text,) = await story.store.history(JOB)
    assert '"a"' not in text
    assert RoundHistory.from_json(text).summary.socket_bytes_up == 200
    assert await story.store.traffic(JOB, ["a", "b"]) == {"a": (100, 0, 0, 0), "b": (100, 0, 0, 0)}


async def test_phases_are_observed_each_by_itself_and_once() -> None:
    def seen(phase: str) -> tuple[float, float]:
        return tuple(  # type: ignore[return-value]
            REGISTRY.get_sample_value(f"fedhft_round_phase_seconds_{what}", {"phase": phase}) or 0.0
            for what in ("count", "sum")
        )

    story = await Story.begin(rounds=rules())
    before = {phase: seen(phase) for phase in ("collecting", "folding")}
    one = story.coordinator(crash_at="folded")
    await story.join("a", "b")
    await story.settle(one)
    story.wait(7)
    await story.deliver("a", "b")
    with pytest.raises(Crash):
        await story.settle(one)
    story.wait(LEASE_MS / 1000 + 1)
    await story.be_heard("a", "b")
    await story.settle(story.coordinator("two"))
    for phase, seconds in (("collecting", 7.0), ("folding", 0.0)):
        count, total = (now - then for now, then in zip(seen(phase), before[phase], strict=True))
        assert (count, total) == (1, pytest.approx(seconds))


# -- failures


async def test_a_step_that_keeps_failing_ends_the_job_and_one_success_starts_the_count_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_RETRY_S", 0.0)
    story = await Story.begin(rounds=rules())
    await story.join("a", "b")
    one = story.coordinator()
    await story.settle(one)
    outcomes = [True] * (MOST_FAILURES - 1) + [False] + [True] * MOST_FAILURES
    failures = iter(outcomes)
    real = story.store.accepted_count

    async def failing(*arguments: object) -> int:
        if next(failures, False):
            raise RuntimeError("a defect")
        return await real(*arguments)  # type: ignore[arg-type]

    async def no_wait(*arguments: object) -> int:
        return 0

    story.store.accepted_count = failing  # type: ignore[method-assign,assignment]
    story.store.wait_change = no_wait  # type: ignore[method-assign,assignment]
    await asyncio.wait_for(one.run(), 10)
    assert await story.status() is JobStatus.FAILED
    assert "RuntimeError: a defect" in await story.reason()
    assert list(failures) == []


async def test_a_store_that_is_away_is_waited_for_however_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RETRY_S", 0.0)
    story = await Story.begin(rounds=rules(total=1))
    await story.join("a", "b")
    one = story.coordinator()
    await story.settle(one)
    await story.deliver("a", "b")
    left = 3 * MOST_FAILURES
    real = story.store.clients

    async def away(*arguments: object) -> object:
        nonlocal left
        if left > 0:
            left -= 1
            raise FedhftError(ErrorCode.STORE_UNAVAILABLE, "Redis does not answer")
        return await real(*arguments)  # type: ignore[arg-type]

    story.store.clients = away  # type: ignore[method-assign,assignment]
    await asyncio.wait_for(one.run(), 10)
    assert await story.status() is JobStatus.COMPLETED


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
