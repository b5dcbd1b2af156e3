"""docs/exit-codes.md: every refusal, when it is seen and what to do."""

from __future__ import annotations

from collections.abc import Mapping

from fedhft.errors import OUTCOMES, ErrorCode
from generated_pages.tables import NOTE, cell, table

WHEN: Mapping[ErrorCode, tuple[str, str]] = {
    ErrorCode.INVALID_JOB: (
        "the job file is not TOML, or has an unknown key or an impossible value",
        "fix the field it names",
    ),
    ErrorCode.JOB_EXISTS: (
        "another job has this name",
        "choose another name; submitting the identical job again is fine",
    ),
    ErrorCode.UNKNOWN_JOB: ("no job has this name", "see `fedhft job list`"),
    ErrorCode.JOB_NOT_RUNNING: (
        "the job is over, or has nothing to export yet; an agent for one job: that job was cancelled",
        "see `fedhft job get`",
    ),
    ErrorCode.INVALID_ARGUMENT: ("an option, an id or a field of a call is wrong", "the message names field and fix"),
    ErrorCode.INVALID_DATA: (
        "a data file is missing, empty, lacks a column or has an unknown label",
        "the message names file, line and column",
    ),
    ErrorCode.INVALID_MODEL: (
        "the base model's folder is not a model, has no safetensors or tokenizer, or is not the one the job pins",
        "give a folder written by `save_pretrained`, or the pinned model",
    ),
    ErrorCode.PROTOCOL_VERSION: ("agent and server speak different versions", "install matching releases"),
    ErrorCode.NOT_ENROLLED: ("the server does not know the agent", "none needed: agents enrol again by themselves"),
    ErrorCode.LEASE_SUPERSEDED: (
        "another agent enrolled under the same client id",
        "stop one of the two, or give each its own id",
    ),
    ErrorCode.NOT_AUTHORISED: (
        "the client is not among the job's `clients`; or the caller's certificate has another role than the method is "
        "for, another trust domain, no identity, or has expired",
        "ask the job's owner to add it; use the certificate of that role",
    ),
    ErrorCode.IDENTITY_MISMATCH: (
        "an agent named a client whose certificate it does not have",
        "run it as the client of its certificate",
    ),
    ErrorCode.CERTIFICATE_REVOKED: (
        "the caller's certificate is on the deny list",
        "ask the authority's owner; a new certificate is let in",
    ),
    ErrorCode.NOT_JOINED: ("the client is not in the job", "none needed: agents join again by themselves"),
    ErrorCode.SCHEMA_MISMATCH: (
        "the agent's model, tokenizer, slots or labels differ from the job's",
        "use the job's base model and labels; the message names the difference",
    ),
    ErrorCode.PLAN_TOO_LARGE: (
        "the agent's memory is too small for its plan or for every tier",
        "give more memory, or add a smaller tier",
    ),
    ErrorCode.NOT_PARTICIPANT: (
        "the client is not a participant of this round (was not sampled)",
        "none: the agent asks for its next task",
    ),
    ErrorCode.ROUND_CLOSED: ("the update came after its round closed", "none: the agent drops it and goes on"),
    ErrorCode.STALE_VERSION: ("the update starts from another version than the round", "none: the agent asks again"),
    ErrorCode.UPDATE_CONFLICT: ("the client already has another update in this round", "none: the first one stands"),
    ErrorCode.MALFORMED_UPDATE: ("the bytes of a blob cannot be read", "use matching releases"),
    ErrorCode.WRONG_SHAPE: ("a tensor does not fit the job's schema", "use the job's base model and rank"),
    ErrorCode.OUTSIDE_PLAN: ("the update carries tensors or rows outside its plan", "use matching releases"),
    ErrorCode.NON_FINITE: ("values are NaN or infinite", "lower `training.learning_rate`, or check the data"),
    ErrorCode.NORM_TOO_LARGE: ("the update's norm exceeds `limits.update_norm`", "lower `training.learning_rate`"),
    ErrorCode.UPDATE_TOO_LARGE: (
        "the update has more bytes than allowed, or more values than its plan trains",
        "bytes: raise `limits.update_bytes`; values: send the rows of the plan",
    ),
    ErrorCode.DIGEST_MISMATCH: ("the bytes received are not those announced", "none: the transfer is repeated"),
    ErrorCode.TRUNCATED_STREAM: ("a stream ended early", "none: the transfer is resumed"),
    ErrorCode.WRONG_OFFSET: ("a chunk does not begin where the last one ended", "none: the transfer is resumed"),
    ErrorCode.UNKNOWN_BLOB: ("the blob is not published, or no longer", "none: the agent asks for its task again"),
    ErrorCode.STORE_UNAVAILABLE: ("Redis (or the blob directory) does not answer", "start it; callers try again"),
    ErrorCode.STORE_FULL: ("Redis is out of memory, or the disk is full", "free some space; callers try again"),
    ErrorCode.SERVER_UNAVAILABLE: ("the server does not answer, or is at capacity", "check address and process"),
    ErrorCode.SERVER_UNTRUSTED: (
        "the server's certificate is not signed by `--tls-authority`, or the authority has expired",
        "check that it is the right server; give the `ca.crt` of its authority",
    ),
    ErrorCode.SERVER_CERTIFICATE_EXPIRED: (
        "the server's certificate has expired, by this machine's clock",
        "renew it at the server; the message has the date",
    ),
    ErrorCode.SERVER_CERTIFICATE_NOT_YET_VALID: (
        "the server's certificate is not yet valid, by this machine's clock",
        "compare the clocks; the message has both dates",
    ),
    ErrorCode.SERVER_NAME_MISMATCH: (
        "the server is reached by a name or address that its certificate is not for",
        "use a name of the certificate (the message has them), or renew it with `--host`",
    ),
    ErrorCode.CLIENT_CERTIFICATE_REFUSED: (
        "the server requires a certificate of its callers, and none was given, or it does not accept the one given",
        "give `--tls-certificate` and `--tls-key` of the server's authority, not expired",
    ),
    ErrorCode.SERVER_WITHOUT_TLS: (
        "this side uses TLS and the server does not",
        "give the server its certificate and key, or leave out the TLS files here",
    ),
    ErrorCode.SERVER_NEEDS_TLS: ("the server uses TLS and this side does not", "give `--tls-authority`"),
    ErrorCode.PROXY_REFUSED: (
        "the proxy that `grpc_proxy`, `https_proxy` or `http_proxy` names cannot be reached, or does not let through",
        "put the server's host into `no_proxy`, or ask who runs the proxy",
    ),
    ErrorCode.TLS_FILE_NOT_PEM: (
        "a TLS file of this side is not PEM, or is damaged",
        "give files in PEM; the message has the command that converts one",
    ),
    ErrorCode.TLS_KEY_MISMATCH: (
        "`--tls-key` is not the key of `--tls-certificate`",
        "give the pair that was issued together",
    ),
    ErrorCode.FENCED: ("a coordinator lost its lease; seen by aggregators only", "none: the next holder goes on"),
    ErrorCode.JOB_FAILED: ("the job ended without a result", "`fedhft job get` has the reason"),
    ErrorCode.DECLINED: (
        "the job breaks a rule of the agent's owner; the message names every one",
        "change the job, or ask the owner; see [what an owner decides](operations.md#what-an-owner-decides)",
    ),
    ErrorCode.JOB_RUNNING: (
        "a job that is not over is to be deleted",
        "cancel it first, or `fedhft job delete --force`",
    ),
    ErrorCode.TOO_MANY_JOBS: (
        "as many unfinished jobs as the server drives",
        "wait for one to end, or `fedhft job cancel` or `delete` one",
    ),
    ErrorCode.FOLD_TOO_LARGE: (
        "folding the client's schema could take more than `limits.fold_memory`",
        "use the job's base model, or submit the job with a larger limit",
    ),
    ErrorCode.EXPORT_DIFFERS: (
        "an exported adapter, loaded with plain transformers and PEFT, does not answer as what was trained",
        "do not use it; report it with the versions of transformers and peft; `--no-check` writes it all the same",
    ),
    ErrorCode.DEVICE_FAILED: (
        "the agent's accelerator failed in the middle of work, or has not come back since",
        "none: the agent stays and tries again; where it does not come back, see the system's log and the driver",
    ),
    ErrorCode.DAMAGED_BLOB: (
        "the store holds other bytes under a digest than were stored",
        "check the disk or memory of the store; restore the blob",
    ),
    ErrorCode.DAMAGED_RECORD: ("a record in the store cannot be read", "restore the store"),
    ErrorCode.INTERNAL: ("a defect; the message has a number that the server's log explains", "report it"),
}
"""When each code is seen, and what to do."""


