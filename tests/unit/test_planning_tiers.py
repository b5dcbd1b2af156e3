"""Who is in which tier, and the plan that a tier gives."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhft.errors import ErrorCode, FedhftError
from fedhft.job import JobSpec, parse_job
from fedhft.planning.tiers import check_too_large, plans, tier_of
from fedhft.records import PlanTooLarge
from tests.light import light_schema

TIERS = {"large": {"min_memory": 2000}, "middle": {"min_memory": 1000, "density": 0.5}, "small": {"density": 0.25}}


def spec(**changes: Any) -> JobSpec:
    raw = {"name": "j", "model": {"name": "m"}, "task": {"labels": ["a", "b"]}, "tiers": TIERS}
    return parse_job({**raw, **changes})


@pytest.mark.parametrize(
    ("memory", "tier"), [(5000, "large"), (2000, "large"), (1999, "middle"), (1000, "middle"), (999, "small")]
)
def test_a_client_is_in_the_largest_tier_that_its_memory_reaches(memory: int, tier: str) -> None:
    assert tier_of(spec(), "a", memory) == tier


def test_an_unstated_memory_gets_a_tier_that_asks_for_none() -> None:
    assert tier_of(spec(), "a", 0) == "small"


def test_the_job_decides_before_the_agent_and_the_agent_before_its_memory() -> None:
    job = spec(client_tiers={"a": "middle"})
    assert tier_of(job, "a", 5000, "small") == "middle"
    assert tier_of(job, "b", 5000, "small") == "small"


def test_a_tier_the_job_does_not_have_is_refused_by_name() -> None:
    with pytest.raises(FedhftError, match=r"tier = 'huge'.*large, middle, small") as caught:
        tier_of(spec(), "a", 0, "huge")
    assert caught.value.code is ErrorCode.INVALID_ARGUMENT


def test_a_device_below_every_tier_is_told_how_much_memory_is_needed() -> None:
    job = spec(tiers={"large": {"min_memory": 2000}, "middle": {"min_memory": 1000}})
    with pytest.raises(FedhftError, match="at least 1000 bytes") as caught:
        tier_of(job, "a", 999)
    assert caught.value.code is ErrorCode.PLAN_TOO_LARGE


@pytest.mark.parametrize(
    ("of_tier", "of_job", "layers", "depth"), [(0, 0, 4, 4), (2, 0, 4, 2), (0, 3, 4, 3), (3, 2, 4, 2), (9, 0, 4, 4)]
)
def test_depth_is_the_least_of_tier_job_and_model(of_tier: int, of_job: int, layers: int, depth: int) -> None:
    job = spec(tiers={"only": {"depth": of_tier}}, adapter={"depth": of_job})
    assert plans(job, light_schema(layers), {"a": "only"})["a"].depth == depth


def test_local_work_of_a_plan_is_the_jobs_and_its_density_the_tiers() -> None:
    job = spec(training={"epochs": 2.5, "max_steps": 7})
    plan = plans(job, light_schema(), {"a": "middle"})["a"]
    assert (plan.tier, plan.density, plan.epochs, plan.max_steps) == ("middle", 0.5, 2.5, 7)


def test_uniform_allocation_gives_every_tier_the_same_plan_but_for_its_name() -> None:
    job = spec(method="fedit", tiers={"only": {"density": 0.25, "depth": 1}})
    plan = plans(job, light_schema(4), {"a": "only"})["a"]
    assert (plan.tier, plan.density, plan.depth) == ("only", 1.0, 4)


def test_every_client_gets_the_plan_of_its_own_tier() -> None:
    given = plans(spec(), light_schema(), {"b": "small", "a": "large"})
    assert [(client, plan.density) for client, plan in given.items()] == [("b", 0.25), ("a", 1.0)]


def declined(*tiers: str) -> list[PlanTooLarge]:
    return [PlanTooLarge(tier=tier, needed=200, allowed=100) for tier in tiers]


STEPS = {
    "deep": {"depth": 6},
    "deep-thin": {"depth": 6, "density": 0.25},
    "shallow": {"depth": 2},
    "shallow-thin": {"depth": 2, "density": 0.25},
}


def test_a_client_whose_plan_does_not_fit_gets_the_largest_smaller_one_until_none_is_left() -> None:
    job = spec(tiers=STEPS, client_tiers={"a": "deep"})
    seen: list[str] = []
    while len(seen) < 3:
        seen.append(tier_of(job, "a", 0, "", declined(*seen)))
    assert seen == ["deep", "deep-thin", "shallow-thin"]  # layers first: they are what takes memory
    with pytest.raises(FedhftError, match="tier deep needs at least 200 bytes, and no tier of the job") as caught:
        tier_of(job, "a", 0, "", declined(*STEPS))
    assert caught.value.code is ErrorCode.PLAN_TOO_LARGE


@given(st.sampled_from(sorted(STEPS)), st.sets(st.sampled_from(sorted(STEPS))))
def test_whatever_a_client_says_it_gets_no_more_than_it_would_have_got(first: str, lies: set[str]) -> None:
    job = spec(tiers=STEPS)
    try:
        got = tier_of(job, "a", 0, first, declined(*lies))
    except FedhftError:
        return  # nothing at all
    was, now = STEPS[first], STEPS[got]
    assert now["depth"] <= was["depth"]
    assert now.get("density", 1.0) <= was.get("density", 1.0)
    assert got not in lies


@pytest.mark.parametrize(
    "told",
    [
        declined("unknown"),
        declined("deep", "deep"),
        [PlanTooLarge(tier="deep", needed=100, allowed=100)],
        [PlanTooLarge(tier="deep", needed=100, allowed=0)],
        [PlanTooLarge(tier="deep", needed=1 << 60, allowed=100)],
    ],
)
def test_what_is_said_of_a_plan_is_checked(told: list[PlanTooLarge]) -> None:
    with pytest.raises(FedhftError, match="too_large") as caught:
        check_too_large(spec(tiers=STEPS), told)
    assert caught.value.code is ErrorCode.INVALID_ARGUMENT


def test_with_one_plan_for_all_there_is_no_smaller_one() -> None:
    job = spec(method="fedit", tiers=STEPS)
    with pytest.raises(FedhftError, match="no tier of the job is smaller"):
        tier_of(job, "a", 0, "", declined(tier_of(job, "a", 0)))
