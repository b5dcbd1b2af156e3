"""What an owner's rules let through, and what they decline."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from fedhft_agent.owner_rules import NO_RULES, Asked, OwnerRules, check_offer, check_task, least_updates, most_steps
from hypothesis import given
from hypothesis import strategies as st

from fedhft.errors import ErrorCode, FedhftError
from fedhft.job import JobSpec
from fedhft.plan import AdapterPlan, steps_of
from tests.light import light_job

PLAN = AdapterPlan("t", depth=2, density=1.0, epochs=1.0, max_steps=0, train_a=True, train_b=True)
TASK = Asked(round=1, plan=PLAN, steps=10, quorum=4, share=0.25)
EVALUATION = Asked(round=3, plan=PLAN, steps=10)


def job(**changes: Any) -> JobSpec:
    """4 clients, all of whom must deliver, 2 rounds, rank 4, int8."""
    return light_job("study-7", **{"rounds": {"min_clients": 4, "quorum": 1.0}, **changes})


def check(rules: OwnerRules, spec: JobSpec, asked: Asked | None, by: str) -> None:
    if asked is None:
        check_offer(rules, spec, by)
    else:
        check_task(rules, spec, asked)


def declined(rules: OwnerRules, spec: JobSpec, asked: Asked | None = None, by: str = "") -> str:
    with pytest.raises(FedhftError) as caught:
        check(rules, spec, asked, by)
    assert caught.value.code is ErrorCode.DECLINED
    return caught.value.message


def ranks(least: int) -> dict[str, Any]:
    return {"method": {"preset": "hetlora"}, "tiers": {"a": {"rank": 4}, "b": {"rank": least}}}


@pytest.mark.parametrize(
    ("rules", "good", "bad", "said"),
    [
        ({"allow_jobs": ("study-?", "x")}, {}, {"name": "other"}, "name = 'other' is not in allow_jobs"),
        ({"allow_encodings": ("int8",)}, {}, {"wire": {"up": "fp32"}}, "wire.up = 'fp32' is not in allow_encodings"),
        ({"most_rounds": 2}, {}, {"rounds": {"total": 3}}, "rounds.total = 3 is above most_rounds = 2"),
        ({"most_epochs": 1.0}, {}, {"training": {"epochs": 1.5}}, "training.epochs = 1.5 is above most_epochs = 1"),
        ({"most_rank": 4}, {}, {"adapter": {"rank": 5}}, "adapter.rank = 5 is above most_rank = 4"),
        ({"most_rank": 2}, ranks(2), ranks(3), "rank of every tier = 3 is above most_rank = 2"),
        ({"most_rank": 512}, {}, {"method": {"preset": "full"}}, "trains all weights, beyond most_rank = 512"),
        ({"most_depth": 2}, {"adapter": {"depth": 2}}, {"adapter": {"depth": 3}}, "= 3 is above most_depth = 2"),
        ({"most_depth": 2}, {}, {"tiers": {"a": {"depth": 3}, "b": {"depth": 4}}}, "= 3 is above most_depth = 2"),
        ({"least_updates": 4}, {}, {"rounds": {"quorum": 0.75}}, "publishes from 3 updates, fewer than"),
        ({"least_updates": 4}, {}, {"rounds": {"sample": 0.5}}, "publishes from 2 updates, fewer than"),
        ({"least_updates": 4}, {}, {"rounds": {"min_clients": 1}}, "publishes from 1 updates, fewer than"),
    ],
)
def test_an_offer_is_declined_by_the_rule_that_it_breaks(
    rules: dict[str, Any], good: dict[str, Any], bad: dict[str, Any], said: str
) -> None:
    base = {"rounds": {"min_clients": 4, "quorum": 1.0}}
    check_offer(OwnerRules(**rules), light_job("study-7", **{**base, **good}), "")
    changed = {**base, **bad}
    changed["rounds"] = {**base["rounds"], **bad.get("rounds", {})}
    name = changed.pop("name", "study-7")
    spec = light_job(name, **changed)
    assert said in declined(OwnerRules(**rules), spec)
    check_offer(NO_RULES, spec, "")


def test_a_job_of_an_operator_the_owner_does_not_know_is_declined() -> None:
    rules = OwnerRules(allow_operators=("clinic-*",))
    check_offer(rules, job(), "clinic-ops")
    assert "submitted_by = 'stranger' is not in allow_operators" in declined(rules, job(), by="stranger")
    assert "submitted_by = ''" in declined(OwnerRules(allow_operators=("*",)), job(), by="")


def test_a_decline_names_every_rule_that_is_broken_and_what_to_do() -> None:
    rules = OwnerRules(most_rounds=1, most_rank=2)
    said = declined(rules, job())
    assert said.startswith("job study-7 breaks rules of this agent's owner: rounds.total = 2 is above")
    assert "; adapter.rank = 4 is above most_rank = 2" in said
    assert said.endswith("; change the job, or ask the owner")


@pytest.mark.parametrize(
    ("rules", "changes", "said"),
    [
        ({"most_rounds": 2}, {"round": 3}, "task.round = 3 is above most_rounds = 2"),
        ({"most_epochs": 1.0}, {"plan": replace(PLAN, epochs=1000.0)}, "task.plan.epochs = 1000 is above"),
        ({"most_epochs": 1.0}, {"plan": replace(PLAN, epochs=math.nan)}, "task.plan.epochs = nan is above"),
        ({"most_steps": 10}, {"steps": 11}, "steps of the task's plan = 11 is above most_steps = 10"),
        ({"most_rank": 4}, {"plan": replace(PLAN, rank=5)}, "task.plan.rank = 5 is above most_rank = 4"),
        ({"most_depth": 2}, {"plan": replace(PLAN, depth=3)}, "task.plan.depth = 3 is above most_depth = 2"),
        ({"least_updates": 4}, {"quorum": 3}, "task.quorum = 3 is below least_updates = 4"),
        ({"largest_share": 0.25}, {"share": 0.26}, "task.share = 0.26 is not within largest_share = 0.25"),
        ({"largest_share": 0.25}, {"share": 0.0}, "task.share = 0 is not within"),
        ({"largest_share": 0.25}, {"share": math.nan}, "task.share = nan is not within"),
    ],
)
def test_a_task_is_declined_by_the_rule_that_it_breaks(
    rules: dict[str, Any], changes: dict[str, Any], said: str
) -> None:
    check_task(OwnerRules(**rules), job(), TASK)
    assert said in declined(OwnerRules(**rules), job(), replace(TASK, **changes))
    check_task(NO_RULES, job(), replace(TASK, **changes))


def test_the_final_evaluation_publishes_nothing_and_is_not_a_round_too_many() -> None:
    rules = OwnerRules(most_rounds=2, least_updates=100, largest_share=0.01)
    check_task(rules, job(), EVALUATION)
    assert "task.round = 4" in declined(rules, job(), replace(EVALUATION, round=4))


def test_a_method_that_shares_nothing_gives_nothing_away() -> None:
    rules = OwnerRules(least_updates=100, largest_share=0.01, allow_encodings=("int8",))
    spec = job(method={"preset": "local"})
    check_offer(rules, spec, "")
    check_task(rules, spec, TASK)


def test_the_fewest_updates_are_the_quorum_of_the_sample_of_the_fewest_clients() -> None:
    assert least_updates(job()) == 4
    assert least_updates(job(rounds={"min_clients": 9, "sample": 0.5, "quorum": 0.5})) == 3
    assert least_updates(job(rounds={"min_clients": 1, "sample": 0.1, "quorum": 0.1})) == 1


@given(
    st.none() | st.integers(1, 60),
    st.none() | st.floats(0.1, 5.0),
    st.floats(0.1, 3.0),
    st.integers(1, 30),
    st.integers(1, 90),
)
def test_more_steps_than_an_epoch_has_stay_within_what_the_owner_allows(
    own: int | None, passes: float | None, epochs: float, batches: int, wanted: int
) -> None:
    rules = OwnerRules(most_steps=own, most_epochs=passes)
    most = most_steps(rules, epochs, batches)
    assert (most == 0) == (own is None and passes is None)
    of_the_job = steps_of(batches, 1, epochs, 0)
    if passes is not None and epochs > passes:
        return  # the job itself is declined
    planned = min(wanted, most or wanted)
    if planned <= of_the_job:
        plan = replace(PLAN, epochs=epochs, max_steps=planned)
    else:
        plan = replace(PLAN, epochs=planned / batches)
    check_task(rules, job(), replace(TASK, plan=plan, steps=planned))
