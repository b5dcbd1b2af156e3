"""docs/job-reference.md: every field of the job file, and combinations that are refused."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, BeforeValidator
from pydantic.fields import FieldInfo

from fedhft.errors import FedhftError
from fedhft.job import JobSpec, job_schema, parse_job
from fedhft.job_sections import ClusteringSpec, EvaluationSpec, StoppingSpec, Tier
from fedhft.job_values import parse_duration, parse_size
from fedhft.methods import Method, method_of
from generated_pages.tables import NOTE, cell, table

_SEE: Mapping[type[BaseModel], str] = {
    ClusteringSpec: "[clustering](methods.md#clustering)",
    EvaluationSpec: "[scores](concepts.md#scores)",
    StoppingSpec: "[the best version](concepts.md#the-best-version-and-an-early-end)",
}
"""Section of the job file -> where the documents explain it."""
_LONG = 1 << 20
"""From here on a power of two is easier to read as one."""


def job_reference() -> str:
    """docs/job-reference.md: every field of the job file with type, bounds, default and meaning."""
    schema = job_schema()
    parts = [NOTE, "# Job reference", _JOB_INTRO, "## Top level"]
    sections = {name: model for name, info in JobSpec.model_fields.items() if (model := _model_of(info)) is not None}
    plain = {name: info for name, info in JobSpec.model_fields.items() if name not in sections}
    parts.append(_field_table(JobSpec, plain, schema["properties"]))
    for name, model in sections.items():
        title = f"[{name}.NAME]" if model is Tier else f"[{name}]"
        parts += [f"## {title}", _about(model)]
        if name == "method":
            parts.append(
                "A preset sets all of these; write only what differs from it. The defaults below are those of "
                '`fedhft`; [methods](methods.md#presets) has the other presets\'. `method = "fedit"` is short for '
                'a table with `preset = "fedit"`.'
            )
        if name == "wire":
            parts.append("Presets have [defaults of their own](methods.md#encodings-of-the-presets).")
        shapes = schema["$defs"][model.__name__]["properties"]
        defaults = method_of("fedhft") if model is Method else None
        parts.append(_field_table(model, model.model_fields, shapes, defaults))
    parts += ["## Combinations that are refused", _REFUSED_INTRO, _refusals()]
    return "\n\n".join(parts) + "\n"


_JOB_INTRO = """\
A job file is TOML; [examples/job.toml](../examples/job.toml) is one. `fedhft job submit FILE` checks and stores it,
`fedhft simulate FILE` runs it in one process, `fedhft job schema` prints its JSON Schema.

* An unknown key, or a value outside its bounds, is refused by name; the exit code is [10](exit-codes.md).
* A *duration* is a number of seconds or text such as `"90s"`, `"10m"`, `"1h30m"` (units ms, s, m, h, d). A *size* is
  a number of bytes or text such as `"512MiB"`, `"2GiB"` (KB, MB, GB, KiB, MiB, GiB). Both are stored as numbers.
* The store keeps a canonical form with every default written out; `fedhft job get NAME -o json` shows it under
  `spec`."""

_REFUSED_INTRO = "Each line is what `fedhft job submit` answers to an otherwise valid job."

_REFUSED = (
    'clients = ["a"]\n[rounds]\nmin_clients = 2',
    "[rounds]\nquorum = 0.9\ntarget = 0.5",
    '[client_tiers]\nhospital-1 = "gold"',
    '[task]\nkind = "regression"',
    "[task]\nlabels = []",
    '[method]\npreset = "no-such-preset"',
    "[method]\nclusters = 65",
    '[method]\ncombine = "products"',
    '[method]\ncombine = "mean"',
    '[method]\npreset = "fedhft-paper"\ncombine = "trimmed-mean"',
    "[server]\ntrim = 0.5",
    '[method]\npreset = "fedhft-paper"\nshare_a = true',
    '[method]\npreset = "fedhft-paper"\ntrained = "b"',
    '[method]\npreset = "full"\ncombine = "factors"',
    '[method]\npreset = "full"\nclusters = 2',
    '[method]\npreset = "local"\nclusters = 2',
    "[training]\nlr = 0.1",
    '[stopping]\nmetric = "rmse"',
    "[evaluation]\nevery = 0\n[stopping]\npatience = 3",
    "[training]\nclass_weights = { maybe = 2.0 }",
    '[task]\nkind = "multi-label"\n[training]\nclass_weights = "balanced"',
)
"""TOML merged over a small valid job; every one must be refused."""


def small_job(**sections: Any) -> dict[str, Any]:
    """A small valid job with some sections changed or added."""
    job: dict[str, Any] = {"name": "example", "model": {"name": "base"}, "task": {"labels": ["no", "yes"]}}
    return merged(job, sections)


def merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Tables merged key by key; other values of `over` replace those of `under`."""
    result = dict(under)
    for key, value in over.items():
        known = result.get(key)
        result[key] = merged(known, value) if isinstance(known, dict) and isinstance(value, dict) else value
    return result


