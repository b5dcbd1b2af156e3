"""One exception tree, one table: every refusal has a code, a gRPC status and an exit code.

A message names the field, the value that was wrong and the fix. The code is the label of the refusal counter
(`fedhft_refusals_total{code=...}`), travels in the trailing metadata `fedhft-error-code`, and is what agents
and scripts branch on; the text is for people.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class ErrorCode(StrEnum):
    """Every reason for which fedhft refuses something. Stable: part of the protocol."""

    INVALID_JOB = "invalid_job"
    JOB_EXISTS = "job_exists"
    UNKNOWN_JOB = "unknown_job"
    JOB_NOT_RUNNING = "job_not_running"
    INVALID_ARGUMENT = "invalid_argument"
    INVALID_DATA = "invalid_data"
    INVALID_MODEL = "invalid_model"
    PROTOCOL_VERSION = "protocol_version"
    NOT_ENROLLED = "not_enrolled"
    LEASE_SUPERSEDED = "lease_superseded"
    NOT_AUTHORISED = "not_authorised"
    IDENTITY_MISMATCH = "identity_mismatch"
    CERTIFICATE_REVOKED = "certificate_revoked"
    NOT_JOINED = "not_joined"
    SCHEMA_MISMATCH = "schema_mismatch"
    PLAN_TOO_LARGE = "plan_too_large"
    NOT_PARTICIPANT = "not_participant"
    ROUND_CLOSED = "round_closed"
    STALE_VERSION = "stale_version"
    UPDATE_CONFLICT = "update_conflict"
    MALFORMED_UPDATE = "malformed_update"
    WRONG_SHAPE = "wrong_shape"
    OUTSIDE_PLAN = "outside_plan"
    NON_FINITE = "non_finite"
    NORM_TOO_LARGE = "norm_too_large"
    UPDATE_TOO_LARGE = "update_too_large"
    DIGEST_MISMATCH = "digest_mismatch"
    TRUNCATED_STREAM = "truncated_stream"
    WRONG_OFFSET = "wrong_offset"
    UNKNOWN_BLOB = "unknown_blob"
    STORE_UNAVAILABLE = "store_unavailable"
    STORE_FULL = "store_full"
    SERVER_UNAVAILABLE = "server_unavailable"
    SERVER_UNTRUSTED = "server_untrusted"
    SERVER_CERTIFICATE_EXPIRED = "server_certificate_expired"
    SERVER_CERTIFICATE_NOT_YET_VALID = "server_certificate_not_yet_valid"
    SERVER_NAME_MISMATCH = "server_name_mismatch"
    CLIENT_CERTIFICATE_REFUSED = "client_certificate_refused"
    SERVER_WITHOUT_TLS = "server_without_tls"
    SERVER_NEEDS_TLS = "server_needs_tls"
    PROXY_REFUSED = "proxy_refused"
    TLS_FILE_NOT_PEM = "tls_file_not_pem"
    TLS_KEY_MISMATCH = "tls_key_mismatch"
    FENCED = "fenced"
    JOB_FAILED = "job_failed"
    JOB_RUNNING = "job_running"
    DECLINED = "declined"
    TOO_MANY_JOBS = "too_many_jobs"
    FOLD_TOO_LARGE = "fold_too_large"
    EXPORT_DIFFERS = "export_differs"
    DEVICE_FAILED = "device_failed"
    DAMAGED_BLOB = "damaged_blob"
    DAMAGED_RECORD = "damaged_record"
    INTERNAL = "internal"


class Outcome(NamedTuple):
    """How one error code appears to callers and shells."""

    grpc_status: str
    """Name of the grpc.StatusCode member."""
    exit_code: int
    """Exit code of the command line."""
    retryable: bool
    """Whether the same call may succeed later without anybody changing anything."""


OUTCOMES: dict[ErrorCode, Outcome] = {
    ErrorCode.INVALID_JOB: Outcome("INVALID_ARGUMENT", 10, False),
    ErrorCode.JOB_EXISTS: Outcome("ALREADY_EXISTS", 11, False),
    ErrorCode.UNKNOWN_JOB: Outcome("NOT_FOUND", 12, False),
    ErrorCode.JOB_NOT_RUNNING: Outcome("FAILED_PRECONDITION", 13, False),
    ErrorCode.INVALID_ARGUMENT: Outcome("INVALID_ARGUMENT", 14, False),
    ErrorCode.INVALID_DATA: Outcome("INVALID_ARGUMENT", 15, False),
    ErrorCode.INVALID_MODEL: Outcome("INVALID_ARGUMENT", 16, False),
    ErrorCode.PROTOCOL_VERSION: Outcome("FAILED_PRECONDITION", 17, False),
    ErrorCode.NOT_ENROLLED: Outcome("UNAUTHENTICATED", 18, False),
    ErrorCode.LEASE_SUPERSEDED: Outcome("ABORTED", 19, False),
    ErrorCode.NOT_AUTHORISED: Outcome("PERMISSION_DENIED", 20, False),
    ErrorCode.IDENTITY_MISMATCH: Outcome("PERMISSION_DENIED", 50, False),
    ErrorCode.CERTIFICATE_REVOKED: Outcome("PERMISSION_DENIED", 51, False),
    ErrorCode.NOT_JOINED: Outcome("FAILED_PRECONDITION", 21, False),
    ErrorCode.SCHEMA_MISMATCH: Outcome("FAILED_PRECONDITION", 22, False),
    ErrorCode.PLAN_TOO_LARGE: Outcome("FAILED_PRECONDITION", 23, False),
    ErrorCode.NOT_PARTICIPANT: Outcome("FAILED_PRECONDITION", 24, False),
    ErrorCode.ROUND_CLOSED: Outcome("FAILED_PRECONDITION", 25, False),
    ErrorCode.STALE_VERSION: Outcome("FAILED_PRECONDITION", 26, False),
    ErrorCode.UPDATE_CONFLICT: Outcome("ALREADY_EXISTS", 27, False),
    ErrorCode.MALFORMED_UPDATE: Outcome("INVALID_ARGUMENT", 28, False),
    ErrorCode.WRONG_SHAPE: Outcome("INVALID_ARGUMENT", 29, False),
    ErrorCode.OUTSIDE_PLAN: Outcome("INVALID_ARGUMENT", 30, False),
    ErrorCode.NON_FINITE: Outcome("INVALID_ARGUMENT", 31, False),
    ErrorCode.NORM_TOO_LARGE: Outcome("INVALID_ARGUMENT", 32, False),
    ErrorCode.UPDATE_TOO_LARGE: Outcome("INVALID_ARGUMENT", 33, False),
    ErrorCode.DIGEST_MISMATCH: Outcome("DATA_LOSS", 34, True),
    ErrorCode.TRUNCATED_STREAM: Outcome("DATA_LOSS", 35, True),
    ErrorCode.WRONG_OFFSET: Outcome("OUT_OF_RANGE", 36, True),
    ErrorCode.UNKNOWN_BLOB: Outcome("NOT_FOUND", 37, False),
    ErrorCode.STORE_UNAVAILABLE: Outcome("UNAVAILABLE", 38, True),
    ErrorCode.STORE_FULL: Outcome("RESOURCE_EXHAUSTED", 39, True),
    ErrorCode.SERVER_UNAVAILABLE: Outcome("UNAVAILABLE", 40, True),
    ErrorCode.SERVER_UNTRUSTED: Outcome("UNAVAILABLE", 52, False),
    ErrorCode.SERVER_CERTIFICATE_EXPIRED: Outcome("UNAVAILABLE", 53, False),
    ErrorCode.SERVER_CERTIFICATE_NOT_YET_VALID: Outcome("UNAVAILABLE", 54, False),
    ErrorCode.SERVER_NAME_MISMATCH: Outcome("UNAVAILABLE", 55, False),
    ErrorCode.CLIENT_CERTIFICATE_REFUSED: Outcome("UNAVAILABLE", 56, False),
    ErrorCode.SERVER_WITHOUT_TLS: Outcome("UNAVAILABLE", 57, False),
    ErrorCode.SERVER_NEEDS_TLS: Outcome("UNAVAILABLE", 58, False),
    ErrorCode.PROXY_REFUSED: Outcome("UNAVAILABLE", 59, False),
    ErrorCode.TLS_FILE_NOT_PEM: Outcome("INVALID_ARGUMENT", 64, False),
    ErrorCode.TLS_KEY_MISMATCH: Outcome("INVALID_ARGUMENT", 65, False),
    ErrorCode.FENCED: Outcome("ABORTED", 41, False),
    ErrorCode.JOB_FAILED: Outcome("FAILED_PRECONDITION", 42, False),
    ErrorCode.JOB_RUNNING: Outcome("FAILED_PRECONDITION", 43, False),
    ErrorCode.DECLINED: Outcome("FAILED_PRECONDITION", 66, False),
    ErrorCode.TOO_MANY_JOBS: Outcome("RESOURCE_EXHAUSTED", 63, True),
    ErrorCode.FOLD_TOO_LARGE: Outcome("FAILED_PRECONDITION", 60, False),
    ErrorCode.EXPORT_DIFFERS: Outcome("INTERNAL", 67, False),
    ErrorCode.DEVICE_FAILED: Outcome("UNAVAILABLE", 68, True),
    ErrorCode.DAMAGED_BLOB: Outcome("DATA_LOSS", 61, True),
    ErrorCode.DAMAGED_RECORD: Outcome("DATA_LOSS", 62, False),
    ErrorCode.INTERNAL: Outcome("INTERNAL", 70, False),
}


LONGEST_MESSAGE = 4000
"""Most characters of a message: whatever a stranger sent is quoted in it, and gRPC carries no more than 8 KiB."""


class FedhftError(Exception):
    """A refusal with a code. `str(error)` is what a person reads: what is wrong, where, and how to fix it."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        if len(message) > LONGEST_MESSAGE:
            message = message[: LONGEST_MESSAGE - 3] + "..."
        super().__init__(message)
        self.code = code
        self.message = message

    @property
    def outcome(self) -> Outcome:
        """gRPC status, exit code and retryability of this error."""
        return OUTCOMES[self.code]

    @classmethod
    def field(cls, code: ErrorCode, field: str, value: object, problem: str, fix: str) -> FedhftError:
        """Build the standard sentence: field, value, what is wrong with it, what to do."""
        shown = repr(value)
        if len(shown) > 80:
            shown = shown[:77] + "..."
        return cls(code, f"{field} = {shown}: {problem}; {fix}")
