"""What a failure means to a job. Nothing here ends one: only a declared reason does (`decision.Fail`).

    passing        another replica took over, or the job changed meanwhile: look again
    surroundings   the store, the volume or memory failed: wait, longer each time, for as long as it takes; `blocked`
    defect         an exception that nobody foresaw: try a few times, then pause the job until a person looks; `paused`

Attempts are counted in the store before they begin, so a step that kills its process counts too. An update during
whose folding attempts keep ending is set aside, so that it does not pause the job.
"""

from __future__ import annotations

from enum import StrEnum

from fedhft.errors import ErrorCode, FedhftError
from fedhft.ids import ClientId
from fedhft.records import Attempt

MOST_ATTEMPTS = 5
"""Attempts at a step, failed by defects or by the end of the process, after which the job is paused."""

NOTED_FROM = 2
"""The attempt from which on it is noted whose update is being folded. The first is not: it hardly ever fails."""

MOST_ENDS = 2
"""Attempts that ended while one client's update was being folded, after which it is set aside."""

LONGEST_PAUSE_S = 30.0
"""Longest pause between two attempts while the surroundings fail."""


class Failure(StrEnum):
    """Kinds of failure."""

    PASSING = "passing"
    SURROUNDINGS = "surroundings"
    DEFECT = "defect"


_PASSING = frozenset({ErrorCode.FENCED, ErrorCode.ROUND_CLOSED, ErrorCode.JOB_NOT_RUNNING})
_SURROUNDINGS = frozenset({ErrorCode.STORE_UNAVAILABLE, ErrorCode.STORE_FULL, ErrorCode.SERVER_UNAVAILABLE})
_MISSING_STATE = frozenset({ErrorCode.UNKNOWN_BLOB, ErrorCode.DAMAGED_BLOB})
"""Of a published version (updates like that are set aside): as long as it is not put back, the job waits for it."""


def failure_of(error: Exception) -> Failure:
    """What kind of failure an exception of a step is."""
    if isinstance(error, FedhftError):
        if error.code in _PASSING:
            return Failure.PASSING
        return Failure.SURROUNDINGS if error.code in _SURROUNDINGS | _MISSING_STATE else Failure.DEFECT
    return Failure.SURROUNDINGS if isinstance(error, OSError | MemoryError) else Failure.DEFECT


def is_at_fault(error: Exception) -> bool:
    """Whether an exception while one update was read speaks against that update, not against where it was read from."""
    if isinstance(error, FedhftError):
        return error.code not in _SURROUNDINGS | _PASSING
    return not isinstance(error, OSError | MemoryError)


def pause_bound_s(failures: int) -> float:
    """Longest pause after so many failures in a row, seconds: 1, 2, 4 ... LONGEST_PAUSE_S."""
    return float(min(LONGEST_PAUSE_S, 2.0 ** min(failures - 1, 30)))


def culprits(attempt: Attempt) -> tuple[ClientId, ...]:
    """Clients whose updates are to be set aside because attempts kept ending while they were folded, sorted."""
    return tuple(sorted(client for client, ended in attempt.suspects.items() if ended >= MOST_ENDS))
