"""What a job does next: every branch, and that no state is a dead end."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhft.job import JobSpec, parse_job
from fedhft.records import JobStatus, Phase, RoundHead
from fedhft.rounds.decision import (
    Complete,
    Evaluate,
    Extend,
    Fail,
    Fold,
    OpenRound,
    Over,
    Situation,
    Start,
    Wait,
    decide,
)

RULES = {"total": 3, "min_clients": 2, "deadline": "10s", "extensions": 1, "join_timeout": "60s", "quorum": 0.5}


def spec(**rounds: Any) -> JobSpec:
    return parse_job(
        {"name": "j", "model": {"name": "m"}, "task": {"labels": ["a", "b"]}, "rounds": {**RULES, **rounds}}
    )


def round_record(number: int = 1, phase: Phase = Phase.COLLECTING, **changes: Any) -> RoundHead:
    fields: dict[str, Any] = {
        "number": number,
        "phase": phase,
        "evaluation": False,
        "base_version": number - 1,
        "opened_ms": 1000,
        "deadline_ms": 11_000,
        "extensions": 0,
        "target": 4,
        "quorum": 2,
        "asked": 4,
    }
    return RoundHead(**{**fields, **changes})


def situation(**changes: Any) -> Situation:
    fields: dict[str, Any] = {
        "spec": spec(),
        "status": JobStatus.RUNNING,
        "created_ms": 0,
        "round": None,
        "accepted": 0,
        "live": 4,
        "joined": 4,
    }
    return Situation(**{**fields, **changes})


def test_a_job_starts_when_enough_clients_have_joined() -> None:
    assert decide(situation(status=JobStatus.WAITING, live=1), 10) == Wait(60_000)
    assert decide(situation(status=JobStatus.WAITING, live=2), 10) == Start()


def test_waiting_for_clients_ends_with_a_reason_that_names_the_field() -> None:
    decision = decide(situation(status=JobStatus.WAITING, live=1), 60_000)
    assert isinstance(decision, Fail)
    assert "rounds.min_clients" in decision.reason


def test_rounds_follow_each_other_and_end_in_the_final_evaluation() -> None:
    assert decide(situation(), 10) == OpenRound(1, evaluation=False)
    assert decide(situation(round=round_record(2, Phase.PUBLISHED)), 10) == OpenRound(3, evaluation=False)
    assert decide(situation(round=round_record(3, Phase.PUBLISHED)), 10) == Evaluate()
    evaluating = situation(status=JobStatus.EVALUATING, round=round_record(3, Phase.PUBLISHED))
    assert decide(evaluating, 10) == OpenRound(4, evaluation=True)
    done = round_record(4, Phase.PUBLISHED, evaluation=True)
    assert decide(situation(status=JobStatus.EVALUATING, round=done), 10) == Complete()


def test_without_final_evaluation_the_last_round_completes_the_job() -> None:
    raw = spec().model_dump()
    quick = JobSpec.model_validate({**raw, "evaluation": {"final": False}})
    assert decide(situation(spec=quick, round=round_record(3, Phase.PUBLISHED)), 10) == Complete()


def test_a_round_closes_early_at_its_target_and_at_its_deadline_with_quorum() -> None:
    current = round_record()
    assert decide(situation(round=current, accepted=3), 5000) == Wait(11_000)
    assert decide(situation(round=current, accepted=4), 5000) == Fold(1)
    assert decide(situation(round=current, accepted=2), 11_000) == Fold(1)


def test_without_quorum_a_round_is_extended_a_bounded_number_of_times_then_the_job_fails() -> None:
    assert decide(situation(round=round_record(), accepted=1), 11_000) == Extend(1, 21_000)
    failed = decide(situation(round=round_record(2, extensions=1), accepted=1), 21_000)
    assert isinstance(failed, Fail)
    assert "1 of 4 participants delivered, 2 needed" in failed.reason


def test_a_folding_round_is_folded_again_by_whoever_comes_next() -> None:
    assert decide(situation(round=round_record(phase=Phase.FOLDING)), 10) == Fold(1)


def test_the_final_evaluation_closes_at_its_deadline_without_quorum() -> None:
    current = round_record(4, evaluation=True)
    assert decide(situation(status=JobStatus.EVALUATING, round=current, accepted=0), 11_000) == Fold(4)


def test_when_every_client_is_gone_the_job_fails_after_the_join_timeout() -> None:
    gone = situation(round=round_record(phase=Phase.PUBLISHED), live=0, short_since_ms=11_000)
    assert decide(gone, 20_000) == Wait(71_000)
    assert isinstance(decide(gone, 71_000), Fail)


def test_a_trained_job_whose_clients_are_gone_completes_without_its_final_evaluation() -> None:
    gone = situation(status=JobStatus.EVALUATING, round=round_record(3, Phase.PUBLISHED), live=0, short_since_ms=11_000)
    assert decide(gone, 71_000) == Complete()


def test_a_round_waits_a_while_for_clients_that_may_be_on_their_way_back() -> None:
    first_back = situation(round=round_record(phase=Phase.PUBLISHED), live=1, short_since_ms=5_000)
    assert decide(first_back, 6_000) == Wait(125_000)
    assert decide(first_back, 125_000) == OpenRound(2, evaluation=False)


def test_an_outage_of_the_server_is_not_held_against_the_clients() -> None:
    waiting = situation(status=JobStatus.WAITING, live=0, created_ms=0, watched_since_ms=500_000)
    assert decide(waiting, 500_001) == Wait(560_000)


@pytest.mark.parametrize("status", [JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED])
def test_nothing_happens_to_a_job_that_is_over(status: JobStatus) -> None:
    assert decide(situation(status=status, round=round_record(), accepted=4), 10**9) == Over()


@given(
    status=st.sampled_from(JobStatus),
    number=st.integers(0, 4),
    phase=st.sampled_from(Phase),
    evaluation=st.booleans(),
    accepted=st.integers(0, 4),
    live=st.integers(0, 4),
    now=st.integers(0, 10**6),
)
def test_every_wait_ends_in_the_future_and_everything_else_acts(
    status: JobStatus, number: int, phase: Phase, evaluation: bool, accepted: int, live: int, now: int
) -> None:
    current = round_record(number, phase, evaluation=evaluation) if number else None
    decision = decide(situation(status=status, round=current, accepted=accepted, live=live), now)
    if isinstance(decision, Wait):
        assert now < decision.until_ms <= max(11_000, now) + 120_000
    assert isinstance(decision, Over) == status.over


@pytest.mark.parametrize(("number", "said"), [(1, "no better"), (2, "no better"), (3, "")])
def test_a_job_that_should_stop_evaluates_instead_of_opening_a_round(number: int, said: str) -> None:
    published = round_record(number, Phase.PUBLISHED)
    assert decide(situation(round=published, stop="no better"), 10) == Evaluate(said)
    quick = parse_job({**json.loads(spec().canonical()), "evaluation": {"final": False}})
    assert decide(situation(spec=quick, round=published, stop="no better"), 10) == Complete(said)


def test_why_a_job_ended_early_is_still_said_when_it_is_complete() -> None:
    done = round_record(2, Phase.PUBLISHED, evaluation=True)
    evaluating = {"status": JobStatus.EVALUATING, "reason": "no better"}
    assert decide(situation(round=done, **evaluating), 10) == Complete("no better")
    gone = situation(round=round_record(1, Phase.PUBLISHED), live=0, short_since_ms=0, **evaluating)
    assert decide(gone, 60_000) == Complete("no better")


def test_a_round_that_is_open_is_not_stopped() -> None:
    assert decide(situation(round=round_record(2), stop="no better"), 2000) == Wait(11_000)
