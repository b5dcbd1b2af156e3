"""Five strangers join, ask for every task, and never deliver."""

from __future__ import annotations

import asyncio

from tests.hostile.federation import attacked
from tests.light import LightClient


async def sit_there(client: LightClient) -> None:
    await client.enter()
    while True:
        answer = await client.next_task(2_000)
        if answer.WhichOneof("task") == "finished":
            return
        await asyncio.sleep(0.1)  # a real one would ask as often as it may


async def test_five_silent_strangers_delay_a_job_of_three_and_do_not_stop_it(fresh_redis_url: str) -> None:
    rules = {"total": 4, "deadline": "1s", "extensions": 2, "quorum": 0.5}
    async with attacked(fresh_redis_url, "sybils", rounds={**rules, "min_clients": 3}) as federation:
        carol = federation.aggregator.client("carol", federation.spec)
        for honest in (federation.alice, federation.bob, carol):
            await honest.enter()
        names = [f"sybil-{number}" for number in range(5)]
        sybils = [federation.aggregator.client(name, federation.spec) for name in names]
        for sybil in sybils:
            await sybil.enter()
        waiting = [asyncio.create_task(sit_there(sybil)) for sybil in sybils]
        third = asyncio.create_task(carol.work())
        job = await federation.honest_complete()
        assert await asyncio.wait_for(third, 20) == "completed"
        await asyncio.wait_for(asyncio.gather(*waiting), 20)
        asked = [entry.asked for entry in job.history]
        assert max(asked) == 8
        assert asked[-1] < 8  # those that missed two rounds sit out
