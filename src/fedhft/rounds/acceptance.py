"""Whether an update, or a report of scores, may be accepted, as far as job, plan and bytes tell.

    check_header -> Awaited -> check_blob -> update_record          an update
    check_evaluation -> evaluation_record                           scores of the final evaluation

Pure, and used both for agents over sockets and for simulated clients. Whether the client holds its lease, and whether
the update was sent before, is checked by the store (in one atomic script).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fedhft.adapter import AdapterSchema, MaskedDelta, TensorKey
from fedhft.aggregation.direction import NOTHING, Measured
from fedhft.errors import ErrorCode, FedhftError
from fedhft.job import JobSpec
from fedhft.methods import Combine
from fedhft.plan import AdapterPlan, sent_parts
from fedhft.records import JobRecord, Participant, RoundRecord, UpdateRecord
from fedhft.rounds.reports import check_report, write_report
from fedhft.v1 import adapter_pb2, federation_pb2
from fedhft.wire.codec import decode

LARGEST_NORM = 1e6
"""Largest norm of any update, whatever the job says. No trained adapter comes near it, and products, means and sums of
values below it stay finite in float32 over every round a job can have."""
_SLACK_BYTES = 4096
"""Allowance for headers, masks of tiny matrices and zstd frames, which even an update without rows has."""


@dataclass(frozen=True)
class Allowed:
    """What an update under a plan may carry.

    rows: most rows of every tensor, in wire order. values: most float values in all.
    """

    rows: Mapping[TensorKey, int]
    values: int


def allowed(spec: JobSpec, schema: AdapterSchema, plan: AdapterPlan) -> Allowed:
    """What an update under this plan may carry; worked out once per plan and schema."""
    key = (spec.method.combine, spec.method.uses_adapters, plan)
    known: Allowed | None = schema.allowed.get(key)
    if known is None:
        keys = _expected_keys(spec, schema, plan)
        rows = {tensor: plan.rows_allowed(tensor, schema) for tensor in keys}
        known = Allowed(rows, sum(count * plan.shape(tensor, schema)[1] for tensor, count in rows.items()))
        schema.allowed[key] = known
    return known


def expected_keys(spec: JobSpec, schema: AdapterSchema, plan: AdapterPlan) -> tuple[TensorKey, ...]:
    """Every tensor an update under this plan may carry, in wire order."""
    return tuple(allowed(spec, schema, plan).rows)


def _expected_keys(spec: JobSpec, schema: AdapterSchema, plan: AdapterPlan) -> tuple[TensorKey, ...]:
    parts = sent_parts(spec.method)
    return tuple(key for key in schema.keys if key.part in parts and plan.trains(key, schema))


def largest_values(spec: JobSpec, schema: AdapterSchema, plan: AdapterPlan) -> int:
    """Most float values an update under this plan may carry."""
    return allowed(spec, schema, plan).values


def largest_update(spec: JobSpec, schema: AdapterSchema, plan: AdapterPlan) -> int:
    """Most bytes an update under this plan may have: limits.update_bytes, else twice its values in fp32.

    0 where nothing is shared.
    """
    if spec.method.combine is Combine.NONE:
        return 0
    if spec.limits.update_bytes:
        return spec.limits.update_bytes
    return 2 * 4 * largest_values(spec, schema, plan) + _SLACK_BYTES


@dataclass(frozen=True)
class Awaited:
    """What the open round expects from one client."""

    spec: JobSpec
    schema: AdapterSchema
    base_version: int
    part: Participant
    opened_ms: int = 0
    """When the round opened, by the store's clock."""

    @property
    def plan(self) -> AdapterPlan:
        """What the client was asked to train."""
        return self.part.plan


def check_header(
    job: JobRecord,
    spec: JobSpec,
    schema: AdapterSchema | None,
    current: RoundRecord | None,
    client: str,
    header: federation_pb2.UpdateHeader,
) -> Awaited:
    """Check an update's header, before any tensor byte is read; returns what the round expects.

    Raises FedhftError: JOB_NOT_RUNNING, ROUND_CLOSED, STALE_VERSION, NOT_PARTICIPANT, MALFORMED_UPDATE,
    UPDATE_TOO_LARGE, and what `check_report` raises.
    """
    if job.status.over:
        raise FedhftError(ErrorCode.JOB_NOT_RUNNING, f"job {job.job} is {job.status}: {job.reason or 'it has ended'}")
    if current is None or schema is None or header.round != current.number:
        open_now = 0 if current is None else current.number
        raise FedhftError(
            ErrorCode.ROUND_CLOSED,
            f"round = {header.round}: the job is at round {open_now}; ask NextTask for the current one",
        )
    if current.evaluation:
        raise FedhftError(
            ErrorCode.ROUND_CLOSED, f"round {header.round} is the final evaluation and takes no updates; ask NextTask"
        )
    if header.base_version != current.base_version:
        raise FedhftError.field(
            ErrorCode.STALE_VERSION, "base_version", header.base_version,
            f"round {current.number} starts from version {current.base_version}", "train the task from NextTask",
        )  # fmt: skip
    check_report(spec, header.scores, header.measurements, header.signature)
    if client not in current.participants:
        raise FedhftError(
            ErrorCode.NOT_PARTICIPANT,
            f"client {client} is not a participant of round {header.round}; ask NextTask for a task",
        )
    awaited = Awaited(spec, schema, current.base_version, current.participants[client], current.opened_ms)
    _check_size(awaited, header)
    return awaited


