"""Contract of every store: agents, jobs, joining, memberships."""

from __future__ import annotations

import asyncio

from fedhft.errors import ErrorCode
from fedhft.ids import JobId
from fedhft.records import JobStatus, Revocation, Topic, VersionRecord
from fedhft.store.interface import Store
from fedhft.store.keys import KEPT_MEMBERSHIPS, SEEN_EVERY_MS
from fedhft.stored_blob import StoredBlob
from tests.contract.federation import (
    ALICE,
    ALIVE,
    BOB,
    CAROL,
    JOB,
    SPEC,
    client_record,
    membership_record,
    refused,
    running_job,
)


class TestAgents:
    async def test_an_enrolled_agent_is_known_by_its_token(self, store: Store) -> None:
        enrolled = await store.enroll(ALICE, 2 << 30, "0.1.0")
        seen = await store.check_lease(ALICE, enrolled.lease_token)
        assert (seen.client, seen.memory_bytes, seen.agent_version) == (ALICE, 2 << 30, "0.1.0")
        assert seen.lease_token == enrolled.lease_token != ""

    async def test_a_heartbeat_moves_last_seen_on_the_stores_clock(self, store: Store) -> None:
        enrolled = await store.enroll(ALICE, 1, "0.1.0")
        assert abs(await store.now_ms() - enrolled.last_seen_ms) < 5_000
        await asyncio.sleep(0.02)
        await store.check_lease(ALICE, enrolled.lease_token)
        assert (await store.agents([ALICE]))[ALICE].last_seen_ms > enrolled.last_seen_ms

    async def test_enrolling_again_with_the_current_token_keeps_it(self, store: Store) -> None:
        first = await store.enroll(ALICE, 1, "0.1.0")
        again = await store.enroll(ALICE, 2, "0.2.0", first.lease_token)
        assert again.lease_token == first.lease_token
        assert (await store.agents([ALICE]))[ALICE].memory_bytes == 2

    async def test_enrolling_without_a_token_supersedes_the_other_agent(self, store: Store) -> None:
        first = await store.enroll(ALICE, 1, "0.1.0")
        second = await store.enroll(ALICE, 1, "0.1.0")
        assert second.lease_token not in (first.lease_token, "")
        with refused(ErrorCode.LEASE_SUPERSEDED):
            await store.check_lease(ALICE, first.lease_token)
        await store.check_lease(ALICE, second.lease_token)

    async def test_a_token_that_was_superseded_or_guessed_renews_nothing_and_takes_nothing_back(
        self, store: Store
    ) -> None:
        first = await store.enroll(ALICE, 1, "0.1.0")
        second = await store.enroll(ALICE, 2, "0.1.0")
        for token in (first.lease_token, "guessed", second.lease_token + " "):
            with refused(ErrorCode.LEASE_SUPERSEDED):
                await store.enroll(ALICE, 3, "0.1.0", token)
        await store.check_lease(ALICE, second.lease_token)
        assert (await store.agents([ALICE]))[ALICE].memory_bytes == 2

    async def test_a_token_whose_record_is_gone_is_as_good_as_none(self, store: Store) -> None:
        first = await store.enroll(ALICE, 1, "0.1.0")
        await store.forget_agent(ALICE)
        assert (await store.enroll(ALICE, 1, "0.1.0", first.lease_token)).lease_token != first.lease_token

    async def test_a_heartbeat_of_a_stranger_is_refused_and_creates_nothing(self, store: Store) -> None:
        with refused(ErrorCode.NOT_ENROLLED):
            await store.check_lease(ALICE, "")
        assert await store.agents([ALICE]) == {}

    async def test_a_late_heartbeat_never_revives_a_forgotten_agent(self, store: Store) -> None:
        enrolled = await store.enroll(ALICE, 1, "0.1.0")
        await store.forget_agent(ALICE)
        with refused(ErrorCode.NOT_ENROLLED):
            await store.check_lease(ALICE, enrolled.lease_token)
        assert await store.agents([ALICE]) == {}
        assert (await store.enroll(ALICE, 1, "0.1.0", enrolled.lease_token)).lease_token != enrolled.lease_token

    async def test_only_enrolled_agents_are_listed(self, store: Store) -> None:
        await store.enroll(ALICE, 1, "0.1.0")
        await store.enroll(BOB, 2, "0.1.0")
        found = await store.agents([CAROL, BOB, ALICE])
        assert {client: record.memory_bytes for client, record in found.items()} == {ALICE: 1, BOB: 2}
        assert await store.agents([]) == {}


