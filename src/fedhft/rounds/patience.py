"""How often a step of a job may fail before the job fails."""

from __future__ import annotations

from fedhft.errors import ErrorCode, FedhftError

MOST_FAILURES = 5
"""Consecutive failures of a step, in ways that retrying cannot fix, after which the job fails."""


def is_passing(error: FedhftError) -> bool:
    """Whether the failure is transient: the store is away, or another replica took over meanwhile."""
    return error.outcome.retryable or error.code in (ErrorCode.FENCED, ErrorCode.ROUND_CLOSED)


def failures_after(failures: int, error: FedhftError) -> int:
    """Consecutive failures that count, including this one; a transient failure resets the count."""
    return 0 if is_passing(error) else failures + 1


def gives_up(failures: int) -> bool:
    """Whether so many consecutive failures end the job."""
    return failures >= MOST_FAILURES
