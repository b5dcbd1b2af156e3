"""The refusals of a store: one message each, the same from every back end."""

from __future__ import annotations

from fedhft.errors import ErrorCode, FedhftError


def unknown_job(job: str) -> FedhftError:
    """No such job."""
    return FedhftError.field(ErrorCode.UNKNOWN_JOB, "job", job, "does not exist", "see `fedhft job list`")


def job_exists(job: str) -> FedhftError:
    """The id is taken by a job with another spec."""
    return FedhftError.field(
        ErrorCode.JOB_EXISTS,
        "job",
        job,
        "exists with another specification",
        "choose another id or submit the same file",
    )


def job_not_running(job: str, status: str) -> FedhftError:
    """The job accepts no updates and opens no rounds in its present status."""
    return FedhftError.field(
        ErrorCode.JOB_NOT_RUNNING, "status", status, f"job {job} is not running", "see `fedhft job get`"
    )


def job_running(job: str, status: str) -> FedhftError:
    """The job is not over, so it is not deleted."""
    return FedhftError.field(
        ErrorCode.JOB_RUNNING, "job", job, f"is {status}", "cancel it first, or delete it with --force"
    )


def not_enrolled(client: str) -> FedhftError:
    """There is no record of the agent."""
    return FedhftError.field(ErrorCode.NOT_ENROLLED, "client", client, "is not enrolled", "enroll first")


def lease_superseded(client: str) -> FedhftError:
    """Another agent enrolled under the same name."""
    return FedhftError.field(
        ErrorCode.LEASE_SUPERSEDED,
        "client",
        client,
        "another agent enrolled under this name",
        "stop one of the two or give each its own client id; restarted by supervisors, they take turns without end",
    )


def certificate_revoked(serial: str) -> FedhftError:
    """The caller's certificate is on the deny list."""
    return FedhftError.field(
        ErrorCode.CERTIFICATE_REVOKED,
        "certificate",
        serial,
        "was revoked",
        "ask the authority's owner for a new one",
    )


def fenced(job: str, fence: int) -> FedhftError:
    """The caller's coordinator lease has ended."""
    return FedhftError.field(
        ErrorCode.FENCED,
        "fence",
        fence,
        f"is not the current token of job {job}",
        "acquire the coordinator lease again",
    )


def round_closed(job: str, number: int, state: str) -> FedhftError:
    """The round is not in the phase that the call needs; `state` says which one it is in."""
    return FedhftError.field(
        ErrorCode.ROUND_CLOSED, "round", number, f"the state of job {job} is: {state}", "ask for the next task"
    )


def not_participant(client: str, number: int) -> FedhftError:
    """The round was opened without this client."""
    return FedhftError.field(
        ErrorCode.NOT_PARTICIPANT, "client", client, f"is not a participant of round {number}", "ask for the next task"
    )


def update_conflict(client: str, number: int) -> FedhftError:
    """The client already sent another update in this round."""
    return FedhftError.field(
        ErrorCode.UPDATE_CONFLICT,
        "client",
        client,
        f"another update of round {number} is already recorded",
        "send the recorded one again or wait for the next round",
    )


def stale_version(base_version: int, expected: str) -> FedhftError:
    """The update starts from another version than the round."""
    return FedhftError.field(
        ErrorCode.STALE_VERSION,
        "base_version",
        base_version,
        f"the round starts from version {expected}",
        "pull the published version and train again",
    )


def unknown_blob(job: str, digest: str) -> FedhftError:
    """No blob with this digest."""
    return FedhftError.field(
        ErrorCode.UNKNOWN_BLOB, "digest", digest, f"job {job} has no such blob", "upload it, or ask for the next task"
    )


def damaged_blob(job: str, digest: str, size: int, found: str) -> FedhftError:
    """The stored bytes are not the ones that the blob is named after. Reading them again gives them again."""
    return FedhftError.field(
        ErrorCode.DAMAGED_BLOB,
        "digest",
        digest,
        f"the {size} bytes that the store of job {job} holds under it have SHA-256 {found}",
        "check the disk or memory of the store and restore the blob",
    )


def damaged_record(what: str, error: Exception) -> FedhftError:
    """What the store holds is not what any release writes."""
    problem = f"{type(error).__name__}: {str(error)[:300]}"
    return FedhftError(
        ErrorCode.DAMAGED_RECORD,
        f"{what} in the store cannot be read ({problem}); restore the store, or delete the job",
    )


def wrong_offset(transfer: str, offset: int, staged: int) -> FedhftError:
    """The chunk does not begin where the staged bytes end."""
    return FedhftError.field(
        ErrorCode.WRONG_OFFSET,
        "offset",
        offset,
        f"{staged} bytes of transfer {transfer} are staged",
        f"continue at offset {staged}",
    )


def digest_mismatch(transfer: str, digest: str, found: str) -> FedhftError:
    """The staged bytes are not the ones that were announced; the transfer is dropped."""
    return FedhftError.field(
        ErrorCode.DIGEST_MISMATCH,
        "digest",
        digest,
        f"the bytes of transfer {transfer} have SHA-256 {found}",
        "send them again from offset 0",
    )


def impossible_range(offset: int, length: int) -> FedhftError:
    """A negative offset, or a length under -1."""
    return FedhftError.field(
        ErrorCode.INVALID_ARGUMENT,
        "offset, length",
        (offset, length),
        "is not a range of bytes",
        "use offset >= 0, length >= -1",
    )


def impossible_digest(digest: str) -> FedhftError:
    """Not a hex SHA-256."""
    return FedhftError.field(
        ErrorCode.INVALID_ARGUMENT, "digest", digest, "is not a SHA-256", "give 64 characters of 0-9 and a-f"
    )


def wrong_membership_version(version: int, expected: int) -> FedhftError:
    """A membership record whose number does not follow the version it is to replace."""
    return FedhftError.field(
        ErrorCode.INVALID_ARGUMENT,
        "version",
        version,
        f"does not follow expected version {expected}",
        f"number it {expected + 1}",
    )


def unavailable(where: str, problem: str) -> FedhftError:
    """The back end does not answer (in time)."""
    return FedhftError.field(
        ErrorCode.STORE_UNAVAILABLE, "store", where, problem, "check that it runs and can be reached, then try again"
    )


def full(where: str, problem: str) -> FedhftError:
    """The back end has no room left. Nothing was written."""
    return FedhftError.field(
        ErrorCode.STORE_FULL, "store", where, problem, "give it more memory or disk space, then try again"
    )
