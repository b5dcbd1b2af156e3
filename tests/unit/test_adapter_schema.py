"""A schema as text of a stranger: typed and bounded field by field."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fedhft.adapter import MOST_SCHEMA_BYTES, AdapterSchema
from fedhft.errors import ErrorCode, FedhftError
from tests.light import light_schema

SCHEMA = light_schema()


def changed(path: str, value: object) -> str:
    """The schema's text with one value replaced; `path` is like slots.0.rank."""
    raw: Any = json.loads(SCHEMA.to_json())
    *parents, last = path.split(".")
    inner = raw
    for part in parents:
        inner = inner[int(part)] if isinstance(inner, list) else inner[part]
    inner[int(last) if isinstance(inner, list) else last] = value
    return json.dumps(raw)


def test_a_schema_comes_back_from_its_text() -> None:
    assert AdapterSchema.from_json(SCHEMA.to_json()) == SCHEMA
    assert AdapterSchema.from_json(SCHEMA.to_json()).digest == SCHEMA.digest


HOSTILE = [
    ("layers", float("inf")),
    ("layers", True),
    ("layers", 2.0),
    ("layers", "2"),
    ("layers", 0),
    ("layers", 10**9),
    ("slots.0.layer", 2),
    ("slots.0.layer", -1),
    ("slots.0.rank", 0),
    ("slots.0.rank", True),
    ("slots.0.rank", 10**6),
    ("slots.0.in_features", 0),
    ("slots.0.in_features", -5),
    ("slots.0.in_features", 16.0),
    ("slots.0.out_features", 1 << 40),
    ("slots.0.name", "x" * 10_000),
    ("slots.0.name", ""),
    ("slots.0.name", 7),
    ("slots.0.name", "layer.1.query"),
    ("slots.0", []),
    ("slots", {}),
    ("slots", [[]] * 20_000),
    ("head.0.shape", [2, 0]),
    ("head.0.shape", [2.0, 16]),
    ("head.0.shape", [1 << 30, 1 << 30]),
    ("head.0.shape", [1] * 9),
    ("head.0.shape", "2"),
    ("head.0.name", "classifier.bias"),
    ("labels", "ab"),
    ("labels", [1, 2]),
    ("labels.0", "x" * 10_000),
    ("base_digest", "G" * 64),
    ("base_digest", ""),
    ("tokenizer_digest", 5),
    ("architecture", None),
    ("unknown", 1),
]


@pytest.mark.parametrize(("path", "value"), HOSTILE, ids=lambda value: repr(value)[:40])
def test_an_absurd_value_is_refused_with_the_name_of_its_field(path: str, value: object) -> None:
    with pytest.raises(FedhftError) as caught:
        AdapterSchema.from_json(changed(path, value))
    assert caught.value.code is ErrorCode.SCHEMA_MISMATCH
    name = next(part for part in reversed(path.split(".")) if not part.isdecimal())
    assert name in caught.value.message or value == float("inf")
    assert len(caught.value.message) < 300


@pytest.mark.parametrize("name", json.loads(SCHEMA.to_json()))
def test_a_missing_field_is_refused_by_name(name: str) -> None:
    raw = json.loads(SCHEMA.to_json())
    del raw[name]
    with pytest.raises(FedhftError, match=rf"^{name} = None: is missing"):
        AdapterSchema.from_json(json.dumps(raw))


@pytest.mark.parametrize("text", ["", "[]", "null", "{" * 10**5, '{"slots":' * 1000, "x" * (MOST_SCHEMA_BYTES + 1)])
def test_what_is_not_a_schema_at_all_is_refused(text: str) -> None:
    with pytest.raises(FedhftError) as caught:
        AdapterSchema.from_json(text)
    assert caught.value.code is ErrorCode.SCHEMA_MISMATCH
