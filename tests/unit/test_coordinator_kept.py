"""Whole jobs as stories: which blobs are kept, and which figures a job leaves."""

from __future__ import annotations

import json

import pytest

from fedhft.coordination.describe import describe, outline
from fedhft.coordination.history import RoundHistory
from fedhft.records import JobStatus
from fedhft.telemetry.registry import REGISTRY
from tests.unit.story import JOB, LEASE_MS, Crash, Story, rules

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
        story.wait(1)
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
        story.wait(1)
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


@pytest.mark.parametrize("crash_at", ["folding", "folded", "published"])
async def test_figures_of_the_last_rounds_stay_whenever_a_coordinator_ends(crash_at: str) -> None:
    story = await Story.begin(rounds=rules(total=4), evaluation={"final": True})
    await story.join("a", "b")
    for number in range(1, 6):
        failing = story.coordinator(f"{number}", crash_at=crash_at, kept_rounds=2)
        await story.settle(failing)
        await story.deliver("a", "b")
        with pytest.raises(Crash):
            await story.settle(failing)
        story.wait(LEASE_MS / 1000 + 1)
        await story.be_heard("a", "b")
        next_one = story.coordinator(f"{number} again", kept_rounds=2)
        await story.settle(next_one)
        story.wait(LEASE_MS / 1000 + 1)
        await story.be_heard("a", "b")
    assert await story.status() is JobStatus.COMPLETED
    told = await describe(story.store, await story.store.job(JOB))
    assert (told.rounds_done, told.history_from, [entry.round for entry in told.history]) == (4, 3, [3, 4])
    assert (told.final.round, len(told.results)) == (5, 2)
    (listed,) = [await outline(story.store, record) for record in await story.store.jobs()]
    assert listed.rounds_done == 4


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
    (text,) = (await story.store.history(JOB)).entries
    assert '"a"' not in text
    assert RoundHistory.from_json(text).summary.socket_bytes_up == 200
    assert await story.store.traffic(JOB, ["a", "b"]) == {"a": (100, 0, 0, 0), "b": (100, 0, 0, 0)}


async def test_phases_are_observed_each_by_itself_and_once() -> None:
    def seen(phase: str) -> tuple[float, float]:
        return tuple(  # type: ignore[return-value]
            REGISTRY.get_sample_value(f"fedhft_round_phase_seconds_{what}", {"federation": JOB, "phase": phase}) or 0.0
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
