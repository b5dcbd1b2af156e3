"""Exports are loaded again without fedhft, and answer as what was trained; or they are refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import AutoPeftModelForSequenceClassification
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from fedhft.adapter import AdapterState, Float32, TensorKey
from fedhft.errors import ErrorCode, FedhftError
from fedhft.export.description import read_description
from fedhft.export.peft_directory import write_adapter
from fedhft.export.published import PublishedAdapters, write_adapters
from fedhft.job import JobSpec
from fedhft.training.export_check import TOLERANCE, ExportCheck
from fedhft.training.worker import ClientWorker
from fedhft.v1 import jobs_pb2
from tests.integration.test_export import by_worker, logits_of, trained
from tests.models import TARGETS, tiny_model
from tests.workers import job_for, worker_for


def adapters_of(spec: JobSpec, worker: ClientWorker, tensors: Mapping[TensorKey, Float32]) -> PublishedAdapters:
    return PublishedAdapters(spec, worker.schema, AdapterState(1, 1, {"cluster-0": dict(tensors)}), {})


JOB = jobs_pb2.Job(job="tickets", rounds_done=1, clients=["client-1"])


@pytest.mark.parametrize("architecture", TARGETS)
@pytest.mark.parametrize("method", ["fedhft", "fedhft-paper"])
def test_an_export_is_compared_and_loads_by_itself(tmp_path: Path, architecture: str, method: str) -> None:
    spec = job_for(tiny_model(tmp_path / "base", architecture), architecture, method)
    worker = worker_for(spec)
    tensors = trained(worker, rounds=2)
    (one,) = write_adapters(adapters_of(spec, worker, tensors), tmp_path / "out", JOB)
    assert one.checked is not None
    assert one.checked.difference < TOLERANCE / 10
    told = read_description(one.path)
    assert told.checked is not None
    assert (told.checked.difference, told.whole, told.num_labels) == (one.checked.difference, False, 2)
    assert "loaded again without fedhft" in (one.path / "README.md").read_text()
    model = AutoPeftModelForSequenceClassification.from_pretrained(str(one.path), num_labels=told.num_labels)
    model.config.pad_token_id = AutoTokenizer.from_pretrained(str(one.path)).pad_token_id
    np.testing.assert_allclose(logits_of(model, worker), by_worker(worker, tensors), atol=1e-5)


def test_what_was_trained_in_bf16_is_compared_in_fp32(tmp_path: Path) -> None:
    spec = job_for(tiny_model(tmp_path / "base"), training={"precision": "bf16"})
    worker = worker_for(spec)
    (one,) = write_adapters(adapters_of(spec, worker, trained(worker, rounds=2)), tmp_path / "out", JOB, check=True)
    assert one.checked is not None
    assert one.checked.difference < TOLERANCE / 10
    assert read_description(one.path).dtype == "bfloat16"


@pytest.mark.parametrize("method", ["fedhft", "fedhft-paper", "full"])
def test_a_merged_export_is_a_whole_model(tmp_path: Path, method: str) -> None:
    spec = job_for(tiny_model(tmp_path / "base"), method=method)
    worker = worker_for(spec)
    tensors = trained(worker, rounds=2)
    (one,) = write_adapters(adapters_of(spec, worker, tensors), tmp_path / "out", JOB, merge=True)
    assert one.checked is not None
    assert not (one.path / "adapter_config.json").exists()
    assert read_description(one.path).whole
    model = AutoModelForSequenceClassification.from_pretrained(str(one.path), dtype=torch.float32)
    assert model.config.id2label == {0: "bad", 1: "good"}
    np.testing.assert_allclose(logits_of(model, worker), by_worker(worker, tensors), atol=1e-5)
    assert AutoTokenizer.from_pretrained(str(one.path)).pad_token_id == worker._holdout.pad


def test_a_directory_that_loads_as_the_bare_base_model_is_refused(tmp_path: Path) -> None:
    spec = job_for(tiny_model(tmp_path / "base"))
    worker = worker_for(spec)
    tensors = trained(worker, rounds=2)
    write_adapter(tmp_path / "out", spec, worker.schema, tensors, spec.model.name)
    weights = tmp_path / "out" / "adapter_model.safetensors"
    named = load_file(weights)
    check = ExportCheck(spec, worker.schema, spec.model.name)
    check.compare(tmp_path / "out", tensors, whole=False)
    save_file({name.replace("encoder", "decoder"): value for name, value in named.items()}, weights)
    with pytest.raises(FedhftError, match="its logits differ") as caught:
        check.compare(tmp_path / "out", tensors, whole=False)
    assert caught.value.code is ErrorCode.EXPORT_DIFFERS
    weights.unlink()
    with pytest.raises(FedhftError, match="cannot load it") as caught:
        check.compare(tmp_path / "out", tensors, whole=False)
    assert caught.value.code is ErrorCode.EXPORT_DIFFERS


def test_another_base_model_than_the_jobs_is_refused(tmp_path: Path) -> None:
    spec = job_for(tiny_model(tmp_path / "base"))
    worker = worker_for(spec)
    other = tiny_model(tmp_path / "other", seed=1)
    with pytest.raises(FedhftError, match="--base-model") as caught:
        write_adapters(adapters_of(spec, worker, {}), tmp_path / "out", JOB, base_path=str(other))
    assert caught.value.code is ErrorCode.SCHEMA_MISMATCH
    assert not (tmp_path / "out").exists()
