"""JobSpec: what a federation trains, by which method and under which rules.

Written as TOML, strict when submitted (an unknown key is refused by name), kept in the store as canonical JSON with a
version, so newer code can migrate what older code wrote.
"""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from fedhft.errors import ErrorCode, FedhftError
from fedhft.ids import parse_job_id
from fedhft.methods import PRESET_WIRE, PRESETS, Method, method_of

SPEC_VERSION: Literal[1] = 1

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(B|KB|MB|GB|KiB|MiB|GiB)?")
_BYTES = {None: 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def parse_duration(value: object) -> object:
    """Seconds of "90s", "10m", "1h30m" or a number; other types are left to the type check.

    Raises ValueError for any other text.
    """
    if isinstance(value, str):
        parts = _DURATION.findall(value.strip())
        if parts and "".join(number + unit for number, unit in parts) == value.strip():
            return sum(float(number) * _SECONDS[unit] for number, unit in parts)
        raise ValueError(f'{value!r} is not a duration; write "90s", "10m" or "1h30m"')
    return value


def parse_size(value: object) -> object:
    """Bytes of "2GiB", "512 MiB" or a number; other types are left to the type check.

    Raises ValueError for any other text.
    """
    if isinstance(value, str):
        match = _SIZE.fullmatch(value.strip())
        if match:
            return int(float(match[1]) * _BYTES[match[2]])
        raise ValueError(f'{value!r} is not a size; write "512MiB" or "2GiB"')
    return value


def _or_text(number: dict[str, Any], text: re.Pattern[str]) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": [number, {"type": "string", "pattern": rf"^\s*{text.pattern}\s*$"}]})


_LONGEST_S = 30 * 86400
Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    Field(gt=0, le=_LONGEST_S),
    _or_text({"type": "number", "exclusiveMinimum": 0, "maximum": _LONGEST_S}, re.compile(rf"({_DURATION.pattern})+")),
]
"""Seconds."""
Size = Annotated[int, BeforeValidator(parse_size), Field(ge=0), _or_text({"type": "integer", "minimum": 0}, _SIZE)]
"""Bytes."""
Encoding = Literal["fp32", "fp16", "bf16", "int8"]
TaskKind = Literal["classification", "regression"]
_KINDS_WITH_LABELS = frozenset({"classification"})
"""Kinds whose targets are named by `task.labels`; the targets of the others are numbers."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSpec(_Section):
    """The pre-trained model that every agent has or can fetch."""

    name: str = Field(description="Hugging Face hub id or local path; each agent may map it to a path of its own.")
    revision: str | None = Field(None, description="Hub revision; ignored for paths.")
    digest: str | None = Field(
        None,
        pattern=r"^[0-9a-f]{64}$",
        description="Base digest as `fedhft model digest` prints it; without one, the first agent's becomes the job's.",
    )
    max_length: int = Field(128, ge=4, le=8192, description="Tokens per row; longer rows are cut.")


class TaskSpec(_Section):
    """The task and the columns of its data."""

    kind: TaskKind = Field("classification", description="Kind of target.")
    labels: tuple[str, ...] = Field((), description="Label names in class order; none where the target is a number.")
    text: str = Field("text", description="Column of the text.")
    text_pair: str | None = Field(None, description="Column of the second text, for pair tasks.")
    label: str = Field("label", description="Column of the target: an index, a label name, or a number.")

    @model_validator(mode="after")
    def _labels_fit_kind(self) -> TaskSpec:
        if self.kind not in _KINDS_WITH_LABELS:
            if self.labels:
                raise ValueError(f"labels: {self.kind} has none; remove the field")
        elif len(self.labels) < 2 or len(set(self.labels)) != len(self.labels):
            raise ValueError(f"labels = {list(self.labels)!r}: {self.kind} needs two or more distinct label names")
        return self


class AdapterSpec(_Section):
    """LoRA settings, as in PEFT."""

    rank: int = Field(8, ge=1, le=512, description="LoRA rank r.")
    alpha: float = Field(16.0, gt=0, description="LoRA alpha; the adapter is scaled by alpha / r.")
    targets: tuple[str, ...] = Field(("query", "value"), min_length=1, description="Module name endings to adapt.")
    depth: int = Field(0, ge=0, description="Layers, counted from the output, with adapters; 0 means all.")


class Tier(_Section):
    """A class of devices. The first tier whose min_memory a device reaches, largest first, is its tier."""

    density: float = Field(1.0, gt=0, le=1, description="Fraction of rows trained and sent.")
    depth: int = Field(0, ge=0, description="Layers, counted from the output, to train; 0 means adapter.depth.")
    min_memory: Size = Field(0, description="Least memory budget, in bytes, that a device of this tier reports.")


class TrainingSpec(_Section):
    """Local training (AdamW)."""

    learning_rate: float = Field(3e-3, gt=0, le=1, description="AdamW learning rate in the first round.")
    learning_rate_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Factor on the learning rate per round: round t uses learning_rate * decay^(t-1).",
    )
    epochs: float = Field(1.0, gt=0, le=100, description="Passes over the local data per round.")
    max_steps: int = Field(0, ge=0, description="Cap on optimiser steps per round; 0 means none.")
    batch_size: int = Field(16, ge=1, le=4096, description="Rows per optimiser step.")
    weight_decay: float = Field(0.0, ge=0, le=1, description="AdamW weight decay.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradient norm is clipped to this.")
    precision: Literal["fp32", "bf16"] = Field(
        "fp32",
        description="Arithmetic of forward and backward passes. bf16 (autocast; weights, gradients and optimiser stay "
        "fp32) is about twice as fast on CPUs that have it and slower on those that do not.",
    )


class MaskSpec(_Section):
    """How rows are chosen (methods with a mask)."""

    exploration: float = Field(0.1, ge=0, lt=1, description="Share of the row budget for rows not sent for longest.")
    smoothing: float = Field(0.5, ge=0, lt=1, description="Weight of older rounds in a row's importance score.")
    tau: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Damping of rows that few clients sent: the divisor is at least tau times the full mass.",
    )


class ClusteringSpec(_Section):
    """Gaussian mixture over client signatures (FedHFT, Ilhan et al. 2025, arXiv 2510.14054)."""

    maximum: int = Field(4, ge=2, le=64, description='Largest J that clusters = "auto" may choose.')
    warmup_rounds: int = Field(1, ge=1, description="Uniform rounds before clustering, for signature = update.")
    temperature: float = Field(1.0, gt=0, le=100, description="Posteriors are raised to 1/temperature.")
    smoothing: float = Field(0.5, ge=0, lt=1, description="Weight of the last memberships when they are updated.")
    covariance: Literal["diag", "tied"] = Field("diag", description="Covariance of the mixture's components.")
    ridge: float = Field(1e-2, gt=0, description="Added to every variance, in units of the mean variance.")
    serve_above: float = Field(0.05, ge=0, lt=0.5, description="Memberships below this are not served to the client.")


class ServerSpec(_Section):
    """Server step: state += eta * mean (+ momentum)."""

    eta: float = Field(1.0, gt=0, le=10, description="Server learning rate.")
    momentum: float = Field(0.0, ge=0, lt=1, description="Server momentum (FedAvgM); used by server = momentum.")
    publish_rank: int = Field(16, ge=1, le=1024, description="Rank of a published product delta (combine = products).")


class WireSpec(_Section):
    """How tensors travel."""

    up: Encoding = Field("int8", description="Values of updates.")
    down: Encoding = Field("int8", description="Values of published versions.")
    group: int = Field(64, ge=16, le=4096, description="Values per int8 scale.")
    levels: int = Field(
        127,
        ge=1,
        le=127,
        description="Steps of an int8 value on either side of zero; entropy coding turns half the levels into one bit"
        " less per value.",
    )
    error_feedback: bool = Field(True, description="Carry what quantisation dropped into the next round, where sound.")
    error_feedback_decay: float = Field(0.9, ge=0, le=1, description="Factor on carried error per round.")


class RoundsSpec(_Section):
    """When rounds open and close. All times are durations."""

    total: int = Field(5, ge=1, le=100000, description="Rounds to run.")
    min_clients: int = Field(2, ge=1, description="Clients that must have joined before the first round opens.")
    sample: float = Field(1.0, gt=0, le=1, description="Fraction of live clients sampled each round.")
    target: float = Field(1.0, gt=0, le=1, description="Fraction of participants whose updates close a round early.")
    quorum: float = Field(0.5, gt=0, le=1, description="Fraction of participants needed at the deadline.")
    deadline: Duration = Field(600.0, description="A round's length, seconds.")
    extensions: int = Field(2, ge=0, le=100, description="Times a round without quorum is extended by its deadline.")
    join_timeout: Duration = Field(1800.0, description="Longest wait for min_clients, seconds.")
    client_timeout: Duration = Field(
        120.0, description="A client silent for longer is not sampled when a round opens, seconds."
    )

    @model_validator(mode="after")
    def _quorum_below_target(self) -> RoundsSpec:
        if self.quorum > self.target:
            raise ValueError(f"quorum = {self.quorum}: must not exceed target = {self.target}")
        return self


class EvaluationSpec(_Section):
    """What is scored, on which rows and when."""

    holdout: float = Field(
        0.2,
        ge=0,
        lt=1,
        description="Share of an agent's rows held out for its personal score, if it has no split of its own.",
    )
    every: int = Field(1, ge=0, description="Rounds between evaluations; 0 evaluates only at the end.")
    final: bool = Field(True, description="Evaluate the last version before and after one more local training.")
    final_shared: Literal["full", "sharded"] = Field(
        "full",
        description="In the final evaluation each client scores the whole shared split, or only its share (pooled).",
    )


class LimitsSpec(_Section):
    """Upper limits on an update."""

    update_bytes: Size = Field(0, description="Largest accepted update; 0 means twice what the plan needs in fp32.")
    update_norm: float = Field(0.0, ge=0, description="Largest accepted Frobenius norm; 0 means no limit.")


class JobSpec(_Section):
    """A federation: model, task, adapter, method and rules."""

    version: Literal[1] = Field(SPEC_VERSION, description="Version of this format.")
    name: str = Field(description="Job id: 1-63 characters of a-z 0-9 . _ -.")
    seed: int = Field(0, ge=0, lt=2**53, description="Seed of everything random.")
    clients: tuple[str, ...] = Field((), description="Clients that may join; empty means any enrolled client.")
    model: ModelSpec = Field(description="The base model.")
    task: TaskSpec = Field(description="The task.")
    adapter: AdapterSpec = Field(default_factory=AdapterSpec, description="LoRA settings.")
    method: Method = Field(default_factory=lambda: method_of("fedhft"), description="The method.")
    tiers: dict[str, Tier] = Field(default_factory=lambda: {"standard": Tier()}, description="Classes of devices.")
    client_tiers: dict[str, str] = Field(
        default_factory=dict, description="Tiers of named clients; they win over what agents report."
    )
    training: TrainingSpec = Field(default_factory=TrainingSpec, description="Local training.")
    mask: MaskSpec = Field(default_factory=MaskSpec, description="Row masks.")
    clustering: ClusteringSpec = Field(default_factory=ClusteringSpec, description="Clustering of clients.")
    server: ServerSpec = Field(default_factory=ServerSpec, description="Server step.")
    wire: WireSpec = Field(default_factory=WireSpec, description="Encodings.")
    rounds: RoundsSpec = Field(default_factory=RoundsSpec, description="Round rules.")
    evaluation: EvaluationSpec = Field(default_factory=EvaluationSpec, description="Evaluation.")
    limits: LimitsSpec = Field(default_factory=LimitsSpec, description="Limits on updates.")

    @model_validator(mode="before")
    @classmethod
    def _expand_preset(cls, raw: Any) -> Any:
        if not isinstance(raw, dict):
            return raw
        raw = dict(raw)
        method = raw.get("method", {})
        if isinstance(method, str):
            method = {"preset": method}
        if isinstance(method, dict):
            preset = method.get("preset", "fedhft")
            if preset not in PRESETS:
                raise ValueError(f"method.preset = {preset!r}: unknown; choose one of {', '.join(sorted(PRESETS))}")
            raw["method"] = {**PRESETS[preset], **method, "preset": preset}
            if preset in PRESET_WIRE and isinstance(raw.get("wire", {}), dict):
                raw["wire"] = {**PRESET_WIRE[preset], **raw.get("wire", {})}
        return raw

    @field_validator("name")
    @classmethod
    def _name_is_an_id(cls, name: str) -> str:
        try:
            return parse_job_id(name)
        except FedhftError as error:
            raise ValueError(error.message) from error

    @model_validator(mode="after")
    def _fields_agree(self) -> JobSpec:
        if not self.tiers:
            raise ValueError("tiers: at least one tier is needed; leave the table out for one tier of density 1")
        for client, tier in self.client_tiers.items():
            if tier not in self.tiers:
                raise ValueError(f"client_tiers.{client} = {tier!r}: no such tier; choose one of {sorted(self.tiers)}")
        if self.clients and len(self.clients) < self.rounds.min_clients:
            raise ValueError(
                f"rounds.min_clients = {self.rounds.min_clients}: more than the {len(self.clients)} authorised clients"
            )
        return self

    def learning_rate(self, round_number: int) -> float:
        """AdamW learning rate of a round (1-based)."""
        return self.training.learning_rate * self.training.learning_rate_decay ** (round_number - 1)

    def canonical(self) -> str:
        """Canonical JSON as stored: sorted keys, no spaces, every default written out."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))


