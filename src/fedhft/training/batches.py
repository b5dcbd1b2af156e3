"""Rows as token ids, and the order in which they are read.

Rows of similar length go in one batch: on a CPU this halves the time of an epoch, because padding costs as much as
text.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedhft import seeds
from fedhft.datasets.examples import Example
from fedhft.training.tasks import Task
from fedhft.training.tasks.interface import Targets, Tokens, flat, sizes_of

BUCKET = 8
"""Batches per bucket: within one, rows are sorted by length, so batches stay random but need little padding."""
SCORING_BATCH = 64


@dataclass(frozen=True, eq=False)
class EncodedRows:
    """Tokenised rows, as a task made them. targets: (n, ...) as the task encodes them; pad: the token id that pads;
    left: whether padding stands before a row, as the tokenizer asks. positions: whether the model is told positions, so
    that they do not depend on padding before a row.
    """

    rows: tuple[Tokens, ...]
    targets: Targets
    pad: int
    left: bool = False
    positions: bool = False

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens per row."""
        return np.array([len(row.ids) for row in self.rows], np.int64)

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """Targets per row."""
        return sizes_of(self.targets)

    @property
    def ids(self) -> tuple[NDArray[np.int32], ...]:
        """Token ids of every row."""
        return tuple(row.ids for row in self.rows)

    def take(self, index: Sequence[int] | NDArray[np.int64]) -> EncodedRows:
        """The rows `index`, in that order."""
        chosen = tuple(self.rows[i] for i in index)
        return replace(self, rows=chosen, targets=self.targets[np.asarray(index, np.int64)])

    def wanted(self, index: NDArray[np.int64]) -> NDArray[Any]:
        """Targets of the rows `index` in the order of their logits, (m, ...)."""
        return flat(self.targets[index])

    def inputs(self, index: NDArray[np.int64]) -> dict[str, torch.Tensor]:
        """The model's inputs for the rows `index`, padded to the longest; int64, on the CPU.

        Packed rows come with position ids that begin anew at every row of theirs and without an attention mask, which
        is how transformers' models know that none of them sees another.
        """
        rows = [self.rows[i] for i in index]
        packed = any(row.segments for row in rows)
        inputs = {"input_ids": self._padded([row.ids for row in rows], self.pad)}
        if packed:
            inputs["position_ids"] = self._padded([_positions(row) for row in rows], -1)
            places = (inputs["position_ids"] < 0).cumsum(1)  # padding is a row of its own
            inputs["position_ids"] = torch.where(places > 0, places - 1, inputs["position_ids"])
        else:
            inputs["attention_mask"] = self._padded([np.ones(len(row.ids), np.int32) for row in rows], 0)
            if self.left and self.positions:
                inputs["position_ids"] = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
        if rows[0].types is not None:
            inputs["token_type_ids"] = self._padded([row.types for row in rows if row.types is not None], 0)
        return inputs

    def places(self, index: NDArray[np.int64]) -> torch.Tensor | None:
        """Where outputs count, bool (rows x width), on the CPU; None where every row has one output."""
        rows = [self.rows[i] for i in index]
        if rows[0].places is None:
            return None
        marks = []
        for row in rows:
            mark = np.zeros(len(row.ids), np.int32)
            mark[row.places] = 1
            marks.append(mark)
        return self._padded(marks, 0).bool()

    def _padded(self, rows: Sequence[NDArray[np.int32]], value: int) -> torch.Tensor:
        width = max(len(row) for row in rows)
        out = np.full((len(rows), width), value, np.int64)
        for place, row in enumerate(rows):
            first = width - len(row) if self.left else 0
            out[place, first : first + len(row)] = row
        return torch.from_numpy(out)


def encode_rows(
    tokenizer: Any,
    task: Task,
    rows: Sequence[Example],
    max_length: int,
    with_types: bool,
    *,
    training: bool = False,
    counts_positions: bool = False,
) -> EncodedRows:
    """Tokenise rows, cutting each to `max_length` tokens. with_types: whether the model takes token_type_ids.

    training: whether they are to be trained on, and so may be packed. counts_positions: whether the model takes
    position ids and does not work them out from padding by itself (`LoadedBase`).
    """
    tokens, targets = task.tokenize(tokenizer, rows, max_length, with_types, training=training)
    left = getattr(tokenizer, "padding_side", "right") == "left" and not any(row.segments for row in tokens)
    return EncodedRows(tuple(tokens), targets, int(tokenizer.pad_token_id), left, counts_positions)


def _positions(row: Tokens) -> NDArray[np.int32]:
    return np.concatenate([np.arange(length, dtype=np.int32) for length in row.segments or (len(row.ids),)])


def training_batches(lengths: NDArray[np.int64], batch_size: int, seed: int, steps: int) -> Iterator[NDArray[np.int64]]:
    """`steps` batches of row numbers; each epoch is a new permutation from the specified generator.

    An epoch has ceil(n / batch_size) batches of nearly equal size (never a single row after full ones).
    """
    made = 0
    epoch = 0
    while made < steps:
        for batch in _epoch(lengths, batch_size, seeds.seed_of("epoch", seed, epoch)):
            if made == steps:
                return
            made += 1
            yield batch
        epoch += 1


def scoring_batches(lengths: NDArray[np.int64], batch_size: int = SCORING_BATCH) -> Iterator[NDArray[np.int64]]:
    """All rows once, shortest first."""
    order = np.argsort(lengths, kind="stable")
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def mean_tokens(lengths: NDArray[np.int64], batch_size: int) -> float:
    """Tokens of a training batch, with padding: the mean over one epoch."""
    return float(np.mean([padded_tokens(lengths, batch) for batch in _epoch(lengths, batch_size, 0)]))


def padded_tokens(lengths: NDArray[np.int64], index: NDArray[np.int64]) -> int:
    """Tokens of some rows, each padded to the longest of them."""
    return len(index) * int(lengths[index].max()) if len(index) else 0


def _epoch(lengths: NDArray[np.int64], batch_size: int, seed: int) -> list[NDArray[np.int64]]:
    rows = len(lengths)
    order = np.argsort(seeds.integers(seed, rows), kind="stable")
    count = math.ceil(rows / batch_size)
    batches: list[NDArray[np.int64]] = []
    edges = np.linspace(0, rows, count + 1).round().astype(np.int64)
    for first in range(0, count, BUCKET):
        last = min(first + BUCKET, count)
        bucket = order[edges[first] : edges[last]]
        bucket = bucket[np.argsort(lengths[bucket], kind="stable")]
        batches.extend(np.split(bucket, edges[first + 1 : last] - edges[first]))
    shuffled = np.argsort(seeds.integers(seeds.seed_of("batches", seed), count), kind="stable")
    return [batches[place] for place in shuffled]
