"""The learning rate inside a round, and FedProx."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import get_scheduler

from fedhft.adapter import Float32, TensorKey
from fedhft.errors import ErrorCode, FedhftError
from fedhft.job_sections import TrainingSpec
from fedhft.training.schedule import Proximal, share_of_rate
from fedhft.v1 import adapter_pb2
from fedhft.wire.codec import decode
from tests.light import light_job
from tests.models import tiny_model
from tests.workers import job_for, plan, train_task, worker_for


@given(
    schedule=st.sampled_from(["constant", "linear", "cosine"]),
    warmup=st.sampled_from([0.0, 0.1, 0.5]),
    steps=st.integers(1, 60),
)
def test_the_rate_of_every_step_is_that_of_transformers_after_warming_up(
    schedule: Any, warmup: float, steps: int
) -> None:
    warming = math.ceil(warmup * steps)
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    name = "constant_with_warmup" if schedule == "constant" else schedule
    theirs = get_scheduler(name, optimiser, num_warmup_steps=warming, num_training_steps=steps)
    settings = TrainingSpec(schedule=schedule, warmup=warmup)
    for step in range(steps):
        ours = share_of_rate(settings, step, steps)
        assert 0 < ours <= 1
        if step >= warming:
            assert ours == pytest.approx(theirs.get_last_lr()[0], abs=1e-9)
        else:  # theirs begins with a step of nothing
            assert ours == (step + 1) / warming
        optimiser.step()
        theirs.step()


def test_the_proximal_gradient_is_that_of_half_the_squared_distance() -> None:
    w = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    other = torch.nn.Parameter(torch.zeros(2))
    term = Proximal([w, other], 0.5)
    with torch.no_grad():
        w.add_(torch.tensor([0.25, 0.5]))
    w.grad = torch.tensor([1.0, 1.0])
    term.add_gradients()
    np.testing.assert_allclose(w.grad.numpy(), [1.125, 1.25])
    assert other.grad is None


def update(path: Path, **training: Any) -> dict[TensorKey, Float32]:
    spec = job_for(path, training=training, wire={"up": "fp32"}, method="fedit")
    worker = worker_for(spec)
    draft = worker.train(train_task(1, version=0, planned=plan(epochs=2), learning_rate=2e-2))
    delta = decode(draft.blob, worker.schema, kind=adapter_pb2.BLOB_KIND_UPDATE).delta
    return {key: matrix.dense() for key, matrix in delta}


def norm(tensors: dict[TensorKey, Float32]) -> float:
    return math.sqrt(sum(float(np.square(values).sum()) for values in tensors.values()))


def test_fedprox_keeps_a_clients_update_shorter(tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "base")
    assert norm(update(path, proximal=10.0)) < 0.7 * norm(update(path))


def test_a_falling_rate_makes_another_update_than_a_constant_one(tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "base")
    constant, falling = update(path), update(path, schedule="linear", warmup=0.2)
    assert 0.2 * norm(constant) < norm(falling) < 0.95 * norm(constant)


def test_lora_dropout_is_in_training_and_nowhere_else(tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "base")
    with_it, without = (
        worker_for(job_for(path, adapter={"targets": ["query", "value"], "rank": 4, "alpha": 8, "dropout": share}))
        for share in (0.5, 0.0)
    )
    first = [
        worker.train(train_task(1, version=0, planned=plan(), learning_rate=2e-2)) for worker in (with_it, without)
    ]
    before = [[(score.value, score.loss) for score in draft.scores if score.moment == 1] for draft in first]
    assert before[0] == before[1]
    assert first[0].blob != first[1].blob


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("training", "schedule", "step"),
        ("training", "warmup", 1.0),
        ("training", "proximal", -1.0),
        ("adapter", "dropout", 1.0),
    ],
)
def test_what_cannot_be_is_refused_by_name(section: str, field: str, value: object) -> None:
    with pytest.raises(FedhftError, match=f"{section}.{field}") as caught:
        light_job("j", **{section: {field: value}})
    assert caught.value.code is ErrorCode.INVALID_JOB
