"""Rows as token ids, and the order in which they are read.

Rows of similar length go in one batch: on a CPU this halves the time of an epoch, because padding costs as much as
text.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedhft import seeds
from fedhft.datasets.examples import Example
from fedhft.training.tasks import Task
from fedhft.training.tasks.interface import Targets

BUCKET = 8
"""Batches per bucket: within one, rows are sorted by length, so batches stay random but need little padding."""
SCORING_BATCH = 64
_TOKENIZED_AT_ONCE = 1024


@dataclass(frozen=True, eq=False)
class EncodedRows:
    """Tokenised rows. ids, types: one int32 array per row; types is None if the model takes none; targets: (n, ...) as
    the task encodes them; pad: the token id that pads `ids`.
    """

    ids: tuple[NDArray[np.int32], ...]
    types: tuple[NDArray[np.int32], ...] | None
    targets: Targets
    pad: int

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens per row."""
        return np.array([len(ids) for ids in self.ids], np.int64)

    def take(self, index: Sequence[int] | NDArray[np.int64]) -> EncodedRows:
        """The rows `index`, in that order."""
        types = None if self.types is None else tuple(self.types[i] for i in index)
        return EncodedRows(
            tuple(self.ids[i] for i in index), types, self.targets[np.asarray(index, np.int64)], self.pad
        )

    def inputs(self, index: NDArray[np.int64]) -> dict[str, torch.Tensor]:
        """The model's inputs for the rows `index`, padded on the right to the longest; int64, on the CPU."""
        width = max(len(self.ids[i]) for i in index)
        ids = np.full((len(index), width), self.pad, np.int64)
        attention = np.zeros((len(index), width), np.int64)
        types = np.zeros((len(index), width), np.int64) if self.types is not None else None
        for place, i in enumerate(index):
            row = self.ids[i]
            ids[place, : len(row)] = row
            attention[place, : len(row)] = 1
            if types is not None and self.types is not None:
                types[place, : len(row)] = self.types[i]
        inputs = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(attention)}
        if types is not None:
            inputs["token_type_ids"] = torch.from_numpy(types)
        return inputs


def encode_rows(tokenizer: Any, task: Task, rows: Sequence[Example], max_length: int, with_types: bool) -> EncodedRows:
    """Tokenise rows, cutting each to `max_length` tokens. with_types: whether the model takes token_type_ids."""
    ids: list[NDArray[np.int32]] = []
    types: list[NDArray[np.int32]] = []
    for start in range(0, len(rows), _TOKENIZED_AT_ONCE):
        part = rows[start : start + _TOKENIZED_AT_ONCE]
        texts = [row.text for row in part]
        pairs = [row.text_pair or "" for row in part] if part[0].text_pair is not None else None
        encoded = tokenizer(
            texts, pairs, truncation=True, max_length=max_length, padding=False, return_token_type_ids=with_types
        )
        ids.extend(
            np.array(row, np.int32) if row else np.array([tokenizer.pad_token_id], np.int32)
            for row in encoded["input_ids"]
        )
        if with_types:
            types.extend(np.array(row, np.int32) if row else np.zeros(1, np.int32) for row in encoded["token_type_ids"])
    targets = task.encode([row.label for row in rows])
    return EncodedRows(tuple(ids), tuple(types) if with_types else None, targets, int(tokenizer.pad_token_id))


def steps_of(rows: int, batch_size: int, epochs: float, max_steps: int) -> int:
    """Optimiser steps of one local training: epochs * ceil(rows / batch_size), rounded, at least 1, at most
    max_steps (0: no cap).
    """
    steps = max(1, round(epochs * math.ceil(rows / batch_size)))
    return min(steps, max_steps) if max_steps else steps


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
