"""The list of a job's clients, over the in-memory store."""

from __future__ import annotations

from fedhft.coordination.history import RoundHistory
from fedhft.coordination.roster import Roster
from fedhft.ids import ClientId, JobId
from fedhft.plan import AdapterPlan
from fedhft.records import JobStatus, MembershipRecord, RoundRecord
from fedhft.store.in_memory import InMemoryStore
from fedhft.v1 import clients_pb2, jobs_pb2
from tests.contract.federation import (
    ALICE,
    BOB,
    CAROL,
    JOB,
    client_record,
    round_record,
    token_of,
    update_record,
    version_record,
)
from tests.light import light_job

STATE = clients_pb2.JobClient


async def listed(store: InMemoryStore, after: str = "", limit: int = 0) -> list[clients_pb2.JobClient]:
    return list((await Roster(store).page(await store.job(JOB), after, limit)).clients)


async def test_what_is_known_of_each_client_is_shown() -> None:
    now = [1000.0]
    store = InMemoryStore(clock=lambda: now[0])
    spec = light_job(str(JOB), rounds={"client_timeout": "60s"})
    await store.create_job(JOB, spec.canonical())
    await store.set_status(JOB, JobStatus.RUNNING, "", [JobStatus.WAITING])
    for client in (ALICE, BOB):
        await store.join(JOB, client_record(client, joined_ms=400_000))
    token = await token_of(store, ALICE)
    await token_of(store, CAROL)
    await store.decline(JOB, CAROL, "too many epochs")
    now[0] = 1061.0
    await store.poll(JOB, ALICE, token)
    fence = await store.acquire(JOB, "here", 10_000)
    assert fence is not None
    await store.open_round(JOB, round_record(), fence)
    await store.accept(JOB, update_record(ALICE), token)
    await store.begin_fold(JOB, 1, fence)
    await store.set_aside(JOB, 1, {"alice": "its blob is damaged"}, fence)
    alice, bob, carol = await listed(store)
    assert (alice.client, alice.state, alice.rounds_delivered) == ("alice", STATE.STATE_LIVE, 1)
    assert (alice.seen_seconds, alice.joined_seconds, alice.samples, alice.tier) == (0.0, 661.0, 60, "full")
    assert alice.set_aside == "its blob is damaged"
    assert AdapterPlan.of(alice.plan) == round_record().participants["alice"].plan
    assert not carol.HasField("plan")
    assert list(alice.memberships) == []
    assert (bob.client, bob.state, bob.seen_seconds, bob.set_aside) == ("bob", STATE.STATE_SILENT, 61.0, "")
    assert (carol.state, carol.reason, carol.joined_seconds) == (STATE.STATE_DECLINED, "too many epochs", 61.0)
    assert carol.seen_seconds == 61.0
    summary = jobs_pb2.RoundSummary(round=1, clipped=[jobs_pb2.Scaled(client="bob", factor=0.25)])
    await store.publish(JOB, 1, version_record(), RoundHistory(summary).to_json(), fence)
    await store.open_round(JOB, round_record(2, evaluation=True), fence)
    mixture = MembershipRecord(version=1, round=1, clusters=2, rows={"bob": (0.25, 0.75)})
    assert await store.publish_memberships(JOB, mixture, 0)
    alice, bob, _ = await listed(store)  # the final evaluation folds nothing
    assert (alice.set_aside, alice.HasField("clipped")) == ("its blob is damaged", False)
    assert bob.clipped == 0.25
    assert (list(alice.memberships), list(bob.memberships)) == ([], [0.25, 0.75])
    assert [one.client for one in await listed(store, after="alice", limit=1)] == ["bob"]


async def test_a_client_that_never_enrolled_here_has_no_time_of_its_own() -> None:
    store = InMemoryStore()
    await store.create_job(JOB, light_job(str(JOB)).canonical())
    await store.decline(JOB, ClientId("gone"), "no")
    (gone,) = await listed(store)
    assert not gone.HasField("seen_seconds")


class CountingStore(InMemoryStore):
    """Counts how often a whole round is read."""

    rounds_read = 0

    async def round(self, job: JobId) -> RoundRecord | None:
        self.rounds_read += 1
        return await super().round(job)


async def test_a_round_is_read_once_for_all_its_pages() -> None:
    store = CountingStore()
    await store.create_job(JOB, light_job(str(JOB)).canonical())
    await store.set_status(JOB, JobStatus.RUNNING, "", [JobStatus.WAITING])
    for client in (ALICE, BOB):
        await store.join(JOB, client_record(client))
    fence = await store.acquire(JOB, "here", 10_000)
    assert fence is not None
    await store.open_round(JOB, round_record(), fence)
    store.rounds_read = 0
    rosters = Roster(store)
    record = await store.job(JOB)
    pages = [(await rosters.page(record, after, 1)).clients[0] for after in ("", "alice")]
    assert [page.HasField("plan") for page in pages] == [True, True]
    assert store.rounds_read == 1
    await store.begin_fold(JOB, 1, fence)
    await store.publish(JOB, 1, version_record(), RoundHistory(jobs_pb2.RoundSummary(round=1)).to_json(), fence)
    await store.open_round(JOB, round_record(2), fence)
    await rosters.page(record, "", 0)
    assert store.rounds_read == 2
