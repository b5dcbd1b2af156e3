"""What coding drops of an update: it is sent with later ones, where that means something."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedhft.adapter import Float32, TensorKey
from fedhft.v1 import adapter_pb2
from fedhft.wire.codec import decode, encode
from tests.models import tiny_model
from tests.unit.wire_examples import largest_code
from tests.workers import job_for, plan, train_task, worker_for

UPDATE = adapter_pb2.BLOB_KIND_UPDATE


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


def test_what_coding_drops_is_sent_with_the_next_update(model: Path) -> None:
    spec = job_for(model, wire={"up": "int8", "error_feedback_decay": 1.0})
    worker = worker_for(spec)
    wanted: dict[TensorKey, Float32] = {}
    got: dict[TensorKey, Float32] = {}
    exact = worker_for(job_for(model, wire={"up": "fp32", "error_feedback": False}))
    for number in range(1, 6):
        task = train_task(number, version=0, planned=plan(), seed=number)
        draft = worker.train(task)
        for key, matrix in decode(draft.blob, worker.schema, kind=UPDATE).delta:
            got[key] = got.get(key, 0) + matrix.dense()
        for key, matrix in decode(exact.train(task).blob, worker.schema, kind=UPDATE).delta:
            wanted[key] = wanted.get(key, 0) + matrix.dense()
        worker.commit(draft)
    carried = worker._state.carried
    assert carried
    for key, total in wanted.items():
        np.testing.assert_allclose(got[key] + carried.get(key, 0), total, atol=1e-6)
        # One round's rounding error, not five rounds' worth.
        assert np.abs(got[key] - total).max() <= np.abs(carried.get(key, np.zeros(1))).max() + 1e-6


def test_error_of_rows_that_are_not_sent_waits_and_decays(model: Path) -> None:
    spec = job_for(model, wire={"error_feedback_decay": 0.5}, mask={"exploration": 0.0})
    worker = worker_for(spec)
    draft = worker.train(train_task(planned=plan(density=0.5)))
    worker.commit(draft)
    first = dict(worker._state.carried)
    draft = worker.train(train_task(2, version=0, planned=plan(density=0.5, depth=1)))
    worker.commit(draft)
    sent = {key for key, _ in decode(draft.blob, worker.schema, kind=UPDATE).delta}
    waiting = [key for key in first if key not in sent]
    assert waiting
    for key in waiting:
        np.testing.assert_array_equal(worker._state.carried[key], np.float32(0.5) * first[key])


@pytest.mark.parametrize("levels", [3, 127])
def test_an_update_is_coded_with_the_levels_of_the_job(model: Path, levels: int) -> None:
    worker = worker_for(job_for(model, wire={"up": "int8", "levels": levels}))
    blob = worker.train(train_task()).blob
    values = decode(blob, worker.schema, kind=UPDATE).delta.values
    assert 0.94 * levels - 0.5 <= largest_code(blob, values) <= levels


@pytest.mark.parametrize(
    ("method", "wire"), [("fedhft-paper", {"up": "int8"}), ("fedhft", {"up": "int8", "error_feedback": False})]
)
def test_no_error_is_carried_where_it_would_mean_nothing(model: Path, method: str, wire: dict[str, object]) -> None:
    worker = worker_for(job_for(model, method=method, wire=wire))
    worker.commit(worker.train(train_task()))
    assert worker._state.carried == {}


def test_restart_rounds_stochastically(model: Path) -> None:
    # Training draws on the task's seed too, so compare the codes of one delta: repeated with its seed, unlike nearest.
    worker = worker_for(job_for(model, method="fedhft-paper", wire={"up": "int8"}))
    draft = worker.train(train_task(planned=plan(epochs=2)))
    delta = worker._network.delta(worker.plan(plan(epochs=2)), {})
    coded = [
        encode(delta, worker.schema, kind=UPDATE, encoding="int8", group=64, version=0, rounding_seed=seed)
        for seed in (7, None)
    ]
    assert draft.blob == coded[0]
    assert draft.blob != coded[1]
