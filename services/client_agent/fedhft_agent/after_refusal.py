"""What a refusal means to an agent: the end of a round, of a job, or of itself."""

from __future__ import annotations

from fedhft.errors import ErrorCode
from fedhft.rpc.outage import CAUSES

DECLINE_THE_JOB = frozenset({ErrorCode.DECLINED, ErrorCode.PLAN_TOO_LARGE})
"""Refusals of the agent itself: it will not, or cannot, do what the job asks. The server is told why."""
LEAVE_THE_JOB = DECLINE_THE_JOB | frozenset(
    {
        ErrorCode.SCHEMA_MISMATCH,
        ErrorCode.INVALID_MODEL,
        ErrorCode.INVALID_DATA,
        ErrorCode.INVALID_JOB,
        ErrorCode.INVALID_ARGUMENT,
        ErrorCode.PROTOCOL_VERSION,
        ErrorCode.NOT_AUTHORISED,
        ErrorCode.UNKNOWN_JOB,
        ErrorCode.FOLD_TOO_LARGE,
    }
)
"""Refusals that would be the same next round, until a person fixes something."""
LEAVE_THE_SERVER = CAUSES | frozenset(
    {
        ErrorCode.LEASE_SUPERSEDED,
        ErrorCode.IDENTITY_MISMATCH,
        ErrorCode.CERTIFICATE_REVOKED,
        ErrorCode.NOT_ENROLLED,
        ErrorCode.SERVER_UNAVAILABLE,
        ErrorCode.STORE_UNAVAILABLE,
        ErrorCode.STORE_FULL,
    }
)
"""Refusals that end the agent: another took over, its certificate is not good, the server has been away too long or
cannot be talked to."""
ASK_AGAIN = frozenset({ErrorCode.UNKNOWN_BLOB, ErrorCode.STALE_VERSION})
"""Refusals of an outdated task: the same round may succeed with a fresh task; after any other refusal it would not."""
