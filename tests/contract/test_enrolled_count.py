"""How many agents are enrolled is counted, not looked for; leases that have expired do not count."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from fedhft.store import keys
from fedhft.store.interface import Store
from fedhft.store.keys import JobKeys
from tests.contract.federation import ALICE, BOB, CAROL, JOB, client_record, open_first_round


async def test_a_client_counts_once_from_its_enrolment_until_it_is_forgotten(store: Store) -> None:
    assert await store.count_enrolled() == 0
    lease = await store.enroll(ALICE, 1, "0.1.0")
    await store.enroll(ALICE, 1, "0.1.0", lease.lease_token)
    await store.enroll(BOB, 1, "0.1.0")
    assert await store.count_enrolled() == 2
    await store.forget_agent(ALICE)
    await store.forget_agent(CAROL)
    assert await store.count_enrolled() == 1


async def test_the_count_ends_when_the_lease_does(own_store: Store, admin: Redis) -> None:
    await own_store.enroll(ALICE, 1, "0.1.0")
    left_ms = await admin.pttl(keys.agent(ALICE))
    ends_ms = await admin.zscore(keys.AGENTS, ALICE)
    assert ends_ms == pytest.approx(await own_store.now_ms() + left_ms, abs=1000)
    await admin.zadd(keys.AGENTS, {ALICE: await own_store.now_ms() - 1})
    assert await own_store.count_enrolled() == 0
    await own_store.enroll(BOB, 1, "0.1.0")
    assert await admin.zrange(keys.AGENTS, 0, -1) == [BOB.encode()], "what has expired takes no place"


async def test_an_agent_that_an_earlier_release_enrolled_counts_from_its_next_call_on(
    own_store: Store, admin: Redis
) -> None:
    await open_first_round(own_store)
    lease = await own_store.enroll(ALICE, 1, "0.1.0")
    await own_store.join(JOB, client_record(ALICE))
    await admin.delete(keys.AGENTS)
    await admin.zadd(JobKeys(JOB).seen, {ALICE: 0})
    await own_store.poll(JOB, ALICE, lease.lease_token)
    assert await own_store.count_enrolled() == 1
    ends_ms = await admin.zscore(keys.AGENTS, ALICE)
    assert ends_ms == pytest.approx(await own_store.now_ms() + keys.AGENT_TTL_MS, abs=1000)


async def test_a_count_that_is_damaged_keeps_nobody_out(own_store: Store, admin: Redis) -> None:
    await admin.set(keys.AGENTS, "not a sorted set")
    lease = await own_store.enroll(ALICE, 1, "0.1.0")
    assert (await own_store.check_lease(ALICE, lease.lease_token)).client == ALICE