def exit_codes() -> str:
    """docs/exit-codes.md: every refusal with its exit code, gRPC status and what to do."""
    rows = []
    for code in ErrorCode:
        outcome = OUTCOMES[code]
        seen, fix = WHEN[code]
        again = "yes" if outcome.retryable else "no"
        rows.append((f"{outcome.exit_code}", f"`{code.value}`", f"`{outcome.grpc_status}`", again, cell(seen), fix))
    heads = ("exit", "code", "gRPC status", "try again", "seen when", "what to do")
    return "\n\n".join([NOTE, "# Exit codes and refusals", _EXIT_INTRO, table(heads, rows)]) + "\n"


_EXIT_INTRO = """\
Every refusal has a code. The code is the label of the counter `fedhft_refusals_total{code="..."}`, travels with a
failed call in the trailing metadata `fedhft-error-code`, and gives commands and services their exit code. The message
is for people: it names the field, the value and the fix. *Try again* says whether the same call may succeed later
without any change; agents and the command line retry such calls by themselves.

| exit | meaning |
| --- | --- |
| 0 | done; a service or an agent was asked to stop (SIGTERM, SIGINT) |
| 1 | an unexpected defect; the traceback is on standard error |
| 2 | wrong usage: an unknown option, a missing argument, a value of the wrong type |
| 130 | a command was interrupted (Ctrl-C) |
| 143 | `fedhft demo` was asked to stop (SIGTERM) |

`fedhft job watch` exits with 42 unless the job completed. An agent that serves one job (`--job` or `--once`) exits
with 0 when the job completed, 42 when it failed and 13 when it was cancelled."""
