"""The network on real architectures: schema, start of a round, scaling, depth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoModelForSequenceClassification

from fedhft.adapter import Float32, Part, TensorKey
from fedhft.errors import ErrorCode, FedhftError
from fedhft.job import JobSpec
from fedhft.plan import AdapterPlan
from fedhft.training.base import LoadedBase, load_base
from fedhft.training.batches import EncodedRows
from fedhft.training.network import Network
from fedhft.training.schema import build_schema
from fedhft.training.scores import predict
from fedhft.v1 import federation_pb2 as pb
from tests.models import ARCHITECTURES, TARGETS, tiny_model
from tests.workers import data_of, job_for, plan, train_task, worker_for

HEADS = {
    "bert": ["classifier.weight", "classifier.bias"],
    "roberta": [
        "classifier.dense.weight",
        "classifier.dense.bias",
        "classifier.out_proj.weight",
        "classifier.out_proj.bias",
    ],
    "distilbert": ["pre_classifier.weight", "pre_classifier.bias", "classifier.weight", "classifier.bias"],
    "llama": ["score.weight"],
}


def stage(spec: JobSpec) -> tuple[LoadedBase, Network, EncodedRows]:
    base = load_base(spec)
    network = Network.on(base, spec)
    return base, network, network.encode(data_of().train)


def some(network: Network, *parts: Part, columns: int = 3, seed: int = 0) -> dict[TensorKey, Float32]:
    """Random tensors of the given parts for every slot, and for the head."""
    generator = np.random.default_rng(seed)
    tensors: dict[TensorKey, Float32] = {}
    for slot in network.schema.slots:
        for part in parts:
            rows, cols = network.schema.shape(TensorKey(slot.name, part))
            shape = (rows, columns if cols < 0 else cols)
            tensors[TensorKey(slot.name, part)] = (0.3 * generator.standard_normal(shape)).astype(np.float32)
    for parameter in network.schema.head:
        key = TensorKey(parameter.name, Part.HEAD)
        tensors[key] = (0.3 * generator.standard_normal(network.schema.shape(key))).astype(np.float32)
    return tensors


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_schema_names_slots_by_layer_and_everything_outside_the_base_as_head(
    tmp_path: Path, architecture: str
) -> None:
    spec = job_for(tiny_model(tmp_path, architecture), architecture)
    base = load_base(spec)
    schema = build_schema(base, spec)
    assert schema.layers == 3
    assert [slot.layer for slot in schema.slots] == [0, 0, 1, 1, 2, 2]
    assert all(slot.in_features == 32 and slot.rank == 4 for slot in schema.slots)
    if architecture == "llama":  # grouped queries: the value projection is narrower
        assert {slot.out_features for slot in schema.slots} == {32, 16}
    assert [parameter.name for parameter in schema.head] == HEADS[architecture]
    assert schema.weights == ()
    assert Network.on(base, spec).schema == schema


def test_two_copies_of_a_model_give_one_schema_and_another_model_another(tmp_path: Path) -> None:
    paths = [tiny_model(tmp_path / str(i), seed=seed) for i, seed in enumerate((1, 1, 2))]
    schemas = [build_schema(load_base(job_for(path)), job_for(path)) for path in paths]
    assert schemas[0].digest == schemas[1].digest
    assert schemas[0].base_digest != schemas[2].base_digest


def test_adapter_depth_leaves_out_slots_below_it(tmp_path: Path) -> None:
    spec = job_for(tiny_model(tmp_path), adapter={"targets": ["query"], "rank": 4, "depth": 2})
    assert [slot.layer for slot in build_schema(load_base(spec), spec).slots] == [1, 2]


def test_full_has_every_parameter_and_no_slot(tmp_path: Path) -> None:
    spec = job_for(tiny_model(tmp_path), method="full")
    base = load_base(spec)
    schema = build_schema(base, spec)
    assert schema.slots == ()
    assert sum(int(np.prod(p.shape)) for p in (*schema.head, *schema.weights)) == sum(
        p.numel() for p in base.model.parameters()
    )


def test_a_target_that_matches_nothing_is_refused_with_the_names_there_are(tmp_path: Path) -> None:
    spec = job_for(tiny_model(tmp_path), adapter={"targets": ["q_proj"]})
    with pytest.raises(FedhftError, match=r"adapter\.targets = 'q_proj'.*dense, key, query, value") as caught:
        build_schema(load_base(spec), spec)
    assert caught.value.code is ErrorCode.INVALID_MODEL


def test_parameters_the_files_do_not_hold_belong_to_the_head(tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel

    path = tiny_model(tmp_path)
    BertModel(BertConfig.from_pretrained(path), add_pooling_layer=False).save_pretrained(path)
    spec = job_for(path)
    names = [parameter.name for parameter in build_schema(load_base(spec), spec).head]
    assert names == ["bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight", "classifier.bias"]


def test_everybody_starts_alike_although_transformers_draws_heads_at_random(tmp_path: Path) -> None:
    spec = job_for(tiny_model(tmp_path, "roberta"), "roberta")
    logits = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        _, network, rows = stage(spec)
        network.load({}, 3, 1)
        logits.append(predict(network, rows))
    assert logits[0].tobytes() == logits[1].tobytes()


@pytest.mark.parametrize("architecture", TARGETS)
def test_a_loaded_adapter_adds_alpha_over_r_times_b_a(tmp_path: Path, architecture: str) -> None:
    path = tiny_model(tmp_path, architecture)
    spec = job_for(path, architecture)
    _, network, rows = stage(spec)
    tensors = some(network, Part.A, Part.B)
    network.load(tensors, 3, 1)
    ours = predict(network, rows)
    # The same by hand: alpha / r = 8 / 4 times B A is added to the plain model's weights.
    plain = AutoModelForSequenceClassification.from_pretrained(path, num_labels=2)
    plain.config.pad_token_id = rows.pad
    with torch.no_grad():
        for slot in network.schema.slots:
            a = network.schema.start_of(spec.seed, TensorKey(slot.name, Part.A)) + tensors[TensorKey(slot.name, Part.A)]
            product = 2.0 * tensors[TensorKey(slot.name, Part.B)] @ a.T
            added = torch.from_numpy(product)
            plain.get_submodule(slot.name).weight += added.T if architecture == "gpt2" else added
        for parameter in network.schema.head:
            key = TensorKey(parameter.name, Part.HEAD)
            value = network.schema.start_of(spec.seed, key) + tensors[key]
            plain.get_parameter(parameter.name).copy_(torch.from_numpy(value).reshape(parameter.shape))
        inputs = rows.inputs(np.arange(len(rows)))
        theirs = plain.eval()(**inputs).logits.numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    network.load({}, 3, 1)
    assert np.abs(predict(network, rows) - theirs).max() > 1e-2


@pytest.mark.parametrize("dense", [False, True], ids=["factors", "dense"])
def test_restart_folds_the_product_into_the_base_and_starts_from_it(tmp_path: Path, dense: bool) -> None:
    path = tiny_model(tmp_path)
    spec = job_for(path, method="fedhft-paper")
    _, network, rows = stage(spec)
    tensors = some(network, Part.PRODUCT) if dense else some(network, Part.LEFT, Part.RIGHT)
    network.load(tensors, 3, 4)
    ours = predict(network, rows)
    plain = AutoModelForSequenceClassification.from_pretrained(path, num_labels=2)
    with torch.no_grad():
        for slot in network.schema.slots:
            parts = {part: tensors.get(TensorKey(slot.name, part)) for part in (Part.LEFT, Part.RIGHT, Part.PRODUCT)}
            left, right, product = parts[Part.LEFT], parts[Part.RIGHT], parts[Part.PRODUCT]
            if product is None:
                assert left is not None
                assert right is not None
                product = left @ right.T
            plain.get_submodule(slot.name).weight += torch.from_numpy(product)
        for parameter in network.schema.head:
            key = TensorKey(parameter.name, Part.HEAD)
            value = network.schema.start_of(spec.seed, key) + tensors[key]
            plain.get_parameter(parameter.name).copy_(torch.from_numpy(value).reshape(parameter.shape))
        inputs = rows.inputs(np.arange(len(rows)))
        theirs = plain.eval()(**inputs).logits.numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-5)  # B = 0, so A does not show


def test_a_norm_inside_the_head_starts_at_one(tmp_path: Path) -> None:
    spec = job_for(tiny_model(tmp_path, "modernbert"), "modernbert")
    _, network, rows = stage(spec)
    network.load({}, 3, 1)
    norms = [p.name for p in network.schema.head if p.name.endswith("norm.weight")]
    assert norms == ["head.norm.weight"]
    assert (network.value(TensorKey(norms[0], Part.HEAD)) == 1.0).all()
    assert np.abs(predict(network, rows)).max() > 0


def test_folding_leaves_no_trace_in_the_next_round(tmp_path: Path) -> None:
    spec = job_for(tiny_model(tmp_path), method="fedhft-paper")
    _, network, rows = stage(spec)
    network.load({}, 3, 1)
    fresh = predict(network, rows)
    one, other = (some(network, Part.LEFT, Part.RIGHT, seed=seed) for seed in (1, 2))
    network.load(one, 3, 2)
    folded = predict(network, rows)
    for tensors, expected in ((other, None), (one, folded), ({}, fresh)):
        network.load(tensors, 3, 3)
        assert expected is None or predict(network, rows).tobytes() == expected.tobytes()


def test_restart_redraws_a_every_round_and_continue_does_not(tmp_path: Path) -> None:
    path = tiny_model(tmp_path)
    for method, same in (("fedhft-paper", False), ("fedhft", True)):
        spec = job_for(path, method=method)
        _, network, _ = stage(spec)
        key = TensorKey(network.schema.slots[0].name, Part.A)
        values = []
        for number in (1, 2):
            network.load({}, 3, number)
            values.append(network.value(key).copy())
        assert np.array_equal(values[0], values[1]) is same
        drawn = network.schema.start_of(spec.seed, key, 0 if same else 2)
        assert values[1].tobytes() == drawn.tobytes()


def test_layers_below_the_depth_have_no_adapter_and_no_gradient(tmp_path: Path) -> None:
    spec = job_for(tiny_model(tmp_path))
    _, network, rows = stage(spec)
    deep = some(network, Part.B)
    inside = {slot.name for slot in network.schema.slots if slot.layer == 2}
    shallow = {key: value for key, value in deep.items() if key.part is Part.HEAD or key.name in inside}
    network.load(deep, 3, 1)
    with_all = predict(network, rows)
    network.load(deep, 1, 1)
    with_depth_one = predict(network, rows)
    assert with_depth_one.tobytes() != with_all.tobytes()
    network.load(shallow, 3, 1)
    assert predict(network, rows).tobytes() == with_depth_one.tobytes()

    network.load(deep, 1, 1)
    one = AdapterPlan("t", 1, 1.0, 1.0, 0, train_a=True, train_b=True)
    with torch.enable_grad(), network.trainable(one, {}, None):
        named = {name for name, parameter in network.model.named_parameters() if parameter.requires_grad}
        hidden: list[bool] = []
        lower = network.model.get_submodule("bert.encoder.layer.1")
        hook = lower.register_forward_hook(
            lambda module, args, out: hidden.append((out[0] if isinstance(out, tuple) else out).requires_grad)
        )
        network.forward(rows, np.arange(4)).sum().backward()  # type: ignore[no-untyped-call]
        hook.remove()
    assert {name.split(".lora_")[0] for name in named if "lora_" in name} == inside
    assert hidden == [False]  # nothing below the boundary is kept for a backward pass


@pytest.mark.parametrize(("a", "b"), [(True, False), (False, True)])
def test_a_plan_that_trains_one_factor_leaves_the_other(tmp_path: Path, a: bool, b: bool) -> None:
    spec = job_for(tiny_model(tmp_path))
    _, network, _ = stage(spec)
    one = AdapterPlan("t", 3, 1.0, 1.0, 0, train_a=a, train_b=b)
    parts = {key.part for key in network.trained_keys(one)}
    assert parts == {Part.HEAD, Part.A if a else Part.B}
    assert {key.part for key, _ in network.delta(one, {})} == parts


@pytest.mark.parametrize("method", ["fedhft", "fedhft-paper"])
def test_every_pass_through_the_model_goes_through_forward(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    worker = worker_for(job_for(tiny_model(tmp_path), method=method))
    passes = {"model": 0, "forward": 0}

    def passed(*_: object) -> None:
        passes["model"] += 1

    def forward(network: Network, rows: EncodedRows, index: NDArray[np.int64]) -> torch.Tensor:
        passes["forward"] += 1
        return original(network, rows, index)

    original = Network.forward
    monkeypatch.setattr(Network, "forward", forward)
    worker._network.model.register_forward_pre_hook(passed)
    worker.signature()
    worker.train(train_task(planned=plan(density=0.5), evaluate=True))
    worker.evaluate(pb.EvaluateTask(round=1, plan=plan(), learning_rate=1e-3))
    assert passes["model"] == passes["forward"] > 10
