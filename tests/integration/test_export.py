"""Exported directories load with plain PEFT and answer like the worker did."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModel, AutoModelForSequenceClassification

from fedhft.adapter import AdapterSchema, Float32, Part, TensorKey
from fedhft.errors import ErrorCode, FedhftError
from fedhft.export.mixture import ExportedMixture
from fedhft.export.model_card import model_card
from fedhft.export.peft_directory import lora_pair, modules_to_save, write_adapter
from fedhft.job import JobSpec
from fedhft.training.base import load_base
from fedhft.training.full_model import write_full_model
from fedhft.training.scores import predict
from fedhft.training.worker import ClientWorker
from fedhft.v1 import adapter_pb2, jobs_pb2
from fedhft.wire.codec import decode
from tests.models import TARGETS, tiny_model
from tests.workers import job_for, plan, train_task, worker_for


def trained(worker: ClientWorker, rounds: int = 1) -> Mapping[TensorKey, Float32]:
    """What a lone client's federation publishes: its own updates, added up; products in factors, alpha/r inside."""
    spec, schema = worker.spec, worker.schema
    tensors: dict[TensorKey, Float32] = {}
    for number in range(1, rounds + 1):
        draft = worker.train(train_task(number, version=0, planned=plan(epochs=2), learning_rate=2e-2, seed=number))
        worker.commit(draft)
        delta = {key: m.dense() for key, m in decode(draft.blob, schema, kind=adapter_pb2.BLOB_KIND_UPDATE).delta}
        for key, values in delta.items():
            if key.part is Part.B and spec.method.preset == "fedhft-paper":
                a_key = TensorKey(key.name, Part.A)
                a = schema.start_of(spec.seed, a_key, number) + delta[a_key]
                for part, factor in ((Part.LEFT, 2.0 * values), (Part.RIGHT, a)):
                    old = tensors.get(TensorKey(key.name, part))
                    tensors[TensorKey(key.name, part)] = factor if old is None else np.hstack([old, factor])
            elif spec.method.preset != "fedhft-paper" or key.part is Part.HEAD:
                tensors[key] = tensors[key] + values if key in tensors else values
    return tensors


def logits_of(model: torch.nn.Module, worker: ClientWorker) -> Float32:
    rows = worker._holdout
    with torch.no_grad():
        out: Float32 = model.eval()(**rows.inputs(np.arange(len(rows)))).logits.numpy()
    return out


def plain_peft(worker: ClientWorker, directory: Path) -> torch.nn.Module:
    """Loaded by plain PEFT: no code of ours."""
    base = AutoModelForSequenceClassification.from_pretrained(worker.spec.model.name, num_labels=2)
    base.config.pad_token_id = worker._holdout.pad
    model: torch.nn.Module = PeftModel.from_pretrained(base, str(directory))
    return model


def by_worker(worker: ClientWorker, tensors: Mapping[TensorKey, Float32]) -> Float32:
    worker._network.load(tensors, worker.schema.layers, 9)
    return predict(worker._network, worker._holdout)


@pytest.mark.parametrize("architecture", TARGETS)
@pytest.mark.parametrize("method", ["fedhft", "fedhft-paper"])
def test_plain_peft_reproduces_the_workers_logits(tmp_path: Path, architecture: str, method: str) -> None:
    spec = job_for(tiny_model(tmp_path / "base", architecture), architecture, method)
    worker = worker_for(spec)
    tensors = trained(worker, rounds=2)
    wanted = by_worker(worker, tensors)
    write_adapter(tmp_path / "out", spec, worker.schema, tensors, spec.model.name)
    got = logits_of(plain_peft(worker, tmp_path / "out"), worker)
    np.testing.assert_allclose(got, wanted, atol=1e-5)
    assert np.abs(wanted - by_worker(worker, {})).max() > 1e-2  # something was learnt, so zeros would not pass


def test_a_dense_product_is_exported_at_the_rank_it_has(tmp_path: Path) -> None:
    spec = job_for(tiny_model(tmp_path / "base"), method="fedhft-paper")
    worker = worker_for(spec)
    tensors = dict(trained(worker, rounds=2))
    for slot in worker.schema.slots[:3]:
        left, right = (tensors.pop(TensorKey(slot.name, part)) for part in (Part.LEFT, Part.RIGHT))
        tensors[TensorKey(slot.name, Part.PRODUCT)] = (left @ right.T).astype(np.float32)
    wanted = by_worker(worker, tensors)
    write_adapter(tmp_path / "out", spec, worker.schema, tensors, spec.model.name)
    np.testing.assert_allclose(logits_of(plain_peft(worker, tmp_path / "out"), worker), wanted, atol=1e-5)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["r"] == config["lora_alpha"] == 8  # two rounds of rank 4, dense or not
    assert config["rank_pattern"] == {}


@pytest.mark.parametrize("dense", [False, True], ids=["factors", "dense"])
def test_small_directions_of_a_product_are_kept_and_rounding_is_not(tmp_path: Path, dense: bool) -> None:
    spec = job_for(tiny_model(tmp_path / "base"), method="fedhft-paper")
    slot = worker_for(spec).schema.slots[0]
    generator = np.random.default_rng(0)
    left, right = (np.linalg.qr(generator.standard_normal((32, 5)))[0] for _ in range(2))
    left = left * np.array([1.0, 0.1, 1e-3, 1e-5, 0.0])
    exact = left @ right.T
    if dense:
        tensors = {TensorKey(slot.name, Part.PRODUCT): exact.astype(np.float32)}
    else:
        tensors = {
            TensorKey(slot.name, Part.LEFT): left.astype(np.float32),
            TensorKey(slot.name, Part.RIGHT): right.astype(np.float32),
        }
    pair = lora_pair(slot, spec, worker_for(spec).schema, tensors)
    assert pair.rank == 4
    np.testing.assert_allclose(pair.b @ pair.a * (pair.alpha / pair.rank), exact, atol=1e-7)


