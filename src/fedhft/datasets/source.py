"""A data set as a folder: the splits `train` and `validation`, optionally with `meta.json`.

Its rows are read as an agent reads its own (`client_data`), so that a simulation and a demo see what agents would.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from fedhft.datasets.client_data import parse_rows
from fedhft.datasets.examples import Example
from fedhft.datasets.tables import RawRow, read_table
from fedhft.documents import read_json
from fedhft.errors import ErrorCode, FedhftError
from fedhft.job_task import TaskSpec
from fedhft.training.tasks import kind_for, task_of

_PAIR = "text_pair"


@dataclass(frozen=True)
class Source:
    """A data set before it is partitioned. labels: names in class order; empty where rows do not form classes."""

    name: str
    labels: tuple[str, ...]
    train: tuple[Example, ...]
    validation: tuple[Example, ...]


def read_source(folder: Path, spec: TaskSpec | None = None) -> Source:
    """Read the splits `train` and `validation` of a folder as a job's task does.

    Without a task, columns are `text`, `label` and, for pairs, `text_pair`, and `label_names` of `meta.json` name the
    classes; without that file class indices become the names, unless some label is not an index: then labels are
    numbers. Raises FedhftError(INVALID_DATA) naming file, line and fix, (INVALID_ARGUMENT) when the job's label names
    are not those of meta.json.
    """
    if not folder.is_dir():
        raise FedhftError.field(
            ErrorCode.INVALID_DATA, "data", str(folder), "is not a folder",
            "give one with train and validation files",
        )  # fmt: skip
    names = _label_names(folder)
    train, validation = (tuple(read_table(folder, split)) for split in ("train", "validation"))
    for split, rows in (("train", train), ("validation", validation)):
        if not rows:
            raise FedhftError(ErrorCode.INVALID_DATA, f"data {folder}: the {split} split has no rows; add at least one")
    if spec is None:
        spec = _task(names, chain(train, validation), has_pairs=any(_PAIR in row.columns for row in train))
    elif spec.labels and names is not None and spec.labels != names:
        raise FedhftError.field(
            ErrorCode.INVALID_DATA, "task.labels", list(spec.labels), f"the data has {list(names)}",
            "write the labels of the data's meta.json into the job, in that order",
        )  # fmt: skip
    task = task_of(spec)
    parsed = (tuple(parse_rows(rows, task)) for rows in (train, validation))
    return Source(folder.resolve().name, spec.labels if task.split_by_class else (), *parsed)


def _task(names: tuple[str, ...] | None, rows: Iterable[RawRow], *, has_pairs: bool) -> TaskSpec:
    """The task that data without a job is for."""
    if names is None:
        values = [_number(raw) for raw in rows]
        classes = int(max(values)) + 1 if all(value.is_integer() and value >= 0 for value in values) else 0
        # A single index is a class of a task that needs two.
        names = tuple(str(index) for index in range(max(2, classes))) if 0 < classes <= _MOST_CLASSES else ()
    return TaskSpec(kind=kind_for(names), labels=names, text_pair=_PAIR if has_pairs else None)


_MOST_CLASSES = 4096


def _number(raw: RawRow) -> float:
    """The label of a row of numbers. Raises FedhftError(INVALID_DATA)."""
    value = raw.value("label", "task.label")
    task = task_of(TaskSpec(kind=kind_for(())))
    return float(task.parse(RawRow(raw.where, {"text": "", "label": value})).class_index)


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
