"""What a client reports with an update or an evaluation: checked, stored as it was sent, read back.

    check_report                            at the door: everything typed and bounded
    write_report, read_report               bytes of a message, as the store keeps them

Bounds are such that the summary of any round over accepted reports is finite and fits its message.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from google.protobuf import json_format
from google.protobuf.message import DecodeError

from fedhft.clustering.signature import check_signature
from fedhft.documents import parse_json
from fedhft.errors import ErrorCode, FedhftError
from fedhft.job import JobSpec
from fedhft.job_task import TaskSpec
from fedhft.scoring.metrics import metric
from fedhft.v1 import federation_pb2

MOST_SCORES = 8
"""Two splits, two moments, two views."""
MOST_COUNT = 1 << 47
"""Largest count of a measurement (bytes, steps): the sum over a hundred thousand clients still fits 64 bits."""
MOST_SECONDS = 1e8
MOST_LOSS = 3.5e38
"""A squared error in float32 can be as large."""
MOST_METRICS = 8
MOST_SUM = 1e90
"""Largest sum: those of a hundred thousand clients, and their squares, are finite."""
_SHOWN_SUMS = 8
_LONGEST_NAME = 256
_ROUNDING = 1e-9
"""How far rounding may take a score past its range."""

_SPLITS = frozenset(federation_pb2.Score.Split.values()) - {0}
_MOMENTS = frozenset(federation_pb2.Score.Moment.values()) - {0}
_VIEWS = frozenset(federation_pb2.Score.View.values()) - {0}
_COUNTS = tuple(
    field.name for field in federation_pb2.Measurements.DESCRIPTOR.fields if field.cpp_type == field.CPPTYPE_UINT64
)
_SECONDS = tuple(
    field.name for field in federation_pb2.Measurements.DESCRIPTOR.fields if field.cpp_type == field.CPPTYPE_DOUBLE
)


def check_report(
    spec: JobSpec,
    scores: Sequence[federation_pb2.Score],
    figures: federation_pb2.Measurements,
    signature: Sequence[float] = (),
) -> None:
    """Check that a round can be summarised, and clients clustered, with these figures.

    Raises FedhftError: NON_FINITE; INVALID_ARGUMENT naming the field.
    """
    if len(scores) > MOST_SCORES:
        _refuse("scores", f"{len(scores)} scores", f"at most {MOST_SCORES} are of use", "send one per kind of score")
    seen: set[tuple[int, int, int]] = set()
    for place, score in enumerate(scores):
        _check_score(spec, score, f"scores[{place}]")
        kind = (score.split, score.moment, score.view)
        if kind in seen:
            _refuse(f"scores[{place}]", kind, "has the split, moment and view of another score", "send each once")
        seen.add(kind)
    for name in _SECONDS:
        seconds = getattr(figures, name)
        _check_number(f"measurements.{name}", seconds, 0.0, MOST_SECONDS)
    for name in _COUNTS:
        _check_number(f"measurements.{name}", getattr(figures, name), 0, MOST_COUNT)
    if signature:
        check_signature(signature)


def _check_score(spec: JobSpec, score: federation_pb2.Score, name: str) -> None:
    for field, value, known in (
        ("split", score.split, _SPLITS), ("moment", score.moment, _MOMENTS), ("view", score.view, _VIEWS),
    ):  # fmt: skip
        if value not in known:
            _refuse(f"{name}.{field}", value, "is not a known value", "send one that this server's release knows")
    _check_number(f"{name}.value", score.value, spec.task.least_score - _ROUNDING, 1.0 + _ROUNDING)
    _check_number(f"{name}.majority", score.majority, 0.0, 1.0 + _ROUNDING)
    _check_number(f"{name}.loss", score.loss, 0.0, MOST_LOSS)
    _check_number(f"{name}.rows", score.rows, 0, spec.limits.samples)
    _check_metrics(spec, score, name)


def _check_metrics(spec: JobSpec, score: federation_pb2.Score, name: str) -> None:
    """Metrics are the job's, each once and in its range; sums are as many as the kind of task has."""
    task = spec.task
    seen: set[str] = set()
    for place, one in enumerate(score.metrics):
        field = f"{name}.metrics[{place}]"
        if one.name in seen or len(seen) == MOST_METRICS or not _is_metric(task, one.name):
            _refuse(f"{field}.name", one.name[:_LONGEST_NAME], "is not one more of the job's metrics",
                    f"send {', '.join(task.measured) or 'what the task measures'}, each once")  # fmt: skip
        seen.add(one.name)
        bounds = metric(one.name)
        for part, value in (("value", one.value), ("floor", one.floor)):
            _check_number(f"{field}.{part}", value, bounds.least - _ROUNDING, bounds.most + _ROUNDING)
    if score.sums and len(score.sums) != task.sums:
        _refuse(f"{name}.sums", f"{len(score.sums)} numbers", "is not what the job's kind of task sums",
                "send the sums of docs/tasks.md, or none")  # fmt: skip
    for place, value in enumerate(score.sums):
        _check_number(f"{name}.sums[{place}]", value, -MOST_SUM, MOST_SUM)
    if problem := task.sums_problem(score.sums, score.rows, spec.model.max_length):
        shown = [f"{value:g}" for value in score.sums[:_SHOWN_SUMS]]
        _refuse(f"{name}.sums", shown, f"{problem}, and rows = {score.rows}", "send what was counted on those rows")


def _is_metric(task: TaskSpec, name: str) -> bool:
    if task.measured:
        return name in task.measured
    return 0 < len(name) <= _LONGEST_NAME and name.isprintable()  # a package's own task names its own


def _check_number(name: str, value: float, least: float, most: float) -> None:
    if not math.isfinite(value):
        raise FedhftError.field(
            ErrorCode.NON_FINITE, name, value, "is not finite", "omit what was not measured, or check the local data"
        )
    if not least <= value <= most:
        _refuse(name, value, f"is not between {least:g} and {most:g}", "send what was measured")


def _refuse(name: str, value: object, problem: str, fix: str) -> None:
    raise FedhftError.field(ErrorCode.INVALID_ARGUMENT, name, value, problem, fix)


def write_report(
    scores: Sequence[federation_pb2.Score],
    measurements: federation_pb2.Measurements,
    signature: Sequence[float] = (),
) -> bytes:
    """The bytes stored with an update: an UpdateHeader with nothing but its report."""
    header = federation_pb2.UpdateHeader(scores=scores, measurements=measurements, signature=signature)
    return header.SerializeToString(deterministic=True)


def read_report(data: bytes) -> federation_pb2.UpdateHeader:
    """Inverse of write_report; also reads the JSON that earlier releases stored. Raises FedhftError(DAMAGED_RECORD)."""
    try:
        if data.startswith(b"{"):  # no field of ours begins a message with this byte
            raw = parse_json(data, "a stored report", ErrorCode.DAMAGED_RECORD)
            return json_format.ParseDict(raw, federation_pb2.UpdateHeader())
        return federation_pb2.UpdateHeader.FromString(data)
    except (DecodeError, json_format.ParseError, ValueError) as error:
        raise FedhftError(
            ErrorCode.DAMAGED_RECORD, f"a stored report of {len(data)} bytes cannot be read; restore the store"
        ) from error
