"""How often a step of a job may fail before the job is given up."""

from __future__ import annotations

from fedhft.errors import ErrorCode, FedhftError

MOST_FAILURES = 5
"""Times in a row that a step may fail in a way that repeating does not fix, before the job fails."""


def is_passing(error: FedhftError) -> bool:
    """Whether the same step may well succeed later: the store is away, or another replica took over meanwhile."""
    return error.outcome.retryable or error.code in (ErrorCode.FENCED, ErrorCode.ROUND_CLOSED)


def failures_after(failures: int, error: FedhftError) -> int:
    """Failures in a row that count, after one more. A passing one starts the count anew."""
    return 0 if is_passing(error) else failures + 1


def gives_up(failures: int) -> bool:
    """Whether a job with so many failures in a row cannot go on."""
    return failures >= MOST_FAILURES
