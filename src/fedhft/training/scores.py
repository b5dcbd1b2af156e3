"""Scores of a network on labelled rows: the task's metrics, the loss, and what a constant answer would score."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from fedhft.scoring.metrics import MOST_FIGURE
from fedhft.training.batches import SCORING_BATCH, EncodedRows, scoring_batches
from fedhft.training.network import Network
from fedhft.training.tasks import Task
from fedhft.training.tasks.interface import Tally, Targets
from fedhft.training.tasks.places import PlaceTask
from fedhft.v1 import federation_pb2 as pb

Forward = Callable[[EncodedRows, NDArray[np.int64]], torch.Tensor]
"""(rows, row numbers) -> the logits that count, float32, row after row."""

PLACES_AT_ONCE = 16
"""Rows scored at once where every place has logits, as many as the vocabulary has tokens."""

_MOST_LOGITS = 512
"""Places whose logits are held at once: with a vocabulary of 150,000 tokens they take 300 MB."""


def score(
    network: Network,
    rows: EncodedRows,
    train_targets: Targets,
    *,
    split: pb.Score.Split.ValueType,
    moment: pb.Score.Moment.ValueType,
    view: pb.Score.View.ValueType,
) -> pb.Score:
    """Score `rows` (not empty) without gradients or dropout. train_targets: determine the constant answer."""
    task = network.task
    network.model.eval()
    counted, loss = count(task, network.forward, rows)
    floors = task.floor(train_targets, rows.targets)
    first, *_ = task.metrics
    shared = split == pb.Score.SPLIT_SHARED  # only shares of a common split are pooled
    return pb.Score(
        split=split,
        moment=moment,
        view=view,
        value=counted.metric(first),
        loss=loss,
        rows=len(rows),
        majority=max(0.0, floors[first]),
        metrics=[
            pb.Metric(name=name, value=_bounded(counted.metric(name)), floor=_bounded(floors[name]))
            for name in task.metrics
        ],
        sums=counted.sums if shared and task.spec.sums else (),
    )


def predict(network: Network, rows: EncodedRows) -> NDArray[np.float32]:
    """Logits, float32 (rows x outputs), in the order of the rows; for tasks with one answer per row."""
    network.model.eval()
    return _whole(network.task, network.forward, rows)


def count(task: Task, forward: Forward, rows: EncodedRows) -> tuple[Tally, float]:
    """What the task counts over rows, and the mean loss over all targets. forward: of a model in eval mode."""
    if not isinstance(task, PlaceTask):
        logits = _whole(task, forward, rows)
        loss = float(task.loss(torch.from_numpy(logits), torch.from_numpy(rows.targets)))
        return task.tally(logits, rows.targets, rows.sizes), loss
    # Every place has as many logits as there are classes: a vocabulary of them cannot be held for all rows.
    sums, loss, places = None, 0.0, 0
    for index, part in logits_by_batch(forward, rows, PLACES_AT_ONCE):
        wanted = rows.wanted(index)
        counted = task.tally(part.numpy(), wanted, rows.sizes[index]).sums
        sums = counted if sums is None else sums + counted
        loss += float(task.loss(part, torch.from_numpy(wanted))) * len(wanted)
        places += len(wanted)
    return task.summed(sums if sums is not None else np.zeros(0)), loss / max(1, places)


def logits_by_batch(
    forward: Forward, rows: EncodedRows, most: int = SCORING_BATCH
) -> Iterator[tuple[NDArray[np.int64], torch.Tensor]]:
    """(row numbers, their logits on the CPU), at most `most` rows and _MOST_LOGITS places at once (a row at least)."""
    for batch in scoring_batches(rows.lengths, most):
        edges = np.cumsum(rows.sizes[batch]) // _MOST_LOGITS
        for index in np.split(batch, np.flatnonzero(np.diff(edges)) + 1):
            with torch.no_grad():
                logits = forward(rows, index).cpu()
            yield index, logits


def _whole(task: Task, forward: Forward, rows: EncodedRows) -> NDArray[np.float32]:
    out = np.zeros((len(rows), task.outputs), np.float32)
    for index, logits in logits_by_batch(forward, rows):
        out[index] = logits.numpy()
    return out


def _bounded(value: float) -> float:
    return min(max(value, -MOST_FIGURE), MOST_FIGURE)
