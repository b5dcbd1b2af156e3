"""A data set as a folder: `train` and `validation` in any format of `tables`, optionally with `meta.json`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from fedhft.datasets.examples import Example
from fedhft.datasets.tables import SUFFIXES, RawRow, find_file, read_table
from fedhft.documents import read_json
from fedhft.errors import ErrorCode, FedhftError

_ROW = 'every row has "text" and a number "label", and "text_pair" for pairs'


@dataclass(frozen=True)
class Source:
    """A data set before it is partitioned. labels: names in class order; empty where labels are plain numbers."""

    name: str
    labels: tuple[str, ...]
    train: tuple[Example, ...]
    validation: tuple[Example, ...]


def read_source(folder: Path) -> Source:
    """Read the splits `train` and `validation` (columns `text`, `label` and, for pairs, `text_pair`) of a folder.

    `label_names` of `meta.json` name the classes. Without that file class indices become the names, unless some label
    is not an index: then the data has no classes. Raises FedhftError(INVALID_DATA) naming file, line and fix.
    """
    if not folder.is_dir():
        raise FedhftError.field(
            ErrorCode.INVALID_DATA, "data", str(folder), "is not a folder",
            "give one with train and validation files",
        )  # fmt: skip
    names = _label_names(folder)
    train, validation = (_examples(folder, split, names or ()) for split in ("train", "validation"))
    if names is None:
        values = {example.label for example in train + validation}
        classes = int(max(values)) + 1 if all(value.is_integer() and value >= 0 for value in values) else 0
        names = tuple(str(index) for index in range(classes))
    return Source(folder.resolve().name, names, train, validation)


def _examples(folder: Path, split: str, names: tuple[str, ...]) -> tuple[Example, ...]:
    path = find_file(folder, split, sorted(SUFFIXES, key=lambda suffix: suffix != ".jsonl.gz"))
    rows = tuple(_example(raw, names) for raw in read_table(path))
    if not rows:
        raise FedhftError(ErrorCode.INVALID_DATA, f"data {path}: has no rows; add at least one")
    return rows


def _example(raw: RawRow, names: tuple[str, ...]) -> Example:
    text, pair = raw.columns.get("text"), raw.columns.get("text_pair")
    for column, value in (("text", text), ("text_pair", "" if pair is None else pair)):
        if not isinstance(value, str):
            raise raw.refused(column, f"{'is missing' if value is None else 'is not text'}; {_ROW}")
    label = _number(raw.columns.get("label"))
    if label is None:
        raise raw.refused("label", f"is not a finite number; {_ROW}")
    if names and not (label.is_integer() and 0 <= label < len(names)):
        raise raw.refused(
            "label",
            f"is outside 0..{len(names) - 1}; fix the row or list every label in label_names of meta.json",
        )
    return Example(str(text), pair, label)


def _number(value: object) -> float | None:
    """A finite number, or one written as text, as in CSV; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _label_names(folder: Path) -> tuple[str, ...] | None:
    path = folder / "meta.json"
    if not path.is_file():
        return None
    raw = read_json(path, str(path), ErrorCode.INVALID_DATA)
    names = raw.get("label_names") if isinstance(raw, dict) else None
    if not isinstance(names, list) or len(set(map(str, names))) != len(names):
        raise FedhftError.field(
            ErrorCode.INVALID_DATA, "label_names", names, "must be distinct names in class order", f"fix {path}"
        )
    return tuple(str(name) for name in names)