def test_ranks_that_differ_go_into_patterns_and_survive_loading(tmp_path: Path) -> None:
    spec = job_for(tiny_model(tmp_path / "base"), method="fedhft-paper")
    worker = worker_for(spec)
    tensors = dict(trained(worker, rounds=2))
    first, second = worker.schema.slots[0].name, worker.schema.slots[1].name
    for part in (Part.LEFT, Part.RIGHT):
        tensors[TensorKey(first, part)] = np.ascontiguousarray(tensors[TensorKey(first, part)][:, :3])
        del tensors[TensorKey(second, part)]
    wanted = by_worker(worker, tensors)
    write_adapter(tmp_path / "out", spec, worker.schema, tensors, spec.model.name)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["rank_pattern"] == {first: 3, second: 1}
    assert config["alpha_pattern"] == {first: 3, second: 1}
    np.testing.assert_allclose(logits_of(plain_peft(worker, tmp_path / "out"), worker), wanted, atol=1e-5)


def test_head_parameters_inside_the_base_network_are_saved_too(tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel

    path = tiny_model(tmp_path / "base")
    BertModel(BertConfig.from_pretrained(path), add_pooling_layer=False).save_pretrained(path)
    spec = job_for(path)
    worker = worker_for(spec)
    tensors = trained(worker)
    wanted = by_worker(worker, tensors)
    write_adapter(tmp_path / "out", spec, worker.schema, tensors, spec.model.name)
    assert modules_to_save(worker.schema) == ["bert.pooler.dense", "classifier"]
    np.testing.assert_allclose(logits_of(plain_peft(worker, tmp_path / "out"), worker), wanted, atol=1e-5)


def in_half(path: Path, dtype: torch.dtype) -> Path:
    """Save a base model again in half precision; transformers then loads it so unless told otherwise."""
    AutoModel.from_pretrained(path, dtype=dtype).save_pretrained(path)
    assert {p.dtype for p in AutoModel.from_pretrained(path).parameters()} == {dtype}
    return path


def by_card(directory: Path, worker: ClientWorker) -> torch.nn.Module:
    """What the program in the card of an exported directory makes; nothing of ours."""
    code = re.findall(r"^```python\n(.*?)^```$", (directory / "README.md").read_text(), re.M | re.S)
    assert len(code) == 1
    names: dict[str, Any] = {"DIRECTORY": str(directory), "PAD": worker._holdout.pad}
    exec(code[0], names)  # noqa: S102 - the program of the card is what is tested
    model: torch.nn.Module = names["model"]
    return model


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@pytest.mark.parametrize(("architecture", "method"), [("bert", "fedhft"), ("llama", "fedhft"), ("bert", "full")])
def test_the_cards_program_loads_a_half_precision_base_as_it_was_trained(
    tmp_path: Path, architecture: str, method: str, dtype: torch.dtype
) -> None:
    spec = job_for(in_half(tiny_model(tmp_path / "base", architecture), dtype), architecture, method)
    worker = worker_for(spec)
    tensors = trained(worker)
    wanted = by_worker(worker, tensors)
    job = jobs_pb2.Job(job="tickets", rounds_done=1, clients=["client-1"])
    exported = ExportedMixture.of_cluster(0, 1, job.clients, {})
    card = model_card(spec, worker.schema, job, 1, exported, spec.model.name)
    if method == "full":
        write_full_model(tmp_path / "out", spec, tensors, spec.model.name)
    else:
        write_adapter(tmp_path / "out", spec, worker.schema, tensors, spec.model.name)
    (tmp_path / "out" / "README.md").write_text(card)
    model = by_card(tmp_path / "out", worker)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    np.testing.assert_allclose(logits_of(model, worker), wanted, atol=1e-5)
    assert np.abs(wanted - by_worker(worker, {})).max() > 1e-2


def exported_without_torch(spec: JobSpec, schema: AdapterSchema, out: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from fedhft.adapter import AdapterSchema; "
        "from fedhft.job import load_canonical; "
        "from fedhft.export.peft_directory import write_adapter; spec = load_canonical(sys.argv[1]); "
        "write_adapter(Path(sys.argv[3]), spec, AdapterSchema.from_json(sys.argv[2]), {}, 'base'); "
        "assert not {'torch', 'transformers', 'peft'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, spec.canonical(), schema.to_json(), str(out)], check=True, timeout=60)


@pytest.mark.parametrize("method", ["fedhft", "fedhft-paper"])
def test_exporting_needs_no_torch(tmp_path: Path, method: str) -> None:
    spec = job_for(tiny_model(tmp_path / "base"), method=method)
    worker = worker_for(spec, base=load_base(spec))
    exported_without_torch(spec, worker.schema, tmp_path / "out")
    np.testing.assert_allclose(
        logits_of(plain_peft(worker, tmp_path / "out"), worker), by_worker(worker, {}), atol=1e-6
    )


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    spec = job_for(tiny_model(tmp_path / "base"))
    (tmp_path / "file").write_text("")
    with pytest.raises(FedhftError, match="cannot be written") as caught:
        write_adapter(tmp_path / "file" / "out", spec, worker_for(spec).schema, {}, "base")
    assert caught.value.code is ErrorCode.INVALID_ARGUMENT
