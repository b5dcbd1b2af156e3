"""JobSpec: what a federation trains, by which method and under which rules.

Written as TOML, strict when submitted (an unknown key is refused by name), kept in the store as canonical JSON with a
version, so newer code can migrate what older code wrote.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from fedhft.documents import parse_json, read_toml
from fedhft.errors import ErrorCode, FedhftError
from fedhft.ids import parse_client_id, parse_job_id
from fedhft.job_sections import (
    MOST_CLIENTS,
    AdapterSpec,
    ClusteringSpec,
    EvaluationSpec,
    LimitsSpec,
    MaskSpec,
    ModelSpec,
    PlanningSpec,
    RoundsSpec,
    ServerSpec,
    StoppingSpec,
    Tier,
    TrainingSpec,
    WireSpec,
)
from fedhft.job_task import TaskSpec
from fedhft.job_values import Section, TierName
from fedhft.methods import (
    PRESET_ADAPTER,
    PRESET_SERVER,
    PRESET_WIRE,
    PRESETS,
    Allocation,
    Combine,
    Method,
    ServerStep,
    method_of,
)

SPEC_VERSION: Literal[1] = 1
MOST_SPEC_BYTES = 256 << 10
"""Longest job, as a file or as JSON: room for ten thousand names of clients."""
MOST_STORED_BYTES = 4 << 20
"""Longest stored form; earlier releases took longer jobs."""
LATER_FIELDS = (
    ("limits", "samples"), ("limits", "fold_memory"), ("server", "trim"), ("server", "beta2"), ("server", "adaptivity"),
    ("training", "schedule"), ("training", "warmup"), ("training", "proximal"), ("adapter", "dropout"),
    ("training", "class_weights"), ("training", "label_smoothing"), ("evaluation", "rows"),
    ("stopping", "metric"), ("stopping", "rows"), ("stopping", "min_delta"), ("stopping", "patience"),
    ("adapter", "targets"), ("task", "metrics"), ("task", "target_mean"), ("task", "target_std"), ("task", "format"),
    ("task", "prompt"), ("task", "completion"), ("task", "messages"), ("task", "packing"), ("task", "head"),
    ("planning", "every"), ("planning", "sits_out"), ("planning", "depth"), ("planning", "least_steps"),
    ("planning", "gain_decay"), ("planning", "most_steps"), ("clustering", "by"), ("adapter", "ranks"),
    ("adapter", "scaling"), ("adapter", "origin"), ("training", "rank_decay"), ("training", "rank_penalty"),
)  # fmt: skip
"""Fields that the first release did not have. Their defaults are not written: so a job of then has the same text, and
the same digest in its agents' state, and agents of then can read a job that does not use them."""
ADAPTIVE_ETA = 0.01
"""Server learning rate of adaptive steps that do not give one: each value moves by about so much in a round."""
_MOST_SENTENCES = 20
_LONGEST_SHOWN = 120
_LONGEST_MESSAGE = 500
_FORMS = ("literal[", "dict[", "tuple[")


