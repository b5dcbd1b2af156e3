"""Batches that are passed in parts, and layers that are run twice: gradients are those of whole batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from fedhft.adapter import Part, TensorKey
from fedhft.datasets.examples import Example
from fedhft.job import JobSpec
from fedhft.plan import AdapterPlan
from fedhft.planning.peak import UNBOUNDED, Arrangement, Costs, PassCost, Unfit
from fedhft.training.base import load_base
from fedhft.training.batches import EncodedRows
from fedhft.training.importance import Importance
from fedhft.training.learner import backward
from fedhft.training.memory.fitting import costs_of, fitted, trials
from fedhft.training.memory.measured import LiveBytes
from fedhft.training.network import Network
from fedhft.training.prefix.folder import PrefixFolder
from fedhft.training.scores import predict
from tests.models import tiny_model
from tests.workers import data_of, job_for, worker_for

MIB = 1 << 20


def in_parts(recompute: bool = False, room: float = 30) -> Arrangement:
    """Parts of at most `room` tokens, padding counted."""
    by_token = PassCost(0, 1, 0, 0)
    return Arrangement(Costs(by_token, by_token, by_token), training=int(room), scoring=int(room), recompute=recompute)


def plan_of(depth: int, density: float = 1.0) -> AdapterPlan:
    return AdapterPlan("", depth, density, 1.0, 0, train_a=True, train_b=True)


def model_in(path: Path, architecture: str, sections: dict[str, Any]) -> Path:
    """A tiny model for a task, with its output layer where a language model needs one."""
    tiny_model(path, architecture, layers=4)
    if sections.get("task", {}).get("kind") == "causal-lm":
        config = transformers.AutoConfig.from_pretrained(path)
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(path)
    return path


def network_of(spec: JobSpec, cache: Path | None = None) -> Network:
    network = Network.on(load_base(spec), spec)
    if cache is not None:
        folder = PrefixFolder.open(cache, 1 << 30)
        assert folder is not None
        network.cache_prefix(folder, torch.float32)
    return network


def gradients(
    network: Network, rows: EncodedRows, plan: AdapterPlan, arrangement: Arrangement, dropout: bool = False
) -> tuple[float, list[torch.Tensor], dict[TensorKey, Any]]:
    """Loss, gradients and importances of one batch of all rows."""
    network.load({}, plan.depth, 0)
    network.arrangement = arrangement
    seen = Importance()
    torch.manual_seed(3)
    with torch.enable_grad(), network.trainable(plan, {}, seen) as parameters:
        for parameter in parameters:  # B = 0 would leave A without a gradient
            parameter.data.add_(torch.linspace(-0.1, 0.1, parameter.numel()).view(parameter.shape))
        if dropout:
            network.training_mode()
        loss = backward(network, rows, np.arange(len(rows)), importance=seen)
        found = [parameter.grad.clone() for parameter in parameters if parameter.grad is not None]
    network.arrangement = UNBOUNDED
    return loss, found, seen.means()


CASES: list[tuple[str, dict[str, Any]]] = [
    ("bert", {}),
    ("llama", {}),
    ("llama", {"task": {"kind": "causal-lm"}}),
    ("bert", {"task": {"kind": "multi-label", "labels": ["a", "b"]}}),
]


def rows_for(network: Network, spec: JobSpec) -> EncodedRows:
    if spec.task.kind == "causal-lm":
        texts = [Example(row.text, "a cat works" if i % 3 else "it is", 0.0) for i, row in enumerate(data_of(14).train)]
        return network.encode(texts)
    if spec.task.kind == "multi-label":
        return network.encode([Example(row.text, None, (int(row.label),)) for row in data_of(14).train])
    return network.encode(data_of(14).train)


@pytest.mark.parametrize("cached", [False, True], ids=["not cached", "cached"])
@pytest.mark.parametrize(("architecture", "sections"), CASES)
def test_gradients_of_parts_add_up_to_those_of_the_batch(
    tmp_path: Path, architecture: str, sections: dict[str, Any], cached: bool
) -> None:
    spec = job_for(model_in(tmp_path / "model", architecture, sections), architecture, method="fedit", **sections)
    network = network_of(spec, tmp_path / "prefix" if cached else None)
    rows = rows_for(network, spec)
    whole = gradients(network, rows, plan_of(2), UNBOUNDED)
    cut = gradients(network, rows, plan_of(2), in_parts())
    network.arrangement = in_parts()
    assert len(network.training_parts(rows, np.arange(len(rows)))) > 3
    assert cut[0] == pytest.approx(whole[0], abs=1e-6)
    for own, wanted in zip(cut[1], whole[1], strict=True):
        np.testing.assert_allclose(own, wanted, atol=1e-6, rtol=1e-5)
    for key, wanted_rows in whole[2].items():  # squares of the batch's gradient, not of its parts'
        np.testing.assert_allclose(cut[2][key], wanted_rows, rtol=1e-3, atol=1e-12)  # squares of float32 sums


@pytest.mark.parametrize("depth", [2, 4])
@pytest.mark.parametrize("architecture", ["bert", "llama"])
def test_layers_that_are_run_twice_have_the_same_gradients_dropout_and_all(
    tmp_path: Path, architecture: str, depth: int
) -> None:
    adapter = {"targets": ["query"] if architecture == "bert" else ["q_proj"], "rank": 4, "alpha": 8, "dropout": 0.2}
    spec = job_for(
        tiny_model(tmp_path / "model", architecture, layers=4), architecture, method="fedit", adapter=adapter
    )
    network = network_of(spec, tmp_path / "prefix")
    rows = rows_for(network, spec)
    once = gradients(network, rows, plan_of(depth), UNBOUNDED, dropout=True)
    twice = gradients(network, rows, plan_of(depth), Arrangement(recompute=True), dropout=True)
    assert twice[0] == once[0]
    for own, wanted in zip(twice[1], once[1], strict=True):
        assert torch.equal(own, wanted)


def test_running_layers_twice_takes_less_memory(tmp_path: Path) -> None:
    spec = job_for(tiny_model(tmp_path / "model", layers=4), method="fedit")
    network = network_of(spec)
    rows = rows_for(network, spec)
    peaks = []
    for arrangement in (UNBOUNDED, Arrangement(recompute=True), in_parts(room=20)):
        with LiveBytes() as live:
            gradients(network, rows, plan_of(4), arrangement)
        peaks.append(live.peak)
    assert peaks[1] < 0.75 * peaks[0]
    assert peaks[2] < 0.5 * peaks[0]


def test_scores_in_parts_are_those_of_whole_batches(tmp_path: Path) -> None:
    spec = job_for(tiny_model(tmp_path / "model", layers=4), method="fedit")
    network = network_of(spec)
    rows = rows_for(network, spec)
    network.load({}, 2, 0)
    wanted = predict(network, rows)
    network.arrangement = in_parts()
    np.testing.assert_allclose(predict(network, rows), wanted, atol=1e-6)


@pytest.mark.parametrize(("architecture", "sections"), CASES)
def test_what_passes_cost_is_foretold_from_small_ones(
    tmp_path: Path, architecture: str, sections: dict[str, Any]
) -> None:
    spec = job_for(model_in(tmp_path / "model", architecture, sections), architecture, method="fedit", **sections)
    network = network_of(spec)
    rows = rows_for(network, spec)
    longest = int(rows.lengths.argmax())
    many = rows.take([longest] * 12)
    for depth in (1, 4):
        network.load({}, depth, 0)
        costs = costs_of(network, trials(rows, longest), plan_of(depth))
        width, places = int(rows.lengths[longest]), int(many.sizes.sum())
        for arrangement, cost in ((UNBOUNDED, costs.training), (Arrangement(recompute=True), costs.recomputed)):
            with LiveBytes() as live:
                gradients(network, many, plan_of(depth), arrangement, dropout=True)
            assert cost.bytes(12, width, places if spec.task.kind == "causal-lm" else 0) == pytest.approx(
                live.peak, rel=0.25
            )


def test_trying_changes_nothing_and_draws_nothing(tmp_path: Path) -> None:
    spec = job_for(tiny_model(tmp_path / "model", layers=4), method="fedit")
    network = network_of(spec, tmp_path / "prefix")
    rows = rows_for(network, spec)
    network.load({}, 2, 0)
    before = {name: value.clone() for name, value in network.model.state_dict().items()}
    torch.manual_seed(5)
    drawn = torch.rand(3)
    torch.manual_seed(5)
    found = fitted(network, rows, plan_of(2), 8, 8, 64 << 30)
    assert isinstance(found, Arrangement)
    assert not found.recompute
    assert torch.equal(torch.rand(3), drawn)
    for name, value in network.model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_worker_says_what_a_plan_lacks_and_trains_what_fits(tmp_path: Path) -> None:
    spec = job_for(tiny_model(tmp_path / "model", layers=4), method="fedit")
    base = load_base(spec)
    worker = worker_for(spec, base=base, memory=100 * MIB)
    lacking = worker.fit(plan_of(4))
    assert isinstance(lacking, Unfit)
    assert lacking.needed > lacking.allowed == 100 * MIB  # less than the interpreter and its libraries
    roomy = worker_for(spec, base=base, memory=64 << 30)
    assert roomy.fit(plan_of(4)) is None


def test_a_batch_without_targets_in_a_part_weighs_nothing(tmp_path: Path) -> None:
    """Rows of a language model whose completion was cut off have no place that counts."""
    lm = {"task": {"kind": "causal-lm"}}
    spec = job_for(model_in(tmp_path / "model", "llama", lm), "llama", method="fedit", **lm)
    network = network_of(spec)
    rows = rows_for(network, spec)
    none = rows.take([0, 1, 2])
    object.__setattr__(none, "targets", none.targets.copy())
    none.targets[0] = np.zeros(0, np.int32)
    first = none.rows[0]
    object.__setattr__(first, "places", np.zeros(0, np.int32))
    whole = gradients(network, none, plan_of(2), UNBOUNDED)
    cut = gradients(network, none, plan_of(2), in_parts(room=1))
    assert cut[0] == pytest.approx(whole[0], abs=1e-6)
    for own, wanted in zip(cut[1], whole[1], strict=True):
        np.testing.assert_allclose(own, wanted, atol=1e-6, rtol=1e-5)
    assert Part.B in {key.part for key in whole[2]}
