"""JobSpec: what a federation trains, by which method and under which rules.

Written as TOML, strict when submitted (an unknown key is refused by name), kept in the store as canonical JSON with a
version, so newer code can migrate what older code wrote.
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from fedhft.errors import ErrorCode, FedhftError
from fedhft.ids import parse_job_id
from fedhft.job_sections import (
    AdapterSpec,
    ClusteringSpec,
    EvaluationSpec,
    LimitsSpec,
    MaskSpec,
    ModelSpec,
    RoundsSpec,
    Section,
    ServerSpec,
    TaskSpec,
    Tier,
    TrainingSpec,
    WireSpec,
)
from fedhft.methods import PRESET_WIRE, PRESETS, Method, method_of

SPEC_VERSION: Literal[1] = 1


class JobSpec(Section):
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