def _refusals() -> str:
    rows = []
    for text in _REFUSED:
        try:
            parse_job(small_job(**tomllib.loads(text)))
        except FedhftError as error:
            rows.append((f"`{text}`".replace("\n", "` `"), cell(error.message)))
        else:
            raise ValueError(
                f"docs/generated_pages/job_reference.py: the job is not refused any more, so remove it:\n{text}"
            )
    return table(("the job says", "the refusal"), rows)


def _model_of(info: FieldInfo) -> type[BaseModel] | None:
    candidates = [info.annotation, *getattr(info.annotation, "__args__", ())]
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)


def _about(model: type[BaseModel]) -> str:
    text = " ".join((model.__doc__ or "").split())
    return f"{text} See {_SEE[model]}." if model in _SEE else text


def _field_table(
    model: type[BaseModel],
    fields: Mapping[str, FieldInfo],
    properties: Mapping[str, Mapping[str, Any]],
    defaults: BaseModel | None = None,
) -> str:
    rows = []
    for name, info in fields.items():
        if not info.description:
            raise ValueError(f"{model.__name__}.{name} has no description")
        value = getattr(defaults, name) if defaults else info.get_default(call_default_factory=True)
        default = "required" if info.is_required() else f"`{_toml(value)}`"
        key = info.alias or name
        rows.append((f"`{key}`", _type(info, properties[key]), default, cell(info.description)))
    return table(("field", "type", "default", "meaning"), rows)


def _type(info: FieldInfo, shape: Mapping[str, Any]) -> str:
    parsers = [rule.func for rule in info.metadata if isinstance(rule, BeforeValidator)]
    if parse_duration in parsers:
        return "duration, above 0, at most 30 days"
    if parse_size in parsers:
        return "size"
    return _shape(shape)


def _shape(shape: Mapping[str, Any]) -> str:
    if "$ref" in shape:
        shape = job_schema()["$defs"][shape["$ref"].rsplit("/", 1)[-1]]
    if "anyOf" in shape:
        return " or ".join(_shape(one) for one in shape["anyOf"] if one.get("type") != "null")
    if "const" in shape:
        return f"`{json.dumps(shape['const'])}`"
    if "enum" in shape:
        return " or ".join(f"`{json.dumps(value)}`" for value in shape["enum"])
    kind = shape.get("type")
    if kind == "array":
        least = f", at least {shape['minItems']}" if shape.get("minItems") else ""
        item, comma, bounds = _shape(shape["items"]).partition(",")
        return f"list of {item}s{comma}{bounds}{least}"
    if kind == "object":
        numbers = shape.get("additionalProperties", {}).get("type") == "number"
        return "table of numbers" if numbers else "table of strings"
    if kind == "string" and "pattern" in shape:
        return "64 hex digits" if "{64}" in shape["pattern"] else f"string like `{shape['pattern']}`"
    name = {"integer": "integer", "number": "number", "boolean": "boolean", "string": "string"}[str(kind)]
    return name + _bounds(shape)


def _bounds(shape: Mapping[str, Any]) -> str:
    least, above = shape.get("minimum"), shape.get("exclusiveMinimum")
    most, below = shape.get("maximum"), shape.get("exclusiveMaximum")
    parts = []
    if least is not None and most is not None:
        return f", {_number(least)} to {_number(most)}"
    if least is not None:
        parts.append(f"at least {_number(least)}")
    if above is not None:
        parts.append(f"above {_number(above)}")
    if most is not None:
        parts.append(f"at most {_number(most)}")
    if below is not None:
        parts.append(f"below {_number(below)}")
    return "".join(f", {part}" for part in parts)


def _number(value: float) -> str:
    """As a person writes it: 16, 0.5, 10^6, 2^40."""
    exponent = int(value).bit_length() - 1
    if value == 2**exponent >= _LONG:
        return f"2^{exponent}"
    return re.sub(r"1e\+0*(\d+)", r"10^\1", f"{value:g}")


def _toml(value: Any) -> str:
    if isinstance(value, BaseModel):
        return "{}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + "}"
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return json.dumps(value)
