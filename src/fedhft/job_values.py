"""What every table of a job file is, and values that have a notation of their own: durations, sizes, encodings."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

_DURATION = re.compile(r"(\d{1,15}(?:\.\d{1,15})?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
MOST_BYTES = 1 << 50
"""Largest size that a job may state."""
_SIZE = re.compile(r"(\d{1,20}(?:\.\d{1,20})?)\s*(B|KB|MB|GB|KiB|MiB|GiB)?")
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
            amount = float(match[1]) * _BYTES[match[2]]
            return int(amount) if amount <= MOST_BYTES else MOST_BYTES + 1
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
Size = Annotated[
    int,
    BeforeValidator(parse_size),
    Field(ge=0, le=MOST_BYTES),
    _or_text({"type": "integer", "minimum": 0, "maximum": MOST_BYTES}, _SIZE),
]
"""Bytes."""
Name = Annotated[str, Field(min_length=1, max_length=256)]
"""A name of something outside the job: a model, a column, a label, a module."""
TierName = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]{1,63}$")]
"""A name that appears in labels of metrics."""
Encoding = Literal["fp32", "fp16", "bf16", "int8"]


class Section(BaseModel):
    """A table of a job file: values that do not change, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