def _check_size(awaited: Awaited, header: federation_pb2.UpdateHeader) -> None:
    if len(header.digest) not in (0, 32):
        raise FedhftError(
            ErrorCode.MALFORMED_UPDATE, f"digest has {len(header.digest)} bytes; send the 32 bytes of a SHA-256"
        )
    bound = largest_update(awaited.spec, awaited.schema, awaited.plan)
    if header.size > bound:
        raise FedhftError.field(
            ErrorCode.UPDATE_TOO_LARGE, "size", header.size, f"the plan allows {bound} bytes",
            "send only the rows of the plan, or raise limits.update_bytes",
        )  # fmt: skip
    if (header.size == 0) != (bound == 0) or (header.size > 0) != (len(header.digest) == 32):
        raise FedhftError.field(
            ErrorCode.MALFORMED_UPDATE, "size", header.size, "does not fit the job's method or the digest",
            "methods that share nothing send size 0 and no digest, all others both",
        )  # fmt: skip


def check_blob(awaited: Awaited, data: bytes) -> MaskedDelta:
    """The update in a blob, decoded and checked against its plan.

    Raises FedhftError: what `decode` and `check_update` raise, and MALFORMED_UPDATE for another base version.
    """
    most = largest_values(awaited.spec, awaited.schema, awaited.plan)
    blob = decode(data, awaited.schema, kind=adapter_pb2.BLOB_KIND_UPDATE, max_values=most)
    check_update(awaited.spec, awaited.schema, awaited.plan, blob.delta)
    if blob.version != awaited.base_version:
        raise FedhftError.field(
            ErrorCode.MALFORMED_UPDATE, "version of the blob", blob.version,
            f"the header says base_version = {awaited.base_version}", "send the update of this round",
        )  # fmt: skip
    return blob.delta


def check_update(spec: JobSpec, schema: AdapterSchema, plan: AdapterPlan, delta: MaskedDelta) -> None:
    """Check a delta against its plan and the job's limits.

    Raises FedhftError: OUTSIDE_PLAN, WRONG_SHAPE, NON_FINITE, NORM_TOO_LARGE, MALFORMED_UPDATE (no tensors).
    """
    expected = allowed(spec, schema, plan).rows
    if not delta.tensors:
        raise FedhftError(ErrorCode.MALFORMED_UPDATE, "the update carries no tensors; send at least the task head")
    for key, matrix in delta:
        if key not in expected:
            raise FedhftError(
                ErrorCode.OUTSIDE_PLAN,
                f"tensor {key.part}:{key.name} is not in this client's plan (depth {plan.depth}, train_a = "
                f"{plan.train_a}, train_b = {plan.train_b}); send only what the task's plan names",
            )
        rows, cols = plan.shape(key, schema)
        fewer = spec.training.rank_decay < 1 and 1 <= matrix.cols < cols  # given up by the client itself
        if matrix.rows != rows or not (matrix.cols == cols or fewer):
            raise FedhftError(
                ErrorCode.WRONG_SHAPE,
                f"tensor {key.part}:{key.name} is {matrix.rows} x {matrix.cols}, the plan has {rows} x {cols}; "
                "build the adapter from the job's schema, with the columns of the plan",
            )
        if matrix.kept > expected[key]:
            raise FedhftError(
                ErrorCode.OUTSIDE_PLAN,
                f"tensor {key.part}:{key.name} carries {matrix.kept} rows, density {plan.density:g} allows "
                f"{expected[key]}; choose fewer rows",
            )
    if not delta.finite():
        raise FedhftError(
            ErrorCode.NON_FINITE,
            "the update holds NaN or infinite values; lower training.learning_rate or check the local data",
        )
    bound = min(spec.limits.update_norm or LARGEST_NORM, LARGEST_NORM)
    if (norm := delta.norm()) > bound:
        raise FedhftError(
            ErrorCode.NORM_TOO_LARGE,
            f"the update's norm {norm:.4g} exceeds limits.update_norm = {bound:g}; lower training.learning_rate",
        )


def update_record(
    client: str,
    header: federation_pb2.UpdateHeader,
    part: Participant,
    measured: Measured = NOTHING,
    seconds: float | None = None,
) -> UpdateRecord:
    """The record of a checked update. Its sample count is the one pinned with the plan.

    seconds: from the round's opening to when the update was here.
    """
    return UpdateRecord(
        client=client,
        round=header.round,
        base_version=header.base_version,
        digest=header.digest.hex(),
        size=header.size,
        samples=part.samples,
        norm=measured.norm,
        seconds=seconds,
        sketch=measured.sketch,
        report=write_report(header.scores, header.measurements, header.signature),
    )


def check_evaluation(
    spec: JobSpec, current: RoundRecord | None, report: federation_pb2.ReportEvaluationRequest
) -> None:
    """Check that scores are for the open final evaluation. Raises ROUND_CLOSED, and what `check_report` raises."""
    check_report(spec, report.scores, report.measurements)
    if current is None or current.number != report.round or not current.evaluation:
        raise FedhftError(
            ErrorCode.ROUND_CLOSED, f"round {report.round} is not the open evaluation; ask NextTask for a task"
        )


def evaluation_record(
    client: str, report: federation_pb2.ReportEvaluationRequest, part: Participant | None
) -> UpdateRecord:
    """The record of a checked report; the store refuses it when the client does not take part."""
    return UpdateRecord(
        client=client,
        round=report.round,
        base_version=report.version,
        digest="",
        size=0,
        samples=part.samples if part else 0,
        report=write_report(report.scores, report.measurements),
    )
