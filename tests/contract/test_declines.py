"""Contract of every store: who submitted a job, who will not serve it, and how often those who do have delivered."""

from __future__ import annotations

from fedhft.errors import ErrorCode
from fedhft.store.interface import Store
from tests.contract.federation import (
    ALICE,
    BOB,
    CAROL,
    JOB,
    SPEC,
    client_record,
    open_first_round,
    refused,
    round_record,
    token_of,
    update_record,
    version_record,
)


async def test_a_job_keeps_who_submitted_it_first(store: Store) -> None:
    assert await store.create_job(JOB, SPEC, "ops")
    assert not await store.create_job(JOB, SPEC, "somebody-else")
    assert (await store.job(JOB)).submitted_by == "ops"
    assert [record.submitted_by for record in await store.jobs()] == ["ops"]


async def test_the_last_reason_of_a_decline_is_kept(store: Store) -> None:
    await store.create_job(JOB, SPEC)
    for reason in ("too many epochs", 'rank = 512 is "too large"'):
        assert await store.decline(JOB, BOB, reason)
    assert await store.decline(JOB, ALICE, "no")
    assert await store.declined(JOB) == [ALICE, BOB]
    assert (await store.look(JOB, 1000)).declined == 2
    kept = await store.declines(JOB, [BOB, CAROL])
    assert {client: record.reason for client, record in kept.items()} == {BOB: 'rank = 512 is "too large"'}
    assert abs(await store.now_ms() - kept[BOB].declined_ms) < 5_000
    assert await store.declines(JOB, []) == {}


async def test_a_client_that_joins_no_longer_declines(store: Store) -> None:
    await store.create_job(JOB, SPEC)
    await store.decline(JOB, ALICE, "later")
    await store.join(JOB, client_record(ALICE))
    assert await store.declined(JOB) == []
    assert not await store.decline(JOB, ALICE, "a joined client leaves first")
    assert await store.declined(JOB) == []
    await store.leave(JOB, ALICE)
    assert await store.declined(JOB) == []
    assert (await store.look(JOB, 1000)).declined == 0


async def test_an_unknown_job_cannot_be_declined(store: Store) -> None:
    with refused(ErrorCode.UNKNOWN_JOB):
        await store.decline(JOB, ALICE, "no")
    assert await store.declined(JOB) == []


async def test_accepted_updates_are_counted_by_client_whatever_is_forgotten_of_their_rounds(store: Store) -> None:
    fence = await open_first_round(store, target=3)
    token = await token_of(store, ALICE)
    await store.accept(JOB, update_record(ALICE), token)
    await store.accept(JOB, update_record(ALICE), token)  # a repeated one counts once
    assert await store.deliveries(JOB, [ALICE, BOB]) == {ALICE: 1}
    await store.begin_fold(JOB, 1, fence)
    await store.publish(JOB, 1, version_record(1), "{}", fence)
    await store.open_round(JOB, round_record(2, evaluation=True), fence)
    await store.accept(JOB, update_record(ALICE, 2), token)
    assert await store.deliveries(JOB, [ALICE]) == {ALICE: 1}
    assert await store.deliveries(JOB, []) == {}
