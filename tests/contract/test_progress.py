"""The contract about jobs that do not go on: pauses, attempts, updates set aside, deletion."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis

from fedhft.errors import ErrorCode
from fedhft.ids import JobId
from fedhft.records import Attempt, JobStatus, Missed, Outcome, OutcomeKind, Phase, Topic
from fedhft.store import keys
from fedhft.store.interface import Store
from fedhft.store.keys import JobKeys
from tests.contract.federation import (
    ALICE,
    ALIVE,
    BOB,
    JOB,
    SPEC,
    client_record,
    digest_of,
    open_first_round,
    refused,
    round_record,
    running_job,
    token_of,
    update_record,
    version_record,
)


def outcome(number: int, kind: OutcomeKind = OutcomeKind.SET_ASIDE, factor: float = 0.0) -> Outcome:
    return Outcome(round=number, kind=kind, reason="ein Grund, mit \u00dc", factor=factor)


OVER = tuple(status for status in JobStatus if status.over)


class TestPauses:
    async def test_a_job_is_paused_once_and_keeps_its_status(self, store: Store) -> None:
        await running_job(store)
        before = await store.changes(JOB, Topic.TASKS), await store.changes(JOB, Topic.ARRIVALS)
        assert await store.pause_job(JOB, "holidays")
        assert not await store.pause_job(JOB, "another reason")
        record = await store.job(JOB)
        assert (record.status, record.paused) == (JobStatus.RUNNING, "holidays")
        after = await store.changes(JOB, Topic.TASKS), await store.changes(JOB, Topic.ARRIVALS)
        assert [new > old for new, old in zip(after, before, strict=True)] == [True, True]
        assert await store.resume_job(JOB)
        assert not await store.resume_job(JOB)
        assert (await store.job(JOB)).paused == ""

    async def test_a_job_that_is_over_is_not_paused_and_an_unknown_one_is_refused(self, store: Store) -> None:
        await running_job(store)
        await store.set_status(JOB, JobStatus.COMPLETED, "", ALIVE)
        assert not await store.pause_job(JOB, "")
        for call in (store.pause_job(JobId("other"), ""), store.resume_job(JobId("other"))):
            with refused(ErrorCode.UNKNOWN_JOB):
                await call

    async def test_a_paused_job_accepts_what_was_on_its_way_and_gives_the_round_its_time_back(
        self, store: Store
    ) -> None:
        now = await store.now_ms()
        await open_first_round(store, deadline_ms=now + 60_000)
        token = await token_of(store, ALICE)
        await store.pause_job(JOB, "for a while")
        await asyncio.sleep(0.05)
        await store.accept(JOB, update_record(ALICE), token)
        await store.resume_job(JOB)
        current = await store.round(JOB)
        assert current is not None
        assert 50 <= current.deadline_ms - (now + 60_000) < 10_000
        assert current.extensions == 0

    async def test_what_blocks_a_job_is_noted_and_cleared(self, store: Store) -> None:
        await running_job(store)
        before = await store.changes(JOB, Topic.PROGRESS)
        assert await store.set_blocked(JOB, "no volume")
        assert not await store.set_blocked(JOB, "no volume")
        assert (await store.job(JOB)).blocked == "no volume"
        assert await store.changes(JOB, Topic.PROGRESS) == before + 1
        assert await store.set_blocked(JOB, "")
        assert (await store.job(JOB)).blocked == ""
        assert not await store.set_blocked(JobId("other"), "x")
        with refused(ErrorCode.UNKNOWN_JOB):
            await store.job(JobId("other"))

    async def test_that_the_store_is_full_can_be_noted_in_it(self, own_store: Store, admin: Redis) -> None:
        await running_job(own_store)
        await admin.config_set("maxmemory", 1)
        assert await own_store.set_blocked(JOB, "the store is full")
        assert (await own_store.job(JOB)).blocked == "the store is full"


class TestAttempts:
    async def test_attempts_at_one_step_add_up_until_it_succeeds_or_another_begins(self, store: Store) -> None:
        fence = await open_first_round(store)
        counts = [(await store.begin_attempt(JOB, "fold 1", fence)).count for _ in range(3)]
        assert counts == [1, 2, 3]
        assert await store.begin_attempt(JOB, "fold 1", fence, anew=True) == Attempt(1, {})
        assert (await store.begin_attempt(JOB, "open 2", fence)).count == 1
        await store.begin_attempt(JOB, "open 2", fence)
        await store.end_attempts(JOB, fence)
        assert (await store.begin_attempt(JOB, "open 2", fence)).count == 1

    async def test_an_attempt_that_ended_speaks_against_the_client_whose_update_it_was_at(self, store: Store) -> None:
        fence = await open_first_round(store)
        await store.note_folding(JOB, ALICE, fence)  # nothing is being tried: not kept
        assert (await store.begin_attempt(JOB, "fold 1", fence)).suspects == {}
        for clients in ([ALICE, BOB], [BOB], [ALICE, BOB, ""]):
            for client in clients:
                await store.note_folding(JOB, client, fence)
            attempt = await store.begin_attempt(JOB, "fold 1", fence)
        assert attempt == Attempt(4, {BOB: 2})
        await store.resume_job(JOB)
        assert (await store.begin_attempt(JOB, "fold 1", fence)).suspects == {BOB: 2}  # it was not paused
        await store.pause_job(JOB, "")
        await store.resume_job(JOB)
        assert await store.begin_attempt(JOB, "fold 1", fence) == Attempt(1, {})

    async def test_only_the_holder_counts(self, store: Store) -> None:
        fence = await open_first_round(store)
        for call in (
            store.begin_attempt(JOB, "fold 1", fence - 1),
            store.note_folding(JOB, ALICE, fence - 1),
            store.end_attempts(JOB, fence - 1),
            store.set_aside(JOB, 1, {ALICE: "x"}, fence - 1),
            store.reopen_round(JOB, 1, 1, fence - 1),
            store.note_outcomes(JOB, {ALICE: outcome(1)}, fence - 1),
        ):
            with refused(ErrorCode.FENCED):
                await call


class TestAttendance:
    async def test_rounds_missed_in_a_row_are_counted_once_each(self, store: Store) -> None:
        fence = await open_first_round(store)
        assert await store.missed(JOB) == {}
        for number in (1, 1, 2):
            await store.note_attendance(JOB, number, ["bob", "carol"], ["alice"], fence)
        assert await store.missed(JOB) == {"bob": Missed(2, 2), "carol": Missed(2, 2)}
        await store.note_attendance(JOB, 3, ["carol", "alice"], ["bob"], fence)
        assert await store.missed(JOB) == {"alice": Missed(1, 3), "carol": Missed(3, 3)}
        await store.note_attendance(JOB, 4, [], [], fence)
        with refused(ErrorCode.FENCED):
            await store.note_attendance(JOB, 5, ["alice"], [], fence - 1)


class TestSettingAside:
    async def test_the_first_reason_stands(self, store: Store) -> None:
        fence = await open_first_round(store)
        assert await store.are_set_aside(JOB, 1) == {}
        await store.set_aside(JOB, 1, {BOB: "damaged"}, fence)
        await store.set_aside(JOB, 1, {BOB: "again", ALICE: "gone"}, fence)
        assert await store.are_set_aside(JOB, 1) == {ALICE: "gone", BOB: "damaged"}
        assert await store.are_set_aside(JOB, 2) == {}

    async def test_a_round_is_collected_again_without_what_was_set_aside(self, store: Store) -> None:
        fence = await open_first_round(store)
        tokens = {client: await token_of(store, client) for client in (ALICE, BOB)}
        for client in (ALICE, BOB):
            await store.accept(JOB, update_record(client), tokens[client])
        with refused(ErrorCode.ROUND_CLOSED):
            await store.reopen_round(JOB, 1, 5000, fence)
        await store.begin_fold(JOB, 1, fence)
        await store.set_aside(JOB, 1, {BOB: "damaged"}, fence)
        before = await store.changes(JOB, Topic.TASKS)
        await store.reopen_round(JOB, 1, 5000, fence)
        assert await store.changes(JOB, Topic.TASKS) == before + 1
        current = await store.round(JOB)
        assert current is not None
        assert (current.phase, current.deadline_ms, current.extensions, current.pinned) == (
            Phase.COLLECTING, 5000, 1, (),
        )  # fmt: skip
        assert list(await store.updates(JOB, 1)) == [ALICE]
        await store.accept(JOB, update_record(BOB), tokens[BOB])
        assert await store.begin_fold(JOB, 1, fence) == (ALICE, BOB)
        assert await store.are_set_aside(JOB, 1) == {}

    async def test_an_extension_need_not_count(self, store: Store) -> None:
        fence = await open_first_round(store)
        await store.extend_round(JOB, 1, 7000, fence, counted=False)
        current = await store.round(JOB)
        assert current is not None
        assert (current.deadline_ms, current.extensions) == (7000, 0)


class TestOutcomes:
    async def test_a_client_has_its_last_one(self, store: Store) -> None:
        fence = await open_first_round(store)
        assert await store.outcomes(JOB) == {}
        await store.note_outcomes(JOB, {BOB: outcome(1), ALICE: outcome(1, OutcomeKind.OPPOSED)}, fence)
        await store.note_outcomes(JOB, {BOB: outcome(3, OutcomeKind.CLIPPED, 0.1)}, fence)
        await store.note_outcomes(JOB, {}, fence)
        assert await store.outcomes(JOB) == {
            ALICE: outcome(1, OutcomeKind.OPPOSED),
            BOB: outcome(3, OutcomeKind.CLIPPED, 0.1),
        }
        await store.set_status(JOB, JobStatus.CANCELLED, "", ALIVE)
        await store.delete_job(JOB, OVER)
        assert await store.outcomes(JOB) == {}

    @pytest.mark.parametrize("garbage", [b"", b"{", b"\xff", b"[]"])
    async def test_one_that_cannot_be_read_hides_no_other(self, own_store: Store, admin: Redis, garbage: bytes) -> None:
        fence = await open_first_round(own_store)
        await own_store.note_outcomes(JOB, {BOB: outcome(1)}, fence)
        await admin.hset(JobKeys(JOB).outcomes, ALICE, garbage)  # type: ignore[misc]
        assert await own_store.outcomes(JOB) == {BOB: outcome(1)}


class TestBlobsByMark:
    async def test_what_is_stored_after_the_mark_stays(self, store: Store) -> None:
        old, again = [await store.blobs.put(JOB, data) for data in (b"old", b"again")]
        await asyncio.sleep(0.05)
        mark = await store.blobs.mark(JOB)
        await asyncio.sleep(0.05)
        await store.blobs.put(JOB, b"again")
        new = await store.blobs.put(JOB, b"new")
        await store.blobs.delete(JOB, [old, again, new, digest_of(b"absent")], mark)
        assert [await store.blobs.size(JOB, digest) for digest in (old, again, new)] == [None, 5, 3]

    async def test_a_sweep_counts_ages_back_from_the_mark(self, store: Store) -> None:
        old = await store.blobs.put(JOB, b"old")
        await asyncio.sleep(0.3)
        new = await store.blobs.put(JOB, b"new")
        mark = await store.blobs.mark(JOB)
        await asyncio.sleep(0.3)  # by now the new one is older than the age, too
        await store.blobs.sweep(JOB, [], 0.2, mark)
        assert [await store.blobs.size(JOB, digest) for digest in (old, new)] == [None, 3]


class TestDeletion:
    async def whole_life(self, store: Store) -> None:
        fence = await open_first_round(store)
        token = await token_of(store, ALICE)
        await store.fix_schema(JOB, "{}")
        await store.join(JOB, client_record(ALICE, signature=(1.0,)))
        digests = [await store.blobs.put(JOB, bytes([i % 256, i // 256])) for i in range(600)]
        await store.accept(JOB, update_record(ALICE, digest=digests[0]), token)
        await store.begin_fold(JOB, 1, fence)
        await store.publish(JOB, 1, version_record(1), "{}", fence, {ALICE: (1, 2, 3, 4)})
        await store.open_round(JOB, round_record(2), fence)
        await store.begin_attempt(JOB, "fold 2", fence)
        await store.set_aside(JOB, 2, {ALICE: "x"}, fence)
        await store.transfers.stage(JOB, "t", 0, b"half")

    async def test_a_job_that_is_not_over_is_deleted_only_by_force(self, store: Store) -> None:
        await running_job(store)
        with refused(ErrorCode.JOB_RUNNING):
            await store.delete_job(JOB, OVER)
        assert (await store.job(JOB)).status is JobStatus.RUNNING
        await store.delete_job(JOB, tuple(JobStatus))
        with refused(ErrorCode.UNKNOWN_JOB):
            await store.job(JOB)

    async def test_everything_of_it_goes_and_nothing_of_another(self, store: Store) -> None:
        other = JobId("tickets-2")
        await running_job(store, other)
        kept = await store.blobs.put(other, b"kept")
        await self.whole_life(store)
        await store.set_status(JOB, JobStatus.COMPLETED, "", ALIVE)
        digest = digest_of(bytes([0, 0]))
        before = await store.changes(JOB, Topic.TASKS)
        await store.delete_job(JOB, OVER)
        assert [record.job for record in await store.jobs()] == [other]
        assert await store.blobs.size(JOB, digest) is None
        assert await store.transfers.staged(JOB, "t") == 0
        assert ((await store.history(JOB)).entries, await store.clients(JOB), await store.round(JOB)) == ((), {}, None)
        assert await store.changes(JOB, Topic.TASKS) > before  # whoever waits looks again
        assert await store.blobs.get(other, kept) == b"kept"
        with refused(ErrorCode.UNKNOWN_JOB):
            await store.delete_job(JOB, OVER)

    async def test_a_coordinator_of_a_deleted_job_cannot_touch_a_new_one_of_that_name(self, store: Store) -> None:
        fence = await open_first_round(store)
        await store.delete_job(JOB, tuple(JobStatus))
        await store.create_job(JOB, SPEC)
        with refused(ErrorCode.FENCED):
            await store.open_round(JOB, round_record(1), fence)

    async def test_redis_keeps_only_counters_for_a_day(self, own_store: Store, admin: Redis) -> None:
        await self.whole_life(own_store)
        await own_store.delete_job(JOB, tuple(JobStatus))
        its = JobKeys(JOB)
        counters = {its.fence, *(its.changes(topic) for topic in Topic)}
        left = {key.decode() for key in await admin.keys(its.prefix + "*")}
        assert left == counters
        assert all([0 < await admin.ttl(key) <= keys.REMEMBERED_S for key in counters])

    async def test_a_deletion_that_was_interrupted_is_repeated(
        self, own_store: Store, admin: Redis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await self.whole_life(own_store)
        with monkeypatch.context() as patch:

            async def interrupted(job: JobId) -> None:
                raise ConnectionError

            patch.setattr(own_store.blobs, "delete_job", interrupted)
            with pytest.raises(ConnectionError):
                await own_store.delete_job(JOB, tuple(JobStatus))
        assert await own_store.jobs() == []
        await own_store.delete_job(JOB, OVER)
        assert await admin.lrange(keys.JOBS, 0, -1) == []
        assert await admin.exists(JobKeys(JOB).round) == 0
