"""The stage itself: without an attack, and with a hostile client that only sits there, the honest clients finish."""

from __future__ import annotations

from tests.hostile.federation import attacked


async def test_two_honest_clients_complete_their_job(fresh_redis_url: str) -> None:
    async with attacked(fresh_redis_url, "calm") as federation:
        await federation.honest_complete()


async def test_a_client_that_joins_and_never_delivers_delays_a_round_and_ends_nothing(fresh_redis_url: str) -> None:
    async with attacked(fresh_redis_url, "idle", rounds={"total": 1}, evaluation={"final": True}) as federation:
        await federation.mallory.enter()
        job = await federation.honest_complete()
        assert job.history[0].asked == 3