def parse_job(raw: dict[str, Any]) -> JobSpec:
    """Validate a job given as a mapping. Raises FedhftError(INVALID_JOB) that names every wrong field."""
    try:
        return JobSpec.model_validate(raw)
    except ValidationError as error:
        raise FedhftError(ErrorCode.INVALID_JOB, "\n".join(_sentence(item) for item in error.errors())) from error


def read_job(path: Path) -> JobSpec:
    """Read and validate a TOML job file. Raises FedhftError(INVALID_JOB)."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FedhftError(ErrorCode.INVALID_JOB, f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FedhftError(ErrorCode.INVALID_JOB, f"{path}: is not TOML: {error}") from error
    return parse_job(raw)


def load_canonical(text: str) -> JobSpec:
    """Read the stored form, migrating older versions. Raises FedhftError(INVALID_JOB)."""
    raw = json.loads(text)
    version = raw.get("version")
    if version != SPEC_VERSION:
        raise FedhftError.field(
            ErrorCode.INVALID_JOB,
            "version",
            version,
            f"this build reads version {SPEC_VERSION}",
            "upgrade fedhft",
        )
    return parse_job(raw)


def job_schema() -> dict[str, Any]:
    """JSON Schema of the job file, for editors; durations and sizes may also be text there."""
    schema = JobSpec.model_json_schema()
    method = schema["properties"]["method"]
    method["anyOf"] = [{"$ref": method.pop("$ref")}, {"type": "string", "enum": sorted(PRESETS)}]
    return schema


def _sentence(item: Any) -> str:
    where = ".".join(str(part) for part in item["loc"])
    message = str(item["msg"]).removeprefix("Value error, ")
    if item["type"] == "extra_forbidden":
        return f"{where}: unknown key; remove it or see `fedhft job schema` for the valid keys"
    if item["type"] == "missing":
        return f"{where}: required but missing; add it"
    prefix = f"{where} = {item['input']!r}: " if where and not isinstance(item["input"], dict) else ""
    return prefix + message
