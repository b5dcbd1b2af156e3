"""Scores of a network on labelled rows: the task's score, the loss, and the score of a constant answer to compare."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from fedhft.training.batches import EncodedRows, scoring_batches
from fedhft.training.network import Network
from fedhft.training.tasks.interface import Targets
from fedhft.v1 import federation_pb2 as pb


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
    logits = predict(network, rows)
    return pb.Score(
        split=split,
        moment=moment,
        view=view,
        value=task.score(logits, rows.targets),
        loss=float(task.loss(torch.from_numpy(logits), torch.from_numpy(rows.targets))),
        rows=len(rows),
        majority=task.baseline(train_targets, rows.targets),
    )


def predict(network: Network, rows: EncodedRows) -> NDArray[np.float32]:
    """Logits, float32 (rows x outputs), in the order of the rows."""
    network.model.eval()
    out = np.zeros((len(rows), network.task.outputs), np.float32)
    with torch.no_grad():
        for index in scoring_batches(rows.lengths):
            out[index] = network.forward(rows, index).cpu().numpy()
    return out
