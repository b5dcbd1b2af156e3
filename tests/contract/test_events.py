"""The log of what happened to a job: written by the transitions themselves, once each, and bounded."""

from __future__ import annotations

from fedhft.records import JobStatus
from fedhft.store.interface import Store
from fedhft.store.keys import KEPT_EVENTS
from tests.contract.federation import (
    ALICE,
    ALIVE,
    BOB,
    CAROL,
    JOB,
    client_record,
    open_first_round,
    round_record,
    token_of,
    update_record,
    version_record,
)


async def told(store: Store) -> list[tuple[str, int, str, str]]:
    return [(event.kind.value, event.round, event.client, event.text) for event in await store.events(JOB)]


async def jobs_own(store: Store) -> list[tuple[str, int, str]]:
    return [(kind, number, text) for kind, number, client, text in await told(store) if not client]


async def test_a_job_tells_what_happened_to_it(store: Store) -> None:
    fence = await open_first_round(store)
    await store.extend_round(JOB, 1, 2_000, fence)
    await store.extend_round(JOB, 1, 3_000, fence, counted=False)
    await store.pause_job(JOB, "until Monday")
    await store.resume_job(JOB)
    await store.set_blocked(JOB, "the volume is away")
    await store.set_blocked(JOB, "")
    token = await token_of(store, ALICE)
    await store.accept(JOB, update_record(ALICE), token)
    await store.begin_fold(JOB, 1, fence)
    await store.reopen_round(JOB, 1, 4_000, fence)
    await store.begin_fold(JOB, 1, fence)
    await store.publish(JOB, 1, version_record(1), "{}", fence)
    await store.set_status(JOB, JobStatus.EVALUATING, "", ALIVE, fence)
    await store.open_round(JOB, round_record(2, evaluation=True), fence)
    await store.begin_fold(JOB, 2, fence)
    await store.publish(JOB, 2, version_record(1), "{}", fence)
    await store.set_status(JOB, JobStatus.COMPLETED, "", ALIVE, fence)
    assert await jobs_own(store) == [
        ("submitted", 0, ""),
        ("running", 0, ""),
        ("opened", 1, "2 clients"),
        ("extended", 1, ""),
        ("paused", 0, "until Monday"),
        ("resumed", 0, ""),
        ("blocked", 0, "the volume is away"),
        ("unblocked", 0, ""),
        ("reopened", 1, "too few updates were left"),
        ("published", 1, "1 of 2 clients"),
        ("evaluating", 0, ""),
        ("opened", 2, "2 clients, final evaluation"),
        ("evaluated", 2, "0 of 2 clients"),
        ("completed", 0, ""),
    ]
    times = [event.at_ms for event in await store.events(JOB)]
    assert times == sorted(times)
    assert abs(times[0] - await store.now_ms()) < 60_000


async def test_it_tells_what_its_clients_did(store: Store) -> None:
    fence = await open_first_round(store)
    before = len(await store.events(JOB))
    await store.decline(JOB, CAROL, "the rank is too high")
    await store.join(JOB, client_record(CAROL))
    await store.set_aside(JOB, 1, {BOB: "its blob is gone"}, fence)
    await store.leave(JOB, CAROL, "removed by olga")
    assert (await told(store))[before:] == [
        ("declined", 0, CAROL, "the rank is too high"),
        ("joined", 0, CAROL, ""),
        ("set_aside", 1, BOB, "its blob is gone"),
        ("left", 0, CAROL, "removed by olga"),
    ]


async def test_what_changes_nothing_is_not_told(store: Store) -> None:
    fence = await open_first_round(store)
    await store.pause_job(JOB, "once")
    await store.join(JOB, client_record(ALICE))
    await store.decline(JOB, CAROL, "the rank is too high")
    await store.set_aside(JOB, 1, {BOB: "its blob is gone"}, fence)
    before = await told(store)
    await store.pause_job(JOB, "twice")
    await store.set_aside(JOB, 1, {BOB: "another reason"}, fence)
    await store.open_round(JOB, round_record(1), fence)
    await store.extend_round(JOB, 1, round_record(1).deadline_ms, fence)
    await store.set_blocked(JOB, "")
    await store.leave(JOB, CAROL)
    await store.decline(JOB, ALICE, "has joined")
    await store.decline(JOB, CAROL, "the rank is too high")
    await store.set_status(JOB, JobStatus.FAILED, "no", [JobStatus.WAITING])
    assert await told(store) == before


async def test_the_log_is_bounded_and_many_clients_do_not_push_out_what_happened_to_the_job(store: Store) -> None:
    await open_first_round(store)
    own = await jobs_own(store)
    for _ in range(KEPT_EVENTS + 5):
        await store.join(JOB, client_record(CAROL))
    assert await jobs_own(store) == own
    assert len(await told(store)) == KEPT_EVENTS + len(own)


async def test_it_goes_with_the_job(store: Store) -> None:
    await open_first_round(store)
    await store.delete_job(JOB, list(JobStatus))
    assert await store.events(JOB) == []


async def test_every_enrolled_agent_is_found(store: Store) -> None:
    assert await store.enrolled() == []
    for client in (BOB, ALICE):
        await store.enroll(client, 1, "0.1.0")
    assert await store.enrolled() == [ALICE, BOB]
    assert await store.count_enrolled() == 2
    await store.forget_agent(BOB)
    assert await store.enrolled() == [ALICE]
    assert await store.count_enrolled() == 1
