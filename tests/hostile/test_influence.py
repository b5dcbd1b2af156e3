"""One client tries to move the model further than the others: by what it sends, and by what it says it has."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from fedhft.v1 import federation_pb2
from tests.hostile.federation import Attacked, attacked
from tests.light import LightClient

Score = federation_pb2.Score


async def push_scaled(mallory: LightClient, factor: float, samples: int) -> None:
    """Take part in every round with updates of so many times the size, flipped."""
    await mallory.enter(samples=samples)
    while True:
        answer = await mallory.next_task(2_000)
        match answer.WhichOneof("task"):
            case "finished":
                return
            case "train":
                blob = mallory.update(answer.train, scale=-0.01 * factor)
                await mallory.push(mallory.header(answer.train, blob), [(0, blob)])


async def attack(federation: Attacked, factor: float, samples: int = 10_000_000) -> Any:
    attacking = asyncio.create_task(push_scaled(federation.mallory, factor, samples))
    job = await federation.honest_complete(samples=10)
    await asyncio.wait_for(attacking, 20)
    return job


async def test_a_flipped_update_of_a_hundred_times_the_size_is_scaled_down_and_named(fresh_redis_url: str) -> None:
    async with attacked(fresh_redis_url, "scaled", rounds={"min_clients": 3}) as federation:
        job = await attack(federation, 100)
        for entry in job.history:
            (clipped,) = entry.clipped
            assert (clipped.client, entry.clipped_count) == ("mallory", 1)
            assert clipped.factor < 0.02
            assert entry.published_norm < 1.0  # one honest update has a norm of about 0.6


async def test_ten_million_claimed_samples_weigh_like_two_clients(fresh_redis_url: str) -> None:
    async with attacked(fresh_redis_url, "claims", rounds={"min_clients": 3}) as federation:
        job = await attack(federation, 1)
        for entry in job.history:
            (capped,) = entry.capped
            assert (capped.client, capped.factor) == ("mallory", pytest.approx(2 * 10 / 10_000_000))


async def report_shared(client: LightClient, value: float, rows: int, dealt: bool = True) -> None:
    """Take part in the first round with a score of the shared rows."""
    await client.enter(has_shared_validation=dealt)
    task = await client.train_task()
    blob = client.update(task)
    header = client.header(task, blob)
    header.scores.add(split=Score.SPLIT_SHARED, moment=Score.MOMENT_BEFORE, view=Score.VIEW_OWN, value=value, rows=rows)
    await client.push(header, [(0, blob)])


@pytest.mark.parametrize(("dealt", "pooled"), [(True, (0.5 * 12 + 1.0 * 7) / 19), (False, 0.5)])
async def test_a_score_of_as_many_rows_as_may_be_claimed_weighs_like_one_client(
    dealt: bool, pooled: float, fresh_redis_url: str
) -> None:
    rounds = {"total": 1, "min_clients": 3, "deadline": "20s"}
    async with attacked(fresh_redis_url, "rows", rounds=rounds, evaluation={"every": 1, "final": False}) as federation:
        most = federation.spec.limits.samples
        async with asyncio.timeout(40):
            await asyncio.gather(
                report_shared(federation.alice, 0.5, 6),
                report_shared(federation.bob, 0.5, 6),
                report_shared(federation.mallory, 1.0, most, dealt),
            )
        job = await federation.honest_complete()
        assert job.history[0].shared_before == pytest.approx(pooled)


async def test_the_bounds_can_be_turned_off_by_name(fresh_redis_url: str) -> None:
    off = {"clip": 0, "sample_cap": 0}
    async with attacked(fresh_redis_url, "unbounded", rounds={"min_clients": 3}, limits=off) as federation:
        job = await attack(federation, 100)
        assert [(entry.clipped_count, entry.capped_count) for entry in job.history] == [(0, 0), (0, 0)]
        assert job.history[0].published_norm > 5


async def test_with_a_trimmed_mean_a_flipped_update_moves_no_further_than_the_honest_ones(fresh_redis_url: str) -> None:
    changes = {
        "rounds": {"min_clients": 3},
        "limits": {"clip": 0, "opposed": 0},
        "method": {"combine": "trimmed-mean"},
        "server": {"trim": 0.34},  # one client of three
    }
    async with attacked(fresh_redis_url, "trimmed", **changes) as federation:
        job = await attack(federation, 100, samples=10)
        for entry in job.history:
            assert (entry.accepted, entry.clipped_count, entry.opposed_count) == (3, 0, 0)
            assert entry.published_norm < 1.0  # one honest update has a norm of about 0.6