DAY_MS = 86_400_000


class TestRevocations:
    async def test_a_revoked_certificate_is_on_the_list_and_enrolls_nobody(self, store: Store) -> None:
        until = await store.now_ms() + DAY_MS
        revocation = Revocation(identity="spiffe://a/agent/alice", not_after_ms=until, reason="lost")
        await store.enroll(ALICE, 1, "0.1.0", "", "5e1")
        for _ in range(2):
            await store.revoke("5e1", revocation)
            assert await store.revocations() == {"5e1": revocation}
        with refused(ErrorCode.CERTIFICATE_REVOKED):
            await store.enroll(ALICE, 1, "0.1.0", "", "5e1")
        await store.enroll(ALICE, 1, "0.1.0", "", "5e2")
        await store.enroll(ALICE, 1, "0.1.0")

    async def test_whoever_follows_the_list_is_told_of_a_change(self, store: Store) -> None:
        seen = await store.revocation_changes()
        assert await store.wait_revocation(seen, 0.01) == seen
        waiting = asyncio.create_task(store.wait_revocation(seen, 20.0))
        await asyncio.sleep(0.05)
        until = await store.now_ms() + DAY_MS
        await store.revoke("1", Revocation(identity="spiffe://a/aggregator", not_after_ms=until))
        assert await asyncio.wait_for(waiting, 10) == await store.revocation_changes() != seen

    async def test_a_certificate_that_ended_long_ago_leaves_the_list_with_the_next_one(self, store: Store) -> None:
        now = await store.now_ms()
        for serial, ended in (("a", now - 2 * DAY_MS), ("b", now - DAY_MS // 2), ("c", now + DAY_MS)):
            await store.revoke(serial, Revocation(identity="spiffe://a/aggregator", not_after_ms=ended))
        assert sorted(await store.revocations()) == ["b", "c"]


class TestJobs:
    async def test_a_new_job_waits(self, store: Store) -> None:
        assert await store.create_job(JOB, SPEC)
        record = await store.job(JOB)
        assert (record.job, record.spec_json, record.status, record.reason) == (JOB, SPEC, JobStatus.WAITING, "")
        assert abs(await store.now_ms() - record.created_ms) < 5_000

    async def test_submitting_the_same_job_again_changes_nothing(self, store: Store) -> None:
        await running_job(store)
        assert not await store.create_job(JOB, SPEC)
        assert (await store.job(JOB)).status is JobStatus.RUNNING
        assert len(await store.jobs()) == 1

    async def test_another_job_under_a_taken_id_is_refused(self, store: Store) -> None:
        await store.create_job(JOB, SPEC)
        with refused(ErrorCode.JOB_EXISTS):
            await store.create_job(JOB, '{"id": "other"}')
        assert (await store.job(JOB)).spec_json == SPEC

    async def test_a_job_may_be_created_with_its_schema_which_no_client_replaces(self, store: Store) -> None:
        assert await store.create_job(JOB, SPEC, "ops", "pinned")
        assert (await store.job(JOB)).schema_pinned
        assert await store.schema(JOB) == "pinned"
        assert await store.fix_schema(JOB, "of a client") == "pinned"
        assert not await store.create_job(JOB, SPEC, "ops", "pinned")
        assert not await store.create_job(JOB, SPEC)
        with refused(ErrorCode.JOB_EXISTS):
            await store.create_job(JOB, SPEC, "ops", "another")
        assert await store.schema(JOB) == "pinned"

    async def test_a_job_may_begin_with_a_version_0(self, store: Store) -> None:
        begun = VersionRecord(version=0, round=0, clusters=1, snapshots={"shared": StoredBlob(digest="ab", size=9)})
        assert await store.create_job(JOB, SPEC, "ops", "pinned", begun)
        assert await store.version(JOB) == await store.version(JOB, 0) == begun
        assert not await store.create_job(JOB, SPEC, "ops", "pinned", begun)
        other = begun.model_copy(update={"snapshots": {"shared": StoredBlob(digest="cd", size=9)}})
        with refused(ErrorCode.JOB_EXISTS):
            await store.create_job(JOB, SPEC, "ops", "pinned", other)
        assert await store.version(JOB) == begun

    async def test_a_job_without_a_pinned_schema_takes_the_first_clients(self, store: Store) -> None:
        await store.create_job(JOB, SPEC)
        assert not (await store.job(JOB)).schema_pinned
        assert await store.fix_schema(JOB, "of a client") == "of a client"
        assert not await store.create_job(JOB, SPEC, "", "of a client")
        with refused(ErrorCode.JOB_EXISTS):
            await store.create_job(JOB, SPEC, "", "another")

    async def test_jobs_are_listed_oldest_first(self, store: Store) -> None:
        ids = [JobId(name) for name in ("zeta", "alpha", "mid")]
        for job in ids:
            await store.create_job(job, SPEC)
        assert [record.job for record in await store.jobs()] == ids

    async def test_open_jobs_are_those_that_are_not_over(self, store: Store) -> None:
        ids = [JobId(name) for name in ("zeta", "alpha", "mid")]
        for job in ids:
            await store.create_job(job, SPEC)
        await store.set_status(JobId("alpha"), JobStatus.CANCELLED, "enough", ALIVE)
        assert await store.open_jobs() == [JobId("zeta"), JobId("mid")]

    async def test_an_unknown_job_is_refused_wherever_it_is_needed(self, store: Store) -> None:
        for call in (
            store.job(JOB),
            store.set_status(JOB, JobStatus.RUNNING, "", ALIVE),
            store.fix_schema(JOB, "{}"),
            store.join(JOB, client_record(ALICE)),
        ):
            with refused(ErrorCode.UNKNOWN_JOB):
                await call
        assert await store.jobs() == []

    async def test_a_status_changes_only_from_an_expected_one(self, store: Store) -> None:
        await store.create_job(JOB, SPEC)
        assert not await store.set_status(JOB, JobStatus.COMPLETED, "done", [JobStatus.RUNNING])
        assert (await store.job(JOB)).status is JobStatus.WAITING
        assert await store.set_status(JOB, JobStatus.FAILED, "no quorum in round 3", ALIVE)
        record = await store.job(JOB)
        assert (record.status, record.reason) == (JobStatus.FAILED, "no quorum in round 3")

    async def test_of_many_racing_status_changes_one_wins(self, store: Store) -> None:
        await store.create_job(JOB, SPEC)
        outcomes = await asyncio.gather(
            *(store.set_status(JOB, JobStatus.RUNNING, str(i), [JobStatus.WAITING]) for i in range(20))
        )
        assert sum(outcomes) == 1
        assert (await store.job(JOB)).reason == str(outcomes.index(True))

    async def test_a_changed_status_wakes_both_topics(self, store: Store) -> None:
        await store.create_job(JOB, SPEC)
        before = [await store.changes(JOB, topic) for topic in Topic]
        await store.set_status(JOB, JobStatus.COMPLETED, "", [JobStatus.RUNNING])
        assert [await store.changes(JOB, topic) for topic in Topic] == before
        await store.set_status(JOB, JobStatus.RUNNING, "", [JobStatus.WAITING])
        after = [await store.changes(JOB, topic) for topic in Topic]
        assert all(late > early for late, early in zip(after, before, strict=True))


class TestJoining:
    async def test_the_first_schema_wins(self, store: Store) -> None:
        await store.create_job(JOB, SPEC)
        assert await store.schema(JOB) is None
        stored = await asyncio.gather(*(store.fix_schema(JOB, f'{{"n": {i}}}') for i in range(10)))
        assert len(set(stored)) == 1
        assert await store.schema(JOB) == stored[0]

    async def test_clients_are_listed_by_id_and_their_signatures_apart(self, store: Store) -> None:
        await store.create_job(JOB, SPEC)
        alice = client_record(ALICE, signature=(0.1, -0.7, 1e-30), has_shared_validation=True)
        bob = client_record(BOB, tier="half")
        await store.join(JOB, bob)
        await store.join(JOB, alice)
        found = await store.clients(JOB)
        assert list(found) == await store.client_ids(JOB) == [ALICE, BOB]
        assert found == {ALICE: alice.model_copy(update={"signature": ()}), BOB: bob}
        assert await store.clients(JOB, [CAROL, BOB]) == {BOB: bob}
        assert await store.clients(JOB, []) == {}
        signatures = await store.signatures(JOB)
        assert {client: tuple(signature) for client, signature in signatures.items()} == {ALICE: alice.signature}
        assert await store.has_signatures(JOB)
        assert await store.client(JOB, ALICE) == alice
        assert await store.client(JOB, CAROL) is None

    async def test_halves_are_kept_to_the_bit_beside_the_signature_and_go_with_the_client(self, store: Store) -> None:
        await store.create_job(JOB, SPEC)
        alice = client_record(ALICE, signature=(1.0,), halves=(0.5, -1.401298464324817e-45, 0.10000000149011612))
        await store.join(JOB, alice)
        await store.join(JOB, client_record(BOB, signature=(1.0,)))
        assert await store.client(JOB, ALICE) == alice
        found = await store.signature_halves(JOB)
        assert {client: tuple(both.tolist()) for client, both in found.items()} == {ALICE: alice.halves}
        assert (await store.clients(JOB))[ALICE].halves == ()
        await store.join(JOB, alice.model_copy(update={"halves": ()}))
        assert await store.signature_halves(JOB) == {}
        await store.join(JOB, alice)
        assert await store.leave(JOB, ALICE)
        assert await store.signature_halves(JOB) == {}

    async def test_joining_again_replaces_everything(self, store: Store) -> None:
        await store.create_job(JOB, SPEC)
        await store.join(JOB, client_record(ALICE, signature=(1.0,)))
        await store.join(JOB, client_record(ALICE, samples=99))
        assert await store.clients(JOB) == {ALICE: client_record(ALICE, samples=99)}

    async def test_clients_of_one_job_are_not_in_another(self, store: Store) -> None:
        other = JobId("tickets2")
        await store.create_job(JOB, SPEC)
        await store.create_job(other, SPEC)
        await store.join(JOB, client_record(ALICE))
        assert await store.clients(other) == {}

    async def test_a_signature_can_be_refreshed(self, store: Store) -> None:
        await store.create_job(JOB, SPEC)
        await store.join(JOB, client_record(ALICE, signature=(1.0, 0.0)))
        assert await store.set_signature(JOB, ALICE, (0.0, 1.0))
        assert await store.client(JOB, ALICE) == client_record(ALICE, signature=(0.0, 1.0))
        assert await store.set_signature(JOB, ALICE, ())
        assert await store.client(JOB, ALICE) == client_record(ALICE)
        assert not await store.has_signatures(JOB)

    async def test_a_late_signature_never_revives_a_client_that_left(self, store: Store) -> None:
        await store.create_job(JOB, SPEC)
        await store.join(JOB, client_record(ALICE))
        assert await store.leave(JOB, ALICE)
        assert not await store.leave(JOB, ALICE)
        assert not await store.set_signature(JOB, ALICE, (1.0,))
        assert await store.clients(JOB) == {}
        await store.join(JOB, client_record(ALICE))
        assert not await store.has_signatures(JOB)

    async def test_a_client_is_live_in_the_jobs_it_is_heard_in(self, store: Store) -> None:
        other = JobId("tickets2")
        for job in (JOB, other):
            await store.create_job(job, SPEC)
        token = (await store.enroll(ALICE, 1, "0.1.0")).lease_token
        await store.poll(JOB, ALICE, token)  # has not joined
        assert await store.live(JOB, 60_000) == []
        await store.join(JOB, client_record(ALICE))
        await store.join(other, client_record(ALICE))
        await store.join(JOB, client_record(BOB))
        assert await store.live(JOB, 60_000) == [ALICE, BOB]
        joined = await store.last_seen(JOB, [ALICE, BOB, CAROL])
        assert list(joined) == [ALICE, BOB]
        await asyncio.sleep(SEEN_EVERY_MS / 1000 + 0.1)
        assert (await store.poll(JOB, ALICE, token)).joined
        assert (await store.last_seen(JOB, [ALICE]))[ALICE] > joined[ALICE]
        assert (await store.last_seen(other, [ALICE]))[ALICE] <= joined[ALICE] + 1000
        assert await store.live(JOB, SEEN_EVERY_MS // 2) == [ALICE]
        assert (await store.look(JOB, SEEN_EVERY_MS // 2)).live == 1
        await store.leave(JOB, ALICE)
        assert await store.live(JOB, 60_000) == [BOB]
        assert await store.last_seen(JOB, []) == {}

    async def test_joining_and_leaving_wake_arrivals_only(self, store: Store) -> None:
        await store.create_job(JOB, SPEC)
        tasks, arrivals = await store.changes(JOB, Topic.TASKS), await store.changes(JOB, Topic.ARRIVALS)
        await store.join(JOB, client_record(ALICE))
        joined = await store.changes(JOB, Topic.ARRIVALS)
        await store.leave(JOB, ALICE)
        left = await store.changes(JOB, Topic.ARRIVALS)
        await store.leave(JOB, ALICE)
        assert arrivals < joined < left == await store.changes(JOB, Topic.ARRIVALS)
        assert await store.changes(JOB, Topic.TASKS) == tasks


class TestMemberships:
    async def test_old_versions_are_dropped(self, store: Store) -> None:
        for version in range(1, KEPT_MEMBERSHIPS + 2):
            assert await store.publish_memberships(JOB, membership_record(version), version - 1)
        assert await store.memberships(JOB, 1) is None
        assert await store.memberships(JOB, 2) == membership_record(2)
        assert await store.memberships(JOB) == membership_record(KEPT_MEMBERSHIPS + 1)

    async def test_versions_follow_each_other_and_stay_readable(self, store: Store) -> None:
        assert await store.memberships(JOB) is None
        assert await store.publish_memberships(JOB, membership_record(1, 0.25), 0)
        assert await store.publish_memberships(JOB, membership_record(2, 0.75), 1)
        assert await store.memberships(JOB) == membership_record(2, 0.75)
        assert await store.memberships(JOB, 1) == membership_record(1, 0.25)
        assert await store.memberships(JOB, 3) is None

    async def test_only_the_successor_of_the_latest_is_published(self, store: Store) -> None:
        assert not await store.publish_memberships(JOB, membership_record(2), 1)
        await store.publish_memberships(JOB, membership_record(1, 0.25), 0)
        assert not await store.publish_memberships(JOB, membership_record(1, 0.75), 0)
        assert not await store.publish_memberships(JOB, membership_record(3), 2)
        assert await store.memberships(JOB) == membership_record(1, 0.25)

    async def test_repeating_what_was_published_succeeds(self, store: Store) -> None:
        assert await store.publish_memberships(JOB, membership_record(1, 0.25), 0)
        assert await store.publish_memberships(JOB, membership_record(1, 0.25), 0)
        assert await store.publish_memberships(JOB, membership_record(2), 1)

    async def test_a_record_with_the_wrong_number_is_refused(self, store: Store) -> None:
        with refused(ErrorCode.INVALID_ARGUMENT):
            await store.publish_memberships(JOB, membership_record(7), 0)
        assert await store.memberships(JOB) is None

    async def test_of_many_racing_memberships_exactly_one_is_published_per_version(self, store: Store) -> None:
        for version in range(1, 6):
            offers = [membership_record(version, weight / 32) for weight in range(16)]
            outcomes = await asyncio.gather(*(store.publish_memberships(JOB, one, version - 1) for one in offers))
            assert sum(outcomes) == 1
            assert await store.memberships(JOB) == offers[outcomes.index(True)]
