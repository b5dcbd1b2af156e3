"""Contract of every store: rounds from opening to publishing, and waiting for them."""

from __future__ import annotations

import asyncio

from fedhft.errors import ErrorCode
from fedhft.ids import ClientId, JobId
from fedhft.readings import History
from fedhft.records import AcceptResult, JobStatus, Phase, Topic, VersionRecord
from fedhft.store.interface import Store
from fedhft.store.keys import KEPT_UPDATE_ROUNDS
from tests.contract.federation import (
    ALICE,
    ALIVE,
    BOB,
    CAROL,
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


class TestOpening:
    async def test_an_opened_round_reads_back_whole(self, store: Store) -> None:
        assert await store.round(JOB) is None
        await open_first_round(store)
        assert await store.round(JOB) == round_record()

    async def test_only_the_next_round_opens_and_only_after_the_last_is_published(self, store: Store) -> None:
        await running_job(store)
        fence = await store.acquire(JOB, "coordinator", 60_000)
        assert fence is not None
        with refused(ErrorCode.ROUND_CLOSED):
            await store.open_round(JOB, round_record(2), fence)
        await store.open_round(JOB, round_record(1), fence)
        with refused(ErrorCode.ROUND_CLOSED):
            await store.open_round(JOB, round_record(2), fence)
        await store.begin_fold(JOB, 1, fence)
        with refused(ErrorCode.ROUND_CLOSED):
            await store.open_round(JOB, round_record(2), fence)
        await store.publish(JOB, 1, version_record(1), "{}", fence)
        for number in (1, 3):
            with refused(ErrorCode.ROUND_CLOSED):
                await store.open_round(JOB, round_record(number), fence)
        await store.open_round(JOB, round_record(2, clients=(CAROL,)), fence)
        assert await store.round(JOB) == round_record(2, clients=(CAROL,))

    async def test_repeating_the_same_opening_changes_nothing(self, store: Store) -> None:
        fence = await open_first_round(store)
        await store.extend_round(JOB, 1, 2000, fence)
        before = await store.changes(JOB, Topic.TASKS)
        await store.open_round(JOB, round_record(), fence)
        assert await store.round(JOB) == round_record(deadline_ms=2000, extensions=1)
        assert await store.changes(JOB, Topic.TASKS) == before
        with refused(ErrorCode.ROUND_CLOSED):
            await store.open_round(JOB, round_record(target=1), fence)

    async def test_no_round_opens_unless_the_job_runs_or_evaluates(self, store: Store) -> None:
        fence = await store.acquire(JOB, "coordinator", 60_000)
        assert fence is not None
        with refused(ErrorCode.UNKNOWN_JOB):
            await store.open_round(JOB, round_record(), fence)
        await store.create_job(JOB, SPEC)
        for status in (JobStatus.WAITING, JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED):
            await store.set_status(JOB, status, "", list(JobStatus))
            with refused(ErrorCode.JOB_NOT_RUNNING):
                await store.open_round(JOB, round_record(), fence)
        await store.set_status(JOB, JobStatus.EVALUATING, "", list(JobStatus))
        await store.open_round(JOB, round_record(evaluation=True), fence)

    async def test_participants_of_the_last_round_are_not_in_the_next_by_themselves(self, store: Store) -> None:
        fence = await open_first_round(store)
        await store.begin_fold(JOB, 1, fence)
        await store.publish(JOB, 1, version_record(1), "{}", fence)
        await store.open_round(JOB, round_record(2, clients=(CAROL,)), fence)
        with refused(ErrorCode.NOT_PARTICIPANT):
            await store.accept(JOB, update_record(ALICE, 2), await token_of(store, ALICE))

    async def test_opening_wakes_tasks(self, store: Store) -> None:
        await running_job(store)
        before = await store.changes(JOB, Topic.TASKS)
        await open_first_round(store)
        assert await store.changes(JOB, Topic.TASKS) > before

    async def test_a_round_of_ten_thousand_participants_opens(self, store: Store) -> None:
        many = tuple(ClientId(f"client-{i}") for i in range(10_000))
        await open_first_round(store, participants=round_record(clients=many).participants)
        found = await store.round(JOB)
        assert found is not None
        assert len(found.participants) == len(many)


class TestAccepting:
    async def test_an_accepted_update_reads_back_and_a_repeat_is_acknowledged(self, store: Store) -> None:
        await open_first_round(store)
        token = await token_of(store, ALICE)
        digest = await store.blobs.put(JOB, b"an update")
        update = update_record(ALICE, digest=digest, size=9)
        assert await store.accept(JOB, update, token) is AcceptResult.ACCEPTED
        assert await store.accept(JOB, update, token) is AcceptResult.REPEATED
        assert await store.updates(JOB, 1) == {ALICE: update}
        assert await store.delivered(JOB, 1, ALICE)
        assert not await store.delivered(JOB, 1, BOB)
        assert not await store.delivered(JOB, 2, ALICE)

    async def test_another_update_of_the_same_client_is_a_conflict_and_the_first_stands(self, store: Store) -> None:
        await open_first_round(store)
        token = await token_of(store, ALICE)
        first = update_record(ALICE, digest=await store.blobs.put(JOB, b"first"))
        second = update_record(ALICE, digest=await store.blobs.put(JOB, b"second"))
        await store.accept(JOB, first, token)
        with refused(ErrorCode.UPDATE_CONFLICT):
            await store.accept(JOB, second, token)
        assert await store.updates(JOB, 1) == {ALICE: first}

    async def test_a_repeat_is_acknowledged_in_every_phase_of_its_round(self, store: Store) -> None:
        fence = await open_first_round(store)
        token = await token_of(store, ALICE)
        update = update_record(ALICE)
        await store.accept(JOB, update, token)
        await store.begin_fold(JOB, 1, fence)
        assert await store.accept(JOB, update, token) is AcceptResult.REPEATED
        await store.publish(JOB, 1, version_record(1), "{}", fence)
        assert await store.accept(JOB, update, token) is AcceptResult.REPEATED
        await store.open_round(JOB, round_record(2), fence)
        with refused(ErrorCode.ROUND_CLOSED):
            await store.accept(JOB, update, token)

    async def test_every_reason_to_refuse_an_update_is_named_and_records_nothing(self, store: Store) -> None:
        update = update_record(ALICE)
        with refused(ErrorCode.UNKNOWN_JOB):
            await store.accept(JOB, update, "")
        await store.create_job(JOB, SPEC)
        with refused(ErrorCode.JOB_NOT_RUNNING):
            await store.accept(JOB, update, "")
        await running_job(store)
        with refused(ErrorCode.NOT_ENROLLED):
            await store.accept(JOB, update, "")
        old = await token_of(store, ALICE)
        token = await token_of(store, ALICE)
        with refused(ErrorCode.LEASE_SUPERSEDED):
            await store.accept(JOB, update, old)
        with refused(ErrorCode.ROUND_CLOSED):
            await store.accept(JOB, update, token)
        fence = await open_first_round(store)
        for number in (0, 2):
            with refused(ErrorCode.ROUND_CLOSED):
                await store.accept(JOB, update_record(ALICE, number), token)
        with refused(ErrorCode.NOT_PARTICIPANT):
            await store.accept(JOB, update_record(CAROL), await token_of(store, CAROL))
        with refused(ErrorCode.STALE_VERSION):
            await store.accept(JOB, update_record(ALICE, base_version=7), token)
        with refused(ErrorCode.UNKNOWN_BLOB):
            await store.accept(JOB, update_record(ALICE, digest=digest_of(b"never sent")), token)
        assert await store.updates(JOB, 1) == {}
        await store.begin_fold(JOB, 1, fence)
        with refused(ErrorCode.ROUND_CLOSED):
            await store.accept(JOB, update, token)
        await store.set_status(JOB, JobStatus.CANCELLED, "", ALIVE)
        with refused(ErrorCode.JOB_NOT_RUNNING):
            await store.accept(JOB, update, token)
        assert await store.updates(JOB, 1) == {}

    async def test_the_checks_come_in_the_order_that_the_interface_promises(self, store: Store) -> None:
        fence = await open_first_round(store, base_version=3)
        digest = digest_of(b"never sent")
        alice, carol = await token_of(store, ALICE), await token_of(store, CAROL)
        wrong = update_record(CAROL, 2, base_version=9, digest=digest)
        with refused(ErrorCode.LEASE_SUPERSEDED):
            await store.accept(JOB, wrong, "another token")
        with refused(ErrorCode.ROUND_CLOSED):
            await store.accept(JOB, wrong, carol)
        with refused(ErrorCode.NOT_PARTICIPANT):
            await store.accept(JOB, update_record(CAROL, base_version=9, digest=digest), carol)
        with refused(ErrorCode.STALE_VERSION):
            await store.accept(JOB, update_record(ALICE, base_version=9, digest=digest), alice)
        await store.accept(JOB, update_record(ALICE, base_version=3), alice)
        with refused(ErrorCode.UPDATE_CONFLICT):
            await store.accept(JOB, update_record(ALICE, base_version=9, digest=digest), alice)
        await store.begin_fold(JOB, 1, fence)
        bob = await token_of(store, BOB)
        with refused(ErrorCode.ROUND_CLOSED):
            await store.accept(JOB, update_record(BOB, base_version=9, digest=digest), bob)

    async def test_a_blob_of_another_job_does_not_count(self, store: Store) -> None:
        await open_first_round(store)
        digest = await store.blobs.put(JobId("other"), b"an update")
        with refused(ErrorCode.UNKNOWN_BLOB):
            await store.accept(JOB, update_record(ALICE, digest=digest), await token_of(store, ALICE))

    async def test_racing_pushes_of_one_client_record_one_update(self, store: Store) -> None:
        await open_first_round(store)
        token = await token_of(store, ALICE)
        digests = [await store.blobs.put(JOB, bytes([i])) for i in range(8)]
        outcomes = await asyncio.gather(
            *(store.accept(JOB, update_record(ALICE, digest=digest), token) for digest in digests * 2),
            return_exceptions=True,
        )
        assert outcomes.count(AcceptResult.ACCEPTED) == 1
        assert outcomes.count(AcceptResult.REPEATED) == 1
        assert len(await store.updates(JOB, 1)) == 1

    async def test_only_the_update_that_completes_the_round_wakes_arrivals(self, store: Store) -> None:
        await open_first_round(store, target=2)
        tokens = {client: await token_of(store, client) for client in (ALICE, BOB)}
        before = await store.changes(JOB, Topic.ARRIVALS)
        await store.accept(JOB, update_record(ALICE), tokens[ALICE])
        assert await store.changes(JOB, Topic.ARRIVALS) == before
        await store.accept(JOB, update_record(BOB), tokens[BOB])
        after = await store.changes(JOB, Topic.ARRIVALS)
        await store.accept(JOB, update_record(BOB), tokens[BOB])
        assert before < after == await store.changes(JOB, Topic.ARRIVALS)

    async def test_an_updates_bytes_can_come_with_it_and_are_stored_in_the_same_step(self, store: Store) -> None:
        await open_first_round(store)
        token, digest = await token_of(store, ALICE), digest_of(b"update")
        with refused(ErrorCode.NOT_PARTICIPANT):
            await store.accept(JOB, update_record(CAROL, digest=digest), await token_of(store, CAROL), b"update")
        accepted = update_record(ALICE, digest=digest, size=6)
        assert await store.accept(JOB, accepted, token, b"update") is AcceptResult.ACCEPTED
        assert await store.blobs.get(JOB, digest) == b"update"
        assert await store.accept(JOB, accepted, token, b"update") is AcceptResult.REPEATED
        assert await store.update(JOB, 1, ALICE) == accepted
        assert await store.update(JOB, 1, BOB) is None

    async def test_a_poll_tells_an_agent_where_its_job_stands(self, store: Store) -> None:
        await running_job(store)
        token = await token_of(store, ALICE)
        with refused(ErrorCode.NOT_ENROLLED):
            await store.poll(JOB, BOB, "")
        with refused(ErrorCode.LEASE_SUPERSEDED):
            await store.poll(JOB, ALICE, "another")
        first = await store.poll(JOB, ALICE, token)
        assert (first.joined, first.round, first.phase, first.delivered) == (False, 0, None, False)
        assert (first.agent.client, first.agent.memory_bytes, first.agent.lease_token) == (ALICE, 1 << 30, token)
        await store.join(JOB, client_record(ALICE))
        fence = await store.acquire(JOB, "coordinator", 60_000)
        assert fence is not None
        await store.open_round(JOB, round_record(), fence)
        second = await store.poll(JOB, ALICE, token)
        assert (second.joined, second.round, second.phase, second.delivered) == (True, 1, Phase.COLLECTING, False)
        assert second.tasks == await store.changes(JOB, Topic.TASKS) > first.tasks
        await store.accept(JOB, update_record(ALICE), token)
        await store.begin_fold(JOB, 1, fence)
        third = await store.poll(JOB, ALICE, token)
        assert (third.phase, third.delivered, third.tasks) == (Phase.FOLDING, True, second.tasks)

    async def test_a_look_counts_and_lists_nothing(self, store: Store) -> None:
        with refused(ErrorCode.UNKNOWN_JOB):
            await store.look(JOB, 1000)
        await running_job(store)
        await store.join(JOB, client_record(ALICE))
        empty = await store.look(JOB, 60_000)
        assert (empty.status, empty.joined, empty.live, empty.round, empty.accepted) == (
            JobStatus.RUNNING, 1, 1, None, 0,
        )  # fmt: skip
        fence = await store.acquire(JOB, "coordinator", 60_000)
        assert fence is not None
        await store.open_round(JOB, round_record(evaluation=True, target=2, quorum=1), fence)
        await store.accept(JOB, update_record(BOB), await token_of(store, BOB))
        await store.extend_round(JOB, 1, 9_000, fence)
        look = await store.look(JOB, 60_000)
        found = await store.round(JOB)
        assert found is not None
        assert (look.round, look.accepted) == (found.head, 1)
        assert (found.head.asked, found.head.extensions, found.head.deadline_ms) == (2, 1, 9_000)
        assert found.head.evaluation
        assert abs(await store.now_ms() - look.now_ms) < 5_000

    async def test_updates_of_old_rounds_are_deleted(self, store: Store) -> None:
        fence = await open_first_round(store)
        await store.accept(JOB, update_record(ALICE), await token_of(store, ALICE))
        for number in range(1, KEPT_UPDATE_ROUNDS + 1):
            assert await store.delivered(JOB, 1, ALICE)
            await store.begin_fold(JOB, number, fence)
            await store.publish(JOB, number, version_record(number), "{}", fence)
            await store.open_round(JOB, round_record(number + 1), fence)
        assert await store.updates(JOB, 1) == {}


class TestClosing:
    async def test_folding_pins_the_accepted_clients_sorted_and_keeps_them(self, store: Store) -> None:
        names = [ClientId(name) for name in ("b", "a-1", "a.1", "a1", "z_9", "0")]
        fence = await open_first_round(store, participants=round_record(clients=tuple(names)).participants)
        for name in names[:-1]:
            await store.accept(JOB, update_record(name), await token_of(store, name))
        pinned = tuple(sorted(names[:-1]))
        assert await store.begin_fold(JOB, 1, fence) == pinned
        assert await store.begin_fold(JOB, 1, fence) == pinned
        found = await store.round(JOB)
        assert found is not None
        assert (found.phase, found.pinned) == (Phase.FOLDING, pinned)

    async def test_a_round_without_updates_folds_to_nothing(self, store: Store) -> None:
        fence = await open_first_round(store)
        assert await store.begin_fold(JOB, 1, fence) == ()

    async def test_extending_moves_the_deadline_and_counts(self, store: Store) -> None:
        fence = await open_first_round(store)
        await store.extend_round(JOB, 1, 5000, fence)
        await store.extend_round(JOB, 1, 5000, fence)
        await store.extend_round(JOB, 1, 9000, fence)
        assert await store.round(JOB) == round_record(deadline_ms=9000, extensions=2)
        with refused(ErrorCode.ROUND_CLOSED):
            await store.extend_round(JOB, 2, 9999, fence)
        await store.begin_fold(JOB, 1, fence)
        with refused(ErrorCode.ROUND_CLOSED):
            await store.extend_round(JOB, 1, 9999, fence)

    async def test_publishing_adds_a_version_and_a_summary_once(self, store: Store) -> None:
        fence = await open_first_round(store)
        with refused(ErrorCode.ROUND_CLOSED):
            await store.publish(JOB, 1, version_record(1), "early", fence)
        await store.begin_fold(JOB, 1, fence)
        before = [await store.changes(JOB, topic) for topic in (Topic.TASKS, Topic.PROGRESS)]
        assert await store.publish(JOB, 1, version_record(1), '{"round": 1}', fence)
        after = [await store.changes(JOB, topic) for topic in (Topic.TASKS, Topic.PROGRESS)]
        assert after == [before[0], before[1] + 1]
        other = VersionRecord(version=1, round=1, clusters=9)
        assert not await store.publish(JOB, 1, other, '{"round": "again"}', fence)
        assert await store.history(JOB) == History(1, ('{"round": 1}',))
        assert await store.version(JOB) == version_record(1)
        found = await store.round(JOB)
        assert found is not None
        assert found.phase is Phase.PUBLISHED
        with refused(ErrorCode.ROUND_CLOSED):
            await store.begin_fold(JOB, 1, fence)
        with refused(ErrorCode.ROUND_CLOSED):
            await store.publish(JOB, 2, version_record(2), "{}", fence)

    async def test_a_late_publish_of_an_earlier_round_changes_nothing(self, store: Store) -> None:
        fence = await open_first_round(store)
        await store.begin_fold(JOB, 1, fence)
        await store.publish(JOB, 1, version_record(1), "one", fence)
        await store.open_round(JOB, round_record(2), fence)
        assert not await store.publish(JOB, 1, version_record(1), "one again", fence)
        assert await store.history(JOB) == History(1, ("one",))
        assert await store.round(JOB) == round_record(2)

    async def test_versions_are_read_by_number_and_dropped_from_below_but_never_the_latest(self, store: Store) -> None:
        assert await store.version(JOB) is None
        fence = await open_first_round(store)
        assert await store.drop_versions(JOB, 5, fence) == []
        for number in (1, 2, 3):
            if number > 1:
                await store.open_round(JOB, round_record(number), fence)
            await store.begin_fold(JOB, number, fence)
            await store.publish(JOB, number, version_record(number), str(number), fence)
        assert await store.version(JOB, 2) == version_record(2)
        assert await store.version(JOB, 4) is None
        with refused(ErrorCode.FENCED):
            await store.drop_versions(JOB, 3, fence - 1)
        assert await store.drop_versions(JOB, 3, fence) == [version_record(1), version_record(2)]
        assert await store.version(JOB, 2) is None
        assert await store.drop_versions(JOB, 100, fence) == []
        assert await store.version(JOB) == version_record(3)
        assert await store.history(JOB) == History(1, ("1", "2", "3"))

    async def test_one_version_may_stay_however_old_and_goes_when_another_stays(self, store: Store) -> None:
        fence = await open_first_round(store)
        for number in (1, 2, 3, 4):
            if number > 1:
                await store.open_round(JOB, round_record(number), fence)
            await store.begin_fold(JOB, number, fence)
            await store.publish(JOB, number, version_record(number), str(number), fence)
        assert await store.drop_versions(JOB, 4, fence, keep=2) == [version_record(1), version_record(3)]
        assert await store.drop_versions(JOB, 4, fence, keep=2) == []
        assert await store.version(JOB, 2) == version_record(2)
        assert await store.drop_versions(JOB, 4, fence, keep=4) == [version_record(2)]
        assert await store.version(JOB) == version_record(4)

    async def test_byte_counters_are_published_with_their_round_or_not_at_all(self, store: Store) -> None:
        fence = await open_first_round(store)
        assert await store.traffic(JOB, [ALICE]) == {}
        with refused(ErrorCode.ROUND_CLOSED):
            await store.publish(JOB, 1, version_record(1), "early", fence, {ALICE: (9, 9, 9, 9)})
        await store.begin_fold(JOB, 1, fence)
        counted = {ALICE: (1, 2**60, 3, 4), BOB: (5, 6, 7, 8)}
        await store.publish(JOB, 1, version_record(1), "1", fence, counted)
        await store.publish(JOB, 1, version_record(1), "again", fence, {ALICE: (0, 0, 0, 0)})
        assert await store.traffic(JOB, [BOB, ALICE, "carol"]) == counted
        assert await store.traffic(JOB, []) == {}
        await store.open_round(JOB, round_record(2), fence)
        await store.begin_fold(JOB, 2, fence)
        await store.publish(JOB, 2, version_record(2), "2", fence, {BOB: (50, 60, 70, 80)})
        assert await store.traffic(JOB, [ALICE, BOB]) == {**counted, BOB: (50, 60, 70, 80)}

    async def test_the_final_evaluation_republishes_the_last_version(self, store: Store) -> None:
        fence = await open_first_round(store)
        await store.begin_fold(JOB, 1, fence)
        await store.publish(JOB, 1, version_record(1), "1", fence)
        await store.set_status(JOB, JobStatus.EVALUATING, "", ALIVE)
        await store.open_round(JOB, round_record(2, evaluation=True, base_version=1), fence)
        await store.begin_fold(JOB, 2, fence)
        assert await store.publish(JOB, 2, version_record(1), "scores", fence)
        assert await store.version(JOB) == version_record(1)
        assert await store.history(JOB) == History(1, ("1", "scores"))
