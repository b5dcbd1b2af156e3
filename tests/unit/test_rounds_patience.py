"""What a failure means to a job."""

from __future__ import annotations

import pytest

from fedhft.errors import ErrorCode, FedhftError
from fedhft.ids import ClientId
from fedhft.records import Attempt
from fedhft.rounds.patience import LONGEST_PAUSE_S, Failure, culprits, failure_of, is_at_fault, pause_bound_s


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (FedhftError(ErrorCode.FENCED, ""), Failure.PASSING),
        (FedhftError(ErrorCode.ROUND_CLOSED, ""), Failure.PASSING),
        (FedhftError(ErrorCode.JOB_NOT_RUNNING, ""), Failure.PASSING),
        (FedhftError(ErrorCode.STORE_UNAVAILABLE, ""), Failure.SURROUNDINGS),
        (FedhftError(ErrorCode.STORE_FULL, ""), Failure.SURROUNDINGS),
        (FedhftError(ErrorCode.SERVER_UNAVAILABLE, ""), Failure.SURROUNDINGS),
        (FedhftError(ErrorCode.UNKNOWN_BLOB, ""), Failure.SURROUNDINGS),
        (OSError("no space left"), Failure.SURROUNDINGS),
        (TimeoutError(), Failure.SURROUNDINGS),
        (MemoryError(), Failure.SURROUNDINGS),
        (FedhftError(ErrorCode.INTERNAL, ""), Failure.DEFECT),
        (FedhftError(ErrorCode.MALFORMED_UPDATE, ""), Failure.DEFECT),
        (ValueError(), Failure.DEFECT),
    ],
)
def test_every_failure_is_of_one_kind(error: Exception, kind: Failure) -> None:
    assert failure_of(error) is kind


@pytest.mark.parametrize(
    ("error", "at_fault"),
    [
        (FedhftError(ErrorCode.UNKNOWN_BLOB, ""), True),
        (FedhftError(ErrorCode.DAMAGED_BLOB, ""), True),
        (FedhftError(ErrorCode.MALFORMED_UPDATE, ""), True),
        (IndexError(), True),
        (FedhftError(ErrorCode.STORE_UNAVAILABLE, ""), False),
        (FedhftError(ErrorCode.FENCED, ""), False),
        (OSError(), False),
        (MemoryError(), False),
    ],
)
def test_an_update_is_at_fault_for_what_is_in_it_and_not_for_where_it_was(error: Exception, at_fault: bool) -> None:
    assert is_at_fault(error) is at_fault


def test_pauses_double_up_to_a_longest_one() -> None:
    assert [pause_bound_s(n) for n in (1, 2, 3, 5, 6, 10_000)] == [1, 2, 4, 16, LONGEST_PAUSE_S, LONGEST_PAUSE_S]


def test_whoever_was_being_folded_when_two_attempts_ended_is_the_culprit() -> None:
    a, b, c = ClientId("a"), ClientId("b"), ClientId("c")
    assert culprits(Attempt(4, {c: 2, a: 1, b: 3})) == (b, c)
    assert culprits(Attempt(4, {})) == ()
