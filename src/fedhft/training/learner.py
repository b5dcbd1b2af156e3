"""Local training: AdamW on exactly what the plan trains."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from fedhft import seeds
from fedhft.adapter import RowIndex, TensorKey
from fedhft.errors import ErrorCode, FedhftError
from fedhft.job_sections import TrainingSpec
from fedhft.plan import AdapterPlan, steps_of
from fedhft.training.batches import EncodedRows, padded_tokens, training_batches
from fedhft.training.device.state import random_numbers_apart, wide
from fedhft.training.importance import Importance
from fedhft.training.lean_imports import without_compiler
from fedhft.training.network import Network
from fedhft.training.objective import Objective, objective_of
from fedhft.training.pruning import TailPenalty
from fedhft.training.schedule import Proximal, share_of_rate


class TrainingStopped(Exception):  # noqa: N818 - a request, not an error
    """Local training was asked to stop between two batches; none of it is kept."""


@dataclass(frozen=True)
class TrainingReport:
    """How one local training went."""

    steps: int
    seconds: float
    """Wall seconds."""
    loss: float
    """Mean of the mini-batch losses."""


def train(
    network: Network,
    rows: EncodedRows,
    plan: AdapterPlan,
    masks: Mapping[TensorKey, RowIndex | None],
    settings: TrainingSpec,
    *,
    learning_rate: float,
    seed: int,
    importance: Importance | None,
    should_stop: Callable[[], bool],
) -> TrainingReport:
    """Train from the network's current values. Deterministic on one thread: data order and dropout depend on `seed`.

    Raises TrainingStopped when `should_stop` returns true, FedhftError(NON_FINITE) when the loss is not finite.
    """
    started = time.perf_counter()
    steps = steps_of(len(rows), settings.batch_size, plan.epochs, plan.max_steps)
    objective = objective_of(network.task, settings, rows.targets)
    total = 0.0
    with (
        without_compiler(),
        random_numbers_apart(network.device),
        torch.enable_grad(),
        network.trainable(plan, masks, importance) as parameters,
    ):
        torch.manual_seed(seeds.seed_of("dropout", seed) >> 1)
        network.training_mode()
        # Many small tensors: on an accelerator, starting an operation takes longer than carrying it out.
        at_once = network.device.type == "cuda"
        optimiser = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=settings.weight_decay, foreach=at_once)
        proximal = Proximal(parameters, settings.proximal)
        penalty = TailPenalty(network, plan, settings)
        for step, batch in enumerate(training_batches(rows.lengths, settings.batch_size, seed, steps)):
            if should_stop():
                raise TrainingStopped
            for group in optimiser.param_groups:
                group["lr"] = learning_rate * share_of_rate(settings, step, steps)
            optimiser.zero_grad(set_to_none=True)
            value = backward(network, rows, batch, objective, importance)
            if not total:
                check_gradients(network, plan, parameters)
            proximal.add_gradients()
            penalty.add_gradients()
            clip(parameters, settings.max_grad_norm)
            optimiser.step()
            if not value - value == 0.0:
                raise FedhftError.field(
                    ErrorCode.NON_FINITE, "training.learning_rate", learning_rate, f"the loss became {value}",
                    "lower the learning rate",
                )  # fmt: skip
            total += value
    return TrainingReport(steps, time.perf_counter() - started, total / steps)


def probe(
    network: Network,
    rows: EncodedRows,
    plan: AdapterPlan,
    settings: TrainingSpec,
    *,
    seed: int,
    importance: Importance,
    batches: int,
) -> None:
    """Show `importance` the gradients of a few mini-batches at the network's current values, changing nothing."""
    network.model.eval()
    objective = objective_of(network.task, settings, rows.targets)
    with torch.enable_grad(), network.trainable(plan, {}, importance):
        for batch in training_batches(rows.lengths, settings.batch_size, seeds.seed_of("probe", seed), batches):
            backward(network, rows, batch, objective, importance)


def backward(
    network: Network,
    rows: EncodedRows,
    batch: NDArray[np.int64],
    objective: Objective | None = None,
    importance: Importance | None = None,
) -> float:
    """Add the gradient of a batch's mean loss to the parameters' gradients, and return the loss.

    The batch is passed in the parts that there is memory for. A loss is a mean over targets, so that of a part with n
    of the batch's N targets weighs n / N: gradients are those of the whole batch. objective: None is the task's loss.
    """
    cut = network.training_parts(rows, batch)
    targets = int(rows.sizes[batch].sum())
    if importance is not None:
        importance.parts = len(cut)
    total = 0.0
    for part in cut:
        wanted = torch.from_numpy(rows.wanted(part)).to(network.device)
        share = len(wanted) / targets if len(cut) > 1 and targets else 1.0
        loss = (objective or network.task.loss)(network.forward(rows, part), wanted)
        with network.stopwatch.backward.running(padded_tokens(rows.lengths, part) * network.depth):
            (loss if share == 1.0 else loss * share).backward()
        total += share * float(loss.detach())
    return total


def check_gradients(network: Network, plan: AdapterPlan, parameters: Sequence[torch.nn.Parameter]) -> None:
    """Refuse to go on where something that is to be trained got no gradient: it would stay as it is without a word.

    Raises FedhftError(INVALID_MODEL) naming it.
    """
    keys = network.trained_keys(plan)
    without = [key for key, parameter in zip(keys, parameters, strict=True) if parameter.grad is None]
    if without:
        raise FedhftError(
            ErrorCode.INVALID_MODEL,
            f"{type(network.model).__name__}: {without[0].name} ({without[0].part}) and {len(without) - 1} more get no "
            "gradient, so they would not be trained; name other adapter.targets, or use another model",
        )


def clip(parameters: Sequence[torch.nn.Parameter], max_norm: float) -> None:
    """Scale gradients so that their joint norm is at most `max_norm`.

    Squares are summed in float64: rows that a mask leaves out would add exact zeros, but would change the order of a
    float32 sum and with it the last bit of the scale.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norms = [torch.linalg.vector_norm(wide(gradient), dtype=torch.float64) for gradient in gradients]
    norm = (
        sum(value**2 for value in torch.stack(norms).cpu().tolist()) ** 0.5 if norms else 0.0
    )  # waits for a device once
    if norm > max_norm:
        for gradient in gradients:
            gradient.mul_(max_norm / norm)
