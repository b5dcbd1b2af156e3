"""Whole jobs as stories: when clients are clustered, and which memberships a round uses."""

from __future__ import annotations

import pytest

from fedhft.ids import ClientId
from tests.unit.story import CLUSTERED, JOB, Crash, Story, rules


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
    assert not await story.store.has_signatures(JOB)
    await story.play_round(one, signature=(0.0, 1.0))
    assert story.clusterer.asked == [2]
    assert (await story.store.signatures(JOB))[ClientId("a")].tolist() == [0.0, 1.0]
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


async def test_clusters_come_and_go_and_every_round_has_those_of_its_version() -> None:
    story = await Story.begin([2, 3, 2, 1, 1], **CLUSTERED, rounds=rules(total=5))
    one = story.coordinator()
    await story.join("a", "b", "c", signature=(1.0,))
    seen = []
    for _ in range(5):
        await story.settle(one)
        current, base = await story.round(), await story.store.version(JOB)
        assert base is None or base.clusters == current.clusters
        assert all(len(part.memberships) == current.clusters for part in current.participants.values())
        seen.append(current.clusters)
        await story.deliver("a", "b", "c")
        await story.settle(one)
    assert seen == [2, 3, 2, 1, 1]


async def test_a_merged_cluster_begins_anew_so_its_delta_is_not_offered() -> None:
    story = await Story.begin([2, 2, 1], **CLUSTERED, rounds=rules(total=3))
    assert story.clusterer is not None
    story.clusterer.origins = {1: ((0.25, 0.75),)}
    one = story.coordinator()
    await story.join("a", "b", signature=(1.0,))
    await story.play_round(one)
    before = await story.state()
    await story.play_round(one)
    merged, version = await story.state(), await story.store.version(JOB)
    assert version is not None
    assert (before.state.clusters, merged.state.clusters, version.clusters) == (2, 1, 1)
    assert version.renewed == ("cluster-0",)
    assert "cluster-0" in version.snapshots
    assert not {"cluster-0", "cluster-1"} & {*version.deltas}
    assert "cluster-1" not in version.snapshots
