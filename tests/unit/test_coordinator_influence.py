"""Whole jobs as stories: what one client's size and claims change."""

from __future__ import annotations

from typing import Any

import numpy as np

from fedhft.coordination.state_blobs import load_state
from fedhft.ids import ClientId
from tests.unit.story import JOB, Story, rules

UNBOUNDED = {"sample_cap": 0, "clip": 0, "opposed": 0}


async def one_round(scale: float, samples: int = 10, **limits: Any) -> Story:
    """A round of seven clients like each other and one whose update is `scale` times as large."""
    story = await Story.begin(rounds=rules(), limits=limits)
    honest = list("abcdefg")
    await story.join(*honest)
    await story.join("z", samples=samples)
    one = story.coordinator()
    await story.settle(one)
    await story.deliver(*honest, alike=0.5)
    await story.deliver("z", scale=0.01 * scale, alike=0.5)
    await story.settle(one)
    return story


async def moved(story: Story) -> float:
    version = await story.store.version(JOB, 1)
    state = await load_state(story.store.blobs, JOB, story.spec, story.schema, version)
    return float(
        np.sqrt(
            sum(
                float(np.square(m).sum())
                for scope in state.state.scope_names
                for m in state.state.scope(scope).values()
            )
        )
    )


async def test_a_hundred_times_larger_update_moves_a_version_hardly_more_than_any_other() -> None:
    calm, attacked, unbounded = await one_round(1), await one_round(100), await one_round(100, **UNBOUNDED)
    assert await moved(unbounded) > 10 * await moved(calm)
    assert await moved(attacked) < 1.5 * await moved(calm)
    (clipped,) = attacked.published[0].summary.clipped
    assert (clipped.client, attacked.published[0].summary.clipped_count) == ("z", 1)
    assert 0.01 < clipped.factor < 0.02


async def test_a_billion_claimed_samples_weigh_like_two_clients() -> None:
    story = await one_round(1, samples=10**9)
    (capped,) = story.published[0].summary.capped
    assert (capped.client, capped.factor, story.published[0].summary.capped_count) == ("z", 20 / 10**9, 1)
    part = (await story.round()).participants["z"]
    assert (part.samples, part.weight) == (10**9, 20.0)


async def test_where_nothing_is_bounded_the_bytes_are_those_of_a_job_without_bounds() -> None:
    bounded, unbounded = await one_round(1), await one_round(1, **UNBOUNDED)
    assert bounded.published[0].summary.clipped_count == 0
    versions = [await story.store.version(JOB, 1) for story in (bounded, unbounded)]
    assert versions[0] is not None
    assert versions[0] == versions[1]


async def test_records_without_a_norm_are_measured_when_they_are_folded() -> None:
    story = await Story.begin(rounds=rules())
    await story.join("a", "b", "c")
    one = story.coordinator()
    await story.settle(one)
    await story.deliver("a", "b")
    await story.deliver("c", scale=1.0)
    kept = story.store._jobs[JOB].updates[1]
    for client in ("a", "b", "c"):
        kept[ClientId(client)] = kept[ClientId(client)].model_copy(update={"norm": None})
    await story.settle(one)
    assert [one.client for one in story.published[0].summary.clipped] == ["c"]


async def test_an_update_that_points_against_the_others_is_left_out_and_named() -> None:
    story = await Story.begin(rounds=rules())
    honest = list("abcde")
    await story.join(*honest, "z")
    one = story.coordinator()
    await story.settle(one)
    await story.deliver(*honest, alike=1.0)
    await story.deliver("z", scale=-0.01, alike=1.0)
    await story.settle(one)
    summary = story.published[0].summary
    assert (list(summary.opposed), summary.opposed_count) == (["z"], 1)
    assert (summary.accepted, summary.set_aside_count) == (6, 0)

    calm = await Story.begin(rounds=rules(target=0.8))
    await calm.join(*honest, "z")
    other = calm.coordinator()
    await calm.settle(other)
    await calm.deliver(*honest, alike=1.0)
    await calm.settle(other)
    versions = [await one.store.version(JOB, 1) for one in (story, calm)]
    assert versions[0] is not None
    assert versions[0] == versions[1]
