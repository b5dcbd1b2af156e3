"""When a job that keeps failing is given up."""

from __future__ import annotations

import pytest

from fedhft.errors import ErrorCode, FedhftError
from fedhft.rounds.patience import MOST_FAILURES, failures_after, gives_up


@pytest.mark.parametrize(
    ("code", "failures"),
    [
        (ErrorCode.INTERNAL, 4),
        (ErrorCode.MALFORMED_UPDATE, 4),
        (ErrorCode.UNKNOWN_BLOB, 4),
        (ErrorCode.STORE_UNAVAILABLE, 0),
        (ErrorCode.STORE_FULL, 0),
        (ErrorCode.SERVER_UNAVAILABLE, 0),
        (ErrorCode.FENCED, 0),
        (ErrorCode.ROUND_CLOSED, 0),
    ],
)
def test_failures_that_repeating_does_not_fix_add_up_and_passing_ones_start_anew(
    code: ErrorCode, failures: int
) -> None:
    assert failures_after(3, FedhftError(code, "")) == failures


@pytest.mark.parametrize(("failures", "over"), [(0, False), (1, False), (4, False), (5, True), (6, True)])
def test_five_in_a_row_are_enough(failures: int, over: bool) -> None:
    assert MOST_FAILURES == 5
    assert gives_up(failures) is over
