"""Masked training: what it trains, what it keeps, what it sees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from fedhft import seeds
from fedhft.adapter import Part, RowIndex, TensorKey
from fedhft.job import JobSpec
from fedhft.job_sections import TrainingSpec
from fedhft.plan import AdapterPlan
from fedhft.training.base import load_base
from fedhft.training.batches import EncodedRows, training_batches
from fedhft.training.importance import Importance
from fedhft.training.learner import clip, probe, train
from fedhft.training.masks import PROBE_BATCHES
from fedhft.training.network import Network
from tests.models import tiny_model
from tests.workers import data_of, job_for, plan, train_task, worker_for

PLAN = AdapterPlan("t", 3, 0.25, 2.0, 0, train_a=True, train_b=True)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(params=["fedhft", "fedhft-paper"])
def spec(request: pytest.FixtureRequest, model: Path) -> JobSpec:
    training = {"weight_decay": 0.01, "max_grad_norm": 0.05}  # small enough that every step is clipped
    return job_for(model, method=request.param, training=training)


def stage(spec: JobSpec) -> tuple[Network, EncodedRows]:
    network = Network.on(load_base(spec), spec)
    return network, network.encode(data_of().train)


def quarter(network: Network) -> dict[TensorKey, RowIndex | None]:
    """Every fourth row of every A and B, shifted per tensor."""
    masks: dict[TensorKey, RowIndex | None] = {}
    for place, key in enumerate(network.trained_keys(PLAN)):
        if key.part in (Part.A, Part.B):
            masks[key] = np.arange(place % 4, network.schema.shape(key)[0], 4, dtype=np.int32)
    return masks


def run(
    network: Network, rows: EncodedRows, spec: JobSpec, masks: dict[TensorKey, RowIndex | None], **given: object
) -> Importance:
    importance = Importance()
    train(
        network, rows, PLAN, masks, spec.training, learning_rate=1e-2, seed=5,
        importance=importance, should_stop=lambda: False,
    )  # fmt: skip
    return importance


def dense_masked_adamw(
    network: Network, rows: EncodedRows, spec: JobSpec, masks: dict[TensorKey, RowIndex | None]
) -> None:
    """The reference: every row has optimiser state; outside the mask gradients are zeroed and values restored."""
    keys = network.trained_keys(PLAN)
    keep = []
    with torch.random.fork_rng(devices=[]), torch.enable_grad(), network.trainable(PLAN, {}, None) as parameters:
        torch.manual_seed(seeds.seed_of("dropout", 5) >> 1)
        network.model.train()
        for key, parameter in zip(keys, parameters, strict=True):
            kept = torch.ones_like(parameter, dtype=torch.bool)
            index = masks.get(key)
            if index is not None:
                kept[:] = False
                kept[(slice(None), index) if key.part is Part.A else index] = True
            keep.append((parameter, kept, parameter.detach().clone()))
        optimiser = torch.optim.AdamW(parameters, lr=1e-2, weight_decay=spec.training.weight_decay, foreach=False)
        for batch in training_batches(rows.lengths, spec.training.batch_size, 5, 6):
            optimiser.zero_grad()
            functional.cross_entropy(network.forward(rows, batch), torch.from_numpy(rows.targets[batch])).backward()
            for parameter, kept, _ in keep:
                if parameter.grad is not None:
                    parameter.grad *= kept
            clip(parameters, spec.training.max_grad_norm)
            optimiser.step()
            with torch.no_grad():
                for parameter, kept, start in keep:
                    parameter.copy_(torch.where(kept, parameter, start))


def test_training_kept_rows_equals_dense_masked_adamw_to_the_bit(spec: JobSpec) -> None:
    network, rows = stage(spec)
    masks = quarter(network)
    network.load({}, 3, 1)
    run(network, rows, spec, masks)
    ours = {key: network.value(key).copy() for key in network.trained_keys(PLAN)}
    network.load({}, 3, 1)
    dense_masked_adamw(network, rows, spec, masks)
    for key, values in ours.items():
        assert values.tobytes() == network.value(key).tobytes(), key


def test_rows_outside_the_mask_stay_and_rows_inside_move(spec: JobSpec) -> None:
    network, rows = stage(spec)
    masks = quarter(network)
    network.load({}, 3, 1)
    before = {key: network.value(key).copy() for key in masks}
    run(network, rows, spec, masks)
    for key, index in masks.items():
        moved = np.flatnonzero((network.value(key) != before[key]).any(1))
        assert moved.tolist() == [] or index is not None
        assert index is not None
        assert set(moved) == set(index.tolist())


@pytest.fixture
def optimisers(monkeypatch: pytest.MonkeyPatch) -> list[torch.optim.AdamW]:
    """Every AdamW that training makes, looked at, not replaced."""
    made: list[torch.optim.AdamW] = []
    original = torch.optim.AdamW.__init__

    def note(self: torch.optim.AdamW, *args: object, **kwargs: object) -> None:
        original(self, *args, **kwargs)  # type: ignore[arg-type]
        made.append(self)

    monkeypatch.setattr(torch.optim.AdamW, "__init__", note)
    return made


def state_values(optimiser: torch.optim.AdamW) -> int:
    return sum(t.numel() for state in optimiser.state.values() for t in state.values() if t.ndim > 0)


def test_optimiser_state_and_gradients_exist_for_kept_rows_alone(
    model: Path, optimisers: list[torch.optim.AdamW]
) -> None:
    spec = job_for(model)
    network, rows = stage(spec)
    schema = network.schema
    network.load({}, 3, 1)
    run(network, rows, spec, {})
    network.load({}, 3, 1)
    run(network, rows, spec, quarter(network))
    factors = sum((slot.in_features + slot.out_features) * slot.rank for slot in schema.slots)
    head = sum(int(np.prod(parameter.shape)) for parameter in schema.head)
    assert [state_values(made) for made in optimisers] == [2 * (factors + head), 2 * (factors // 4 + head)]


def test_every_row_is_scored_whatever_the_mask_keeps(spec: JobSpec) -> None:
    network, rows = stage(spec)
    masks = quarter(network)
    network.load({}, 3, 1)
    scores = run(network, rows, spec, masks).means()
    assert set(scores) == set(masks)
    for key, score in scores.items():
        assert score.shape == (network.schema.shape(key)[0],)
        assert np.count_nonzero(score) == len(score), key


def test_masked_scores_are_the_dense_gradients(model: Path) -> None:
    # One step from the same start: the mask must not change the gradient that is seen.
    spec = job_for(model, training={"max_steps": 1})
    network, rows = stage(spec)
    one = AdapterPlan("t", 3, 0.25, 1.0, 1, train_a=True, train_b=True)
    seen = []
    for masks in ({}, quarter(network)):
        network.load({}, 3, 1)
        importance = Importance()
        train(
            network, rows, one, masks, spec.training, learning_rate=1e-2, seed=5,
            importance=importance, should_stop=lambda: False,
        )  # fmt: skip
        seen.append(importance.means())
    for key, score in seen[0].items():
        assert score.tobytes() == seen[1][key].tobytes()


def test_the_score_of_a_never_sent_row_changes_from_round_to_round(model: Path) -> None:
    spec = job_for(model, mask={"exploration": 0.0})
    worker = worker_for(spec)
    key = TensorKey(worker.schema.slots[-1].name, Part.B)
    histories = []
    for number in (1, 2, 3):
        worker.commit(worker.train(train_task(number, version=0, planned=plan(density=0.125), seed=number)))
        histories.append(worker._state.rows[key])
    never = np.flatnonzero(histories[-1].last_sent == 0)
    assert len(never)
    assert (histories[0].score[never] > 0).all()
    assert (histories[1].score[never] != histories[0].score[never]).all()
    assert (histories[2].score[never] != histories[1].score[never]).all()


def test_the_first_mask_is_chosen_by_gradients_not_at_random(model: Path) -> None:
    worker = worker_for(job_for(model, mask={"exploration": 0.0}))
    key = TensorKey(worker.schema.slots[-1].name, Part.B)
    draft = worker.train(train_task(planned=plan(density=0.25)))
    sent = np.flatnonzero(draft.after.rows[key].last_sent == 1)
    network, rows = stage(worker.spec)
    network.load({}, 3, 1)
    importance = Importance()
    probe(network, rows, PLAN, TrainingSpec(), seed=7, importance=importance, batches=PROBE_BATCHES)
    best = np.argsort(-importance.means()[key])[:8]
    assert sent.tolist() == sorted(best.tolist())


def test_rows_longest_unsent_are_explored(model: Path) -> None:
    worker = worker_for(job_for(model, mask={"exploration": 0.5}))
    for number in range(1, 8):
        worker.commit(worker.train(train_task(number, version=0, planned=plan(density=0.25), seed=number)))
    for key, rows in worker._state.rows.items():
        if key.part is Part.B:
            assert (rows.last_sent > 0).all(), key


@pytest.mark.parametrize("rule", ["delta-norm", "random"])
def test_other_mask_rules_keep_the_same_number_of_rows(model: Path, rule: str) -> None:
    worker = worker_for(job_for(model, method={"preset": "fedhft", "mask": rule}))
    for number in (1, 2):
        draft = worker.train(train_task(number, version=0, planned=plan(density=0.25), seed=number))
        worker.commit(draft)
    assert draft.measurements.raw_bytes_sent == 4 * (6 * 2 * 8 * 4 + 2 * 32 + 2)