class JobSpec(Section):
    """A federation: model, task, adapter, method and rules."""

    version: Literal[1] = Field(SPEC_VERSION, description="Version of this format.")
    name: str = Field(description="Job id: 1-63 characters of a-z 0-9 . _ -.")
    seed: int = Field(0, ge=0, lt=2**53, description="Seed of everything random.")
    clients: tuple[str, ...] = Field(
        (), max_length=MOST_CLIENTS, description="Clients that may join; empty means any enrolled client."
    )
    model: ModelSpec = Field(description="The base model.")
    task: TaskSpec = Field(description="The task.")
    adapter: AdapterSpec = Field(default_factory=AdapterSpec, description="LoRA settings.")
    method: Method = Field(default_factory=lambda: method_of("fedhft"), description="The method.")
    tiers: dict[TierName, Tier] = Field(
        default_factory=lambda: {"standard": Tier()}, max_length=32, description="Classes of devices."
    )
    client_tiers: dict[str, str] = Field(
        default_factory=dict,
        max_length=MOST_CLIENTS,
        description="Tiers of named clients; they win over what agents report.",
    )
    training: TrainingSpec = Field(default_factory=TrainingSpec, description="Local training.")
    planning: PlanningSpec = Field(default_factory=PlanningSpec, description="Planning by capacity.")
    mask: MaskSpec = Field(default_factory=MaskSpec, description="Row masks.")
    clustering: ClusteringSpec = Field(default_factory=ClusteringSpec, description="Clustering of clients.")
    server: ServerSpec = Field(default_factory=ServerSpec, description="Server step.")
    wire: WireSpec = Field(default_factory=WireSpec, description="Encodings.")
    rounds: RoundsSpec = Field(default_factory=RoundsSpec, description="Round rules.")
    evaluation: EvaluationSpec = Field(default_factory=EvaluationSpec, description="Evaluation.")
    stopping: StoppingSpec = Field(default_factory=StoppingSpec, description="The best version, and an early end.")
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
            if not isinstance(preset, str) or preset not in PRESETS:
                raise ValueError(
                    f"method.preset = {_shown(preset)}: unknown; choose one of {', '.join(sorted(PRESETS))}"
                )
            raw["method"] = {**PRESETS[preset], **method, "preset": preset}
            for section, given in (("wire", PRESET_WIRE), ("adapter", PRESET_ADAPTER), ("server", PRESET_SERVER)):
                if preset in given and isinstance(raw.get(section, {}), dict):
                    raw[section] = {**given[preset], **raw.get(section, {})}
            adaptive = raw["method"].get("server") in [step.value for step in ServerStep if step.is_adaptive]
            if adaptive and isinstance(raw.get("server", {}), dict):
                raw["server"] = {"eta": ADAPTIVE_ETA, **raw.get("server", {})}
        return raw

    @field_validator("name")
    @classmethod
    def _name_is_an_id(cls, name: str) -> str:
        try:
            return parse_job_id(name)
        except FedhftError as error:
            raise ValueError(error.message) from error

    @field_validator("clients", "client_tiers")
    @classmethod
    def _clients_are_ids(cls, clients: Any) -> Any:
        try:
            for client in clients:
                parse_client_id(client)
        except FedhftError as error:
            raise ValueError(error.message) from error
        return clients

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
        if self.task.packing and self.method.allocation is Allocation.CAPACITY:
            raise ValueError(
                'task.packing = true with method.allocation = "capacity": how many sequences packed rows make is not '
                'known before they are planned for; set packing = false, or allocation = "tiers"'
            )
        if self.clustering.by == "data+resources" and not (
            self.method.clusters_by_anchors and self.method.allocation is Allocation.CAPACITY
        ):
            raise ValueError(
                'clustering.by = "data+resources": clients tell what their devices can do, and their signatures when '
                'they join, only with method.allocation = "capacity", method.signature = "anchor" and method.clusters '
                'other than 1; set these, or by = "data"'
            )
        if problem := self._problem_of_ranks():
            raise ValueError(problem)
        if problem := self.task.training_problem(self.training) or self.task.stopping_problem(self.stopping):
            raise ValueError(problem)
        if self.stopping.patience and not self.evaluation.every:
            raise ValueError(
                f"stopping.patience = {self.stopping.patience}: with evaluation.every = 0 no round is scored; set "
                "that to 1 or more, or remove patience"
            )
        return self

    def _problem_of_ranks(self) -> str:
        """Why tiers, wire and server do not go with how factors of unequal ranks are combined; empty where they do."""
        combine = self.method.combine
        most = self.adapter.most_rank
        for name, tier in self.tiers.items():
            given = f"tiers.{name}.rank = {tier.rank}"
            if tier.rank and not combine.takes_ranks:
                return f'{given} with method.combine = "{combine}": set combine = "padded", "svd" or "products"'
            if tier.rank and self.method.allocation is not Allocation.TIERS:
                return f'{given} with method.allocation = "{self.method.allocation}": set allocation = "tiers"'
            if tier.rank > most:
                return f"{given}: the adapter has rank {most}; write at most that, or raise adapter.rank"
            if tier.density < 1 and combine in (Combine.PADDED, Combine.SVD):
                return f'tiers.{name}.density = {tier.density:g} with method.combine = "{combine}": set density = 1'
        decay, penalty = self.training.rank_decay, self.training.rank_penalty
        if decay < 1 and combine is not Combine.PADDED:
            return f'training.rank_decay = {decay:g} with method.combine = "{combine}": set combine = "padded", or 1'
        if penalty and decay == 1:
            return f"training.rank_penalty = {penalty:g}: no columns are given up; set training.rank_decay below 1"
        if combine is Combine.SVD and self.wire.down != "fp32":
            return (
                f'wire.down = "{self.wire.down}" with combine = "svd": factors have another basis every round, '
                'so what coding drops cannot wait for the next; set down = "fp32"'
            )
        if combine is Combine.SVD and self.server.eta != 1.0:
            return (
                f'server.eta = {self.server.eta:g} with method.combine = "svd": part of the way between factors is not '
                "part of the way between their products; set eta = 1"
            )
        return ""

    def learning_rate(self, round_number: int) -> float:
        """AdamW learning rate of a round (1-based)."""
        return self.training.learning_rate * self.training.learning_rate_decay ** (round_number - 1)

    def canonical(self) -> str:
        """Canonical JSON as stored: sorted keys, no spaces, every default written out but those of LATER_FIELDS."""
        raw = self.model_dump(mode="json", by_alias=True)
        given = PRESET_ADAPTER.get(self.method.preset, {})  # a preset's own value would come back where none is written
        for section, field in LATER_FIELDS:
            if section == "adapter" and field in given:
                continue
            if getattr(getattr(self, section), field) == _default_of(section, field):
                del raw[section][_written_as(section, field)]
        for tier in raw["tiers"].values():  # like LATER_FIELDS
            if not tier["rank"]:
                del tier["rank"]
        for section in ("planning", "stopping"):  # the first release did not have them
            if not raw[section]:
                del raw[section]
        return json.dumps(raw, sort_keys=True, separators=(",", ":"))


