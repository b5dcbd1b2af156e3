"""fedhft.json beside an exported adapter: what the model card says, for programs; `fedhft predict` reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedhft.adapter import AdapterSchema
from fedhft.documents import read_json
from fedhft.errors import ErrorCode, FedhftError
from fedhft.export.mixture import ExportedMixture
from fedhft.export.scores import adapter_scores
from fedhft.job import JobSpec
from fedhft.job_task import TaskSpec
from fedhft.training.tasks import task_of
from fedhft.v1 import jobs_pb2

FILE = "fedhft.json"
_MOST_BYTES = 16 << 20


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class DescribedBase(_Part):
    """The base model. digest, tokenizer_digest: as `fedhft model digest` prints them."""

    name: str
    revision: str | None = None
    digest: str
    tokenizer_digest: str
    architecture: str


class DescribedScore(_Part):
    """A score of the adapter's own clients, before or after one more local training.

    rows: "held-out" (each client's own) or "shared" (the common validation rows). mean: over clients, of shared rows of
    a job with one cluster over rows. lowest_tenth: mean over the lowest tenth of the clients; None for shared rows.
    """

    rows: Literal["held-out", "shared"]
    moment: Literal["before", "after"]
    mean: float
    lowest_tenth: float | None = None
    loss: float | None = None


class DescribedMetric(_Part):
    """A metric of the task before local training. held_out, constant: on own rows, mean over clients, and that of the
    best constant answer; shared: on the common validation rows. None where nothing was measured.
    """

    name: str
    held_out: float | None = None
    shared: float | None = None
    constant: float | None = None


class DescribedCheck(_Part):
    """What `fedhft job export` compared; see `export.check`."""

    rows: int
    difference: float


class ExportDescription(_Part):
    """An exported directory.

    whole: a whole model, not an adapter. clients: how many the adapter belongs to; samples: their training rows, as
    they said. num_labels: width of the logits, 0 where it is
    the model's vocabulary. dtype: of the arithmetic in training.
    """

    format: Literal[1] = 1
    job: str
    version: int = Field(ge=0)
    rounds: int = Field(ge=0)
    method: str
    seed: int
    name: str
    whole: bool
    weights: tuple[float, ...]
    clients: int = Field(ge=0)
    samples: int = Field(ge=0)
    base: DescribedBase
    task: TaskSpec
    num_labels: int = Field(ge=0)
    max_length: int = Field(ge=1)
    dtype: Literal["float32", "bfloat16"]
    scores: tuple[DescribedScore, ...] = ()
    metrics: tuple[DescribedMetric, ...] = ()
    checked: DescribedCheck | None = None


def describe_export(
    spec: JobSpec,
    schema: AdapterSchema,
    job: jobs_pb2.Job,
    version: int,
    exported: ExportedMixture,
    base_name: str,
    *,
    whole: bool,
) -> ExportDescription:
    """The description of one exported mixture, before it was checked."""
    found = adapter_scores(job, exported)
    scores = [
        DescribedScore(rows=rows, moment=moment, mean=mean, lowest_tenth=tenth, loss=loss)
        for rows, moments, losses in (
            ("held-out", found.personal, found.losses[0]),
            ("shared", [(mean, None) for mean in found.shared], found.losses[1]),
        )
        for moment, (mean, tenth), loss in zip(("before", "after"), moments, losses, strict=True)
        if mean is not None
    ]
    return ExportDescription(
        job=job.job,
        version=version,
        rounds=job.rounds_done,
        method=spec.method.preset,
        seed=spec.seed,
        name=exported.name,
        whole=whole,
        weights=exported.weights,
        clients=len(exported.clients),
        samples=sum(result.samples for result in found.results),
        base=DescribedBase(
            name=base_name,
            revision=spec.model.revision,
            digest=schema.base_digest,
            tokenizer_digest=schema.tokenizer_digest,
            architecture=schema.architecture,
        ),
        task=spec.task,
        num_labels=task_of(spec.task).outputs,
        max_length=spec.model.max_length,
        dtype="bfloat16" if spec.training.precision == "bf16" else "float32",
        scores=tuple(scores),
        metrics=tuple(
            DescribedMetric(name=name, held_out=own, shared=shared, constant=floor)
            for name, (own, shared, floor) in found.metrics.items()
        ),
    )


def write_description(directory: Path, description: ExportDescription) -> None:
    """Write it into the exported directory. Raises OSError."""
    (directory / FILE).write_text(description.model_dump_json(indent=2) + "\n", encoding="utf-8")


def read_description(directory: Path) -> ExportDescription:
    """Read it from an exported directory. Raises FedhftError(INVALID_MODEL)."""
    file = directory / FILE
    if not file.is_file():
        raise FedhftError.field(
            ErrorCode.INVALID_MODEL, "adapter", str(directory), f"is not a folder that fedhft exported (no {FILE})",
            "give one that `fedhft job export` wrote",
        )  # fmt: skip
    raw = read_json(file, str(file), ErrorCode.INVALID_MODEL, most_bytes=_MOST_BYTES, strict=False)
    try:
        return ExportDescription.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or FILE
        raise FedhftError.field(
            ErrorCode.INVALID_MODEL, where, first.get("input"), f"in {file}: {first['msg']}", "export the adapter again"
        ) from error
