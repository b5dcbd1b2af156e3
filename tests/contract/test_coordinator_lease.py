"""Contract of every store: the coordinator's lease, which lets one replica at a time move a job on."""

from __future__ import annotations

import asyncio

from fedhft.ids import JobId
from fedhft.store.interface import Store
from tests.contract.federation import JOB


class TestCoordinatorLease:
    async def test_the_lease_is_exclusive_and_its_token_stays_while_it_is_kept(self, store: Store) -> None:
        fence = await store.acquire(JOB, "one", 60_000)
        assert fence is not None
        assert await store.acquire(JOB, "two", 60_000) is None
        assert await store.acquire(JOB, "one", 60_000) == fence

    async def test_of_many_racing_holders_one_gets_the_lease(self, store: Store) -> None:
        fences = await asyncio.gather(*(store.acquire(JOB, f"holder-{i}", 60_000) for i in range(20)))
        assert len([fence for fence in fences if fence is not None]) == 1

    async def test_the_next_holder_has_a_larger_token(self, store: Store) -> None:
        first = await store.acquire(JOB, "one", 60_000)
        await store.release(JOB, "two")
        assert await store.acquire(JOB, "two", 60_000) is None
        await store.release(JOB, "one")
        second = await store.acquire(JOB, "two", 60_000)
        assert first is not None
        assert second is not None
        assert second > first

    async def test_a_lease_ends_by_itself_and_renewing_moves_its_end(self, store: Store) -> None:
        first = await store.acquire(JOB, "one", 800)
        await asyncio.sleep(0.5)
        assert await store.acquire(JOB, "one", 800) == first
        await asyncio.sleep(0.5)
        assert await store.acquire(JOB, "two", 800) is None
        await asyncio.sleep(0.5)
        second = await store.acquire(JOB, "two", 60_000)
        assert first is not None
        assert second is not None
        assert second > first

    async def test_a_holder_that_lost_the_lease_and_takes_it_again_gets_a_new_token(self, store: Store) -> None:
        first = await store.acquire(JOB, "one", 50)
        await asyncio.sleep(0.1)
        again = await store.acquire(JOB, "one", 50)
        assert first is not None
        assert again is not None
        assert again > first

    async def test_jobs_have_leases_of_their_own(self, store: Store) -> None:
        assert await store.acquire(JOB, "one", 60_000) is not None
        assert await store.acquire(JobId("other"), "two", 60_000) is not None

    async def test_a_lease_from_before_the_clock_was_set_back_lasts_no_longer_than_any(self, store: Store) -> None:
        first = await store.acquire(JOB, "one", 7_200_000)  # as a lease of seconds is seen by a clock two hours behind
        assert first is not None
        assert await store.acquire(JOB, "two", 500) is None
        await asyncio.sleep(0.6)
        second = await store.acquire(JOB, "two", 500)
        assert second is not None
        assert second > first