def _written_as(section: str, field: str) -> str:
    """A field's key in a job file."""
    kind = JobSpec.model_fields[section].annotation
    return kind.model_fields[field].alias or field  # type: ignore[union-attr]


def _default_of(section: str, field: str) -> object:
    kind = JobSpec.model_fields[section].annotation
    return kind.model_fields[field].default  # type: ignore[union-attr]


def parse_job(raw: dict[str, Any]) -> JobSpec:
    """Validate a job given as a mapping. Raises FedhftError(INVALID_JOB) that names every wrong field."""
    try:
        return JobSpec.model_validate(raw)
    except ValidationError as error:
        sentences = [_sentence(item) for item in error.errors(include_url=False)[:_MOST_SENTENCES]]
        more = error.error_count() - len(sentences)
        text = "\n".join(sentences + ([f"and {more} more"] if more > 0 else []))
        raise FedhftError(ErrorCode.INVALID_JOB, text) from error


def read_job(path: Path) -> JobSpec:
    """Read and validate a TOML job file. Raises FedhftError(INVALID_JOB)."""
    return parse_job(read_toml(path, str(path), ErrorCode.INVALID_JOB, most_bytes=MOST_SPEC_BYTES))


def submitted_job(text: str) -> JobSpec:
    """Read and validate a job that was submitted as JSON. Raises FedhftError(INVALID_JOB)."""
    return parse_job(_object(text, "spec_json", MOST_SPEC_BYTES))


def load_canonical(text: str) -> JobSpec:
    """Read the stored form, migrating older versions. Raises FedhftError(INVALID_JOB)."""
    raw = _object(text, "stored job", MOST_STORED_BYTES)
    version = raw.get("version")
    if version != SPEC_VERSION:
        raise FedhftError.field(
            ErrorCode.INVALID_JOB,
            "version",
            version,
            f"this build reads version {SPEC_VERSION}",
            "upgrade fedhft",
        )
    if isinstance(raw.get("limits"), dict):  # a job that an earlier release stored goes on without bounds of influence
        raw["limits"] = {"sample_cap": 0.0, "clip": 0.0, "opposed": 0.0, **raw["limits"]}
    return parse_job(raw)


def stored_client_timeout(text: str) -> float:
    """rounds.client_timeout of a stored job, seconds, without reading all of it; 0 where it is damaged."""
    try:
        return float(_object(text, "stored job", MOST_STORED_BYTES)["rounds"]["client_timeout"])
    except (FedhftError, ValueError, TypeError, KeyError):
        return 0.0  # people are shown a damaged job too


def stored_plans_by_capacity(text: str) -> bool:
    """Whether a stored job plans by capacity, without reading all of it; False where it is damaged."""
    try:
        named = _object(text, "stored job", MOST_STORED_BYTES)["method"]["allocation"]
    except (FedhftError, TypeError, KeyError):
        return False
    return bool(named == Allocation.CAPACITY.value)


def job_schema() -> dict[str, Any]:
    """JSON Schema of the job file, for editors; durations and sizes may also be text there."""
    schema = JobSpec.model_json_schema()
    method = schema["properties"]["method"]
    method["anyOf"] = [{"$ref": method.pop("$ref")}, {"type": "string", "enum": sorted(PRESETS)}]
    return schema


def _object(text: str, name: str, most_bytes: int) -> dict[str, Any]:
    raw = parse_json(text, name, ErrorCode.INVALID_JOB, most_bytes=most_bytes)
    if not isinstance(raw, dict):
        raise FedhftError(ErrorCode.INVALID_JOB, f"{name} is not an object; send the job as a JSON object")
    return raw


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 3] + "..."


def _sentence(item: Any) -> str:
    # Of a field that may be a word or a table, pydantic also names the form it tried.
    places = [str(part) for part in item["loc"] if not str(part).startswith(_FORMS)]
    where = ".".join(place[:_LONGEST_SHOWN] for place in places)
    message = str(item["msg"]).removeprefix("Value error, ")
    if len(message) > _LONGEST_MESSAGE:
        message = message[: _LONGEST_MESSAGE - 3] + "..."
    if item["type"] == "extra_forbidden":
        return f"{where}: unknown key; remove it or see `fedhft job schema` for the valid keys"
    if item["type"] == "missing":
        return f"{where}: required but missing; add it"
    if not where:
        return message
    value = "" if isinstance(item["input"], dict) else f" = {_shown(item['input'])}"
    return f"{where}{value}: {message}"
