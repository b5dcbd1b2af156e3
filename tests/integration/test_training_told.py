"""What a worker makes of the news that its update was not folded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.models import tiny_model
from tests.workers import job_for, train_task, worker_for


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("told") / "model")


def test_it_hears_of_a_round_once_even_across_a_restart(model: Path, tmp_path: Path) -> None:
    spec = job_for(model)
    worker = worker_for(spec, tmp_path)
    worker.commit(worker.train(train_task(1)))
    assert worker.hear(1, left_out=False)
    assert not worker.hear(1, left_out=True)
    again = worker_for(spec, tmp_path)
    assert again.outcome_seen == 1
    assert not again.hear(1, left_out=False)
    assert again.hear(2, left_out=False)


def test_a_later_acknowledgement_does_not_make_it_forget(model: Path, tmp_path: Path) -> None:
    spec = job_for(model)
    worker = worker_for(spec, tmp_path)
    worker.commit(worker.train(train_task(1)))
    second = worker.train(train_task(2, version=0))
    assert worker.hear(1, left_out=True)
    worker.commit(second)
    assert worker.outcome_seen == worker_for(spec, tmp_path).outcome_seen == 1


def test_a_round_that_left_its_update_out_is_trained_again_with_the_state_it_has(model: Path) -> None:
    worker = worker_for(job_for(model, wire={"up": "int8"}))
    worker.commit(worker.train(train_task(1)))
    carried = {key: error.copy() for key, error in worker._state.carried.items()}
    assert carried
    worker.hear(1, left_out=True)
    second = worker.train(train_task(1))  # a worker that took it for another job's first round would forget everything
    assert worker._state.carried.keys() == carried.keys()
    assert all(np.array_equal(worker._state.carried[key], error) for key, error in carried.items())
    worker.commit(second)
    assert worker._state.round == 1


def test_a_round_that_only_scaled_it_down_stays_done(model: Path) -> None:
    worker = worker_for(job_for(model))
    worker.commit(worker.train(train_task(1)))
    worker.hear(1, left_out=False)
    assert worker._state.round == 1
