"""Scores of a network on labelled rows (DESIGN 9): accuracy or Pearson correlation, loss, and the majority label
beside it.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from fedhft.adapter import Float64
from fedhft.training.batches import EncodedRows, scoring_batches
from fedhft.training.learner import mean_loss
from fedhft.training.network import Network
from fedhft.v1 import federation_pb2 as pb


def score(
    network: Network,
    rows: EncodedRows,
    *,
    regression: bool,
    majority_label: float | None,
    split: pb.Score.Split.ValueType,
    moment: pb.Score.Moment.ValueType,
    view: pb.Score.View.ValueType,
) -> pb.Score:
    """Score `rows` (not empty) without gradients or dropout. majority_label: commonest training label; None for
    regression.
    """
    logits = predict(network, rows)
    labels = torch.from_numpy(rows.labels)
    loss = float(mean_loss(torch.from_numpy(logits), labels, regression))
    if regression:
        value = pearson(logits[:, 0].astype(np.float64), rows.labels)
    else:
        value = float(np.mean(logits.argmax(1) == rows.labels.astype(np.int64)))
    majority = 0.0 if majority_label is None else float(np.mean(rows.labels == majority_label))
    return pb.Score(split=split, moment=moment, view=view, value=value, loss=loss, rows=len(rows), majority=majority)


def predict(network: Network, rows: EncodedRows) -> NDArray[np.float32]:
    """Logits, float32 (rows x outputs), in the order of the rows."""
    network.model.eval()
    out: NDArray[np.float32] | None = None
    with torch.no_grad():
        for index in scoring_batches(rows.lengths):
            inputs, _ = rows.batch(index)
            logits = network.logits(inputs).numpy()
            if out is None:
                out = np.zeros((len(rows), logits.shape[1]), np.float32)
            out[index] = logits
    return np.zeros((0, 1), np.float32) if out is None else out


def pearson(predicted: Float64, wanted: Float64) -> float:
    """Pearson correlation; 0 where one side does not vary (or there are fewer than two rows)."""
    if len(wanted) < 2:
        return 0.0
    a, b = predicted - predicted.mean(), wanted - wanted.mean()
    scale = float(np.sqrt(np.sum(a * a) * np.sum(b * b)))
    return float(np.sum(a * b)) / scale if scale > 0 and np.isfinite(scale) else 0.0


def majority_label(labels: Float64) -> float:
    """The commonest label; the smallest of several."""
    values, counts = np.unique(labels, return_counts=True)
    return float(values[counts.argmax()])
