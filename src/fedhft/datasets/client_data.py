"""A client's rows: parsed by the job's task, split, and identified by a digest."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedhft import seeds
from fedhft.datasets.examples import Example
from fedhft.datasets.tables import RawRow, read_table
from fedhft.errors import ErrorCode, FedhftError
from fedhft.job import JobSpec
from fedhft.job_task import TaskSpec
from fedhft.training.tasks import Task, task_of

_PAIR = "text_pair"
_PARTNERS = {
    "sentence1": "sentence2", "sentence_1": "sentence_2", "premise": "hypothesis", "question1": "question2",
    "text1": "text2", "text_a": "text_b", "query": "passage",
}  # fmt: skip
"""Columns of known data sets that hold the second text of a pair, by that of the first."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClientData:
    """What one client trains on and is scored by.

    train: training rows; never empty. holdout: rows of its personal score; may be empty. shared: the common validation
    split, None if this agent has none. digest: SHA-256 (hex) of the training rows, to tell whether a cached signature
    is theirs.
    """

    train: tuple[Example, ...]
    holdout: tuple[Example, ...]
    shared: tuple[Example, ...] | None
    digest: str

    @classmethod
    def of(
        cls, train: Sequence[Example], holdout: Sequence[Example] = (), shared: Sequence[Example] | None = None
    ) -> ClientData:
        """Rows that are already parsed and split. Raises FedhftError(INVALID_DATA) when `train` is empty."""
        if not train:
            raise FedhftError(ErrorCode.INVALID_DATA, "data: no training rows; give the agent at least one")
        return cls(tuple(train), tuple(holdout), None if shared is None else tuple(shared), rows_digest(train))


def load_client_data(
    spec: JobSpec, client: str, train: str | Path, holdout: str | Path | None = None, shared: str | Path | None = None
) -> ClientData:
    """Read a client's files. Without a holdout file, evaluation.holdout of the rows are held out, by class and seed.

    Raises FedhftError(INVALID_DATA) naming file, line, column and fix.
    """
    task = task_of(spec.task)
    rows = load_rows(train, spec.task)
    if holdout is not None:
        held = load_rows(holdout, spec.task, "validation")
    else:
        seed = seeds.seed_of("holdout", spec.seed, client)
        rows, held = split_rows(rows, spec.evaluation.holdout, seed, by_class=task.split_by_class)
    return ClientData.of(rows, held, load_rows(shared, spec.task, "validation") if shared is not None else None)


def load_rows(source: str | Path, spec: TaskSpec, split: str = "train") -> tuple[Example, ...]:
    """Read and check every row of a source (see `tables.read_table`). Raises FedhftError(INVALID_DATA), including when
    it is empty.
    """
    task = task_of(spec)
    rows = tuple(parse_rows(read_table(source, split), task))
    if not rows:
        raise FedhftError(ErrorCode.INVALID_DATA, f"data {source}: the {split} split is empty; give at least one row")
    return rows


def split_rows(
    rows: Sequence[Example], share: float, seed: int, *, by_class: bool = True
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """(train, holdout): holds out `share` of the rows, drawn by `seed`; both keep the source's order.

    Holds out round(share * n) rows, at least one if there are two or more. With `by_class` they are spread over the
    classes by largest remainder (ties by seed), and every class keeps a training row, even if fewer are then held out.
    """
    if share <= 0 or len(rows) < 2:
        return tuple(rows), ()
    wanted = max(1, math.floor(share * len(rows) + 0.5))
    classes: dict[float, list[int]] = {}
    for index, row in enumerate(rows):
        classes.setdefault(row.class_index if by_class else 0.0, []).append(index)
    exact = {label: share * len(members) for label, members in sorted(classes.items())}
    taken = {label: min(math.floor(value), len(classes[label]) - 1) for label, value in exact.items()}
    for label in sorted(exact, key=lambda label: (taken[label] - exact[label], seeds.seed_of(seed, repr(label)))):
        if sum(taken.values()) >= wanted:
            break
        if taken[label] < len(classes[label]) - 1:
            taken[label] += 1
    held: set[int] = set()
    for label, members in sorted(classes.items()):
        order = np.argsort(seeds.integers(seeds.seed_of("split", seed, repr(label)), len(members)), kind="stable")
        held.update(members[position] for position in order[: taken[label]])
    return (
        tuple(row for index, row in enumerate(rows) if index not in held),
        tuple(row for index, row in enumerate(rows) if index in held),
    )


def rows_digest(rows: Iterable[Example]) -> str:
    """SHA-256 (hex) over everything in the rows, in order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row.identity()).encode() + b"\n")
    return digest.hexdigest()


def parse_rows(raws: Iterable[RawRow], task: Task) -> Iterator[Example]:
    """Rows as the task reads them. Raises FedhftError(INVALID_DATA), also where a second text would go unread."""
    for number, raw in enumerate(raws):
        _notice_pairs(raw, task.spec, warn=number == 0)
        yield task.parse(raw)


def _notice_pairs(raw: RawRow, spec: TaskSpec, *, warn: bool) -> None:
    """Refuse, or warn of, a second text that the job does not name: a model that reads half of each row still learns.

    Raises FedhftError(INVALID_DATA).
    """
    if spec.text_pair is not None or not spec.may_have_pairs:
        return
    if _PAIR in raw.columns and raw.columns[_PAIR] is not None and _PAIR not in (spec.text, spec.label):
        raise raw.refused(
            _PAIR, f'the job reads only {spec.text!r}; set text_pair = "{_PAIR}" in [task], or remove the column'
        )
    partner = _PARTNERS.get(spec.text)
    if warn and partner in raw.columns and partner != spec.label:
        _log.warning(
            "data %s: has a column %r beside %r, which the job does not read; if rows are pairs, set task.text_pair",
            raw.where, partner, spec.text,
        )  # fmt: skip
