"""head = "keep": training goes on from the head that the base model's files hold, where it is for the job's labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from benchmarks.families import example_rows, write_family
from fedhft.datasets.client_data import ClientData
from fedhft.errors import ErrorCode, FedhftError
from fedhft.export.peft_directory import write_adapter
from fedhft.job import JobSpec, parse_job
from fedhft.training.base import load_base
from fedhft.training.network import Network
from fedhft.training.scores import predict
from fedhft.training.stored_weights import stored_values_of
from fedhft.training.worker import ClientWorker
from tests.workers import train_task

LABELS = ("bad", "good")


def spec_of(path: Path, **task: Any) -> JobSpec:
    return parse_job(
        {
            "name": "kept",
            "model": {"name": str(path), "max_length": 32},
            "task": {"labels": LABELS, "head": "keep", **task},
            "adapter": {"rank": 4},
            "method": "fedit",
            "training": {"batch_size": 8},
        }
    )


def classifier(path: Path, names: tuple[str, ...] = LABELS, dtype: torch.dtype = torch.float32) -> Path:
    """A saved classifier with a head of its own."""
    write_family(path, "bert", "classification")
    torch.manual_seed(3)
    model = AutoModelForSequenceClassification.from_pretrained(path, num_labels=len(names), dtype=torch.float32)
    torch.nn.init.normal_(model.classifier.weight, std=0.5)
    torch.nn.init.normal_(model.classifier.bias)
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: index for index, name in enumerate(names)}
    model.to(dtype).save_pretrained(path)
    return path


def answers(model: torch.nn.Module, path: Path) -> np.ndarray[Any, Any]:
    rows = AutoTokenizer.from_pretrained(path)([row.text for row in HELD], padding=True, return_tensors="pt")
    with torch.no_grad():
        found: np.ndarray[Any, Any] = model.eval()(**rows).logits.numpy()
    return found


HELD = example_rows("classification", 8, 500)


def test_a_kept_head_answers_like_the_model_before_training_and_a_new_one_does_not(tmp_path: Path) -> None:
    path = classifier(tmp_path)
    wanted = answers(AutoModelForSequenceClassification.from_pretrained(path, dtype=torch.float32), path)
    for head, same in (("keep", True), ("new", False)):
        spec = spec_of(path, head=head)
        network = Network.on(load_base(spec), spec)
        network.load({}, network.schema.layers, 0)
        assert np.allclose(predict(network, network.encode(HELD)), wanted, atol=1e-5) == same


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_training_goes_on_from_it_and_the_export_has_both(tmp_path: Path, dtype: torch.dtype) -> None:
    path = classifier(tmp_path / "base", dtype=dtype)
    spec = spec_of(path)
    worker = ClientWorker(spec, "a", load_base(spec), ClientData.of(example_rows("classification", 32), HELD))
    worker.commit(worker.train(train_task()))
    network = worker._network
    parameters = {
        key: network.value(key) - network._start(key) for key in network.schema.keys if _is_value(key, network)
    }
    network.load(parameters, network.schema.layers, 1)
    wanted = predict(network, network.encode(HELD))
    write_adapter(tmp_path / "out", spec, network.schema, parameters, str(path))
    base = AutoModelForSequenceClassification.from_pretrained(path, num_labels=2, dtype=torch.float32)
    found = answers(PeftModel.from_pretrained(base, str(tmp_path / "out")), path)
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def _is_value(key: Any, network: Network) -> bool:
    return key.part.value in ("a", "b", "head")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("good", "bad"), r"has a head for \['good', 'bad'\], the job for \['bad', 'good'\]"),
        (("bad", "fair", "good"), "holds no classifier"),
    ],
)
def test_a_head_for_other_labels_is_not_kept(tmp_path: Path, names: tuple[str, ...], said: str) -> None:
    with pytest.raises(FedhftError, match=said) as caught:
        load_base(spec_of(classifier(tmp_path, names)))
    assert caught.value.code is ErrorCode.INVALID_MODEL
    assert 'head = "new"' in caught.value.message


def test_a_head_whose_labels_have_no_names_fits_and_one_that_is_missing_does_not(tmp_path: Path) -> None:
    load_base(spec_of(classifier(tmp_path / "a", ("LABEL_0", "LABEL_1"))))
    with pytest.raises(FedhftError, match="holds no classifier"):
        load_base(spec_of(write_family(tmp_path / "b", "bert", "classification")))


def test_text_has_no_head_to_keep() -> None:
    with pytest.raises(FedhftError, match="causal-lm trains no head"):
        parse_job({"name": "x", "model": {"name": "m"}, "task": {"kind": "causal-lm", "head": "keep"}})


def test_an_export_without_the_base_model_says_what_it_needs(tmp_path: Path) -> None:
    path = classifier(tmp_path / "base")
    spec = spec_of(path)
    network = Network.on(load_base(spec), spec)
    with pytest.raises(FedhftError, match="give it with --base-path"):
        write_adapter(tmp_path / "out", spec, network.schema, {}, "some/hub-id")


def test_a_stored_tensor_is_read_whatever_wrapper_named_it(tmp_path: Path) -> None:
    path = classifier(tmp_path)
    weights = load_file(path / "model.safetensors")
    wanted = weights["classifier.weight"].numpy()
    renamed = {f"module._orig_mod.{name}": tensor for name, tensor in weights.items()}
    save_file(renamed, path / "model.safetensors", metadata={"format": "pt"})
    np.testing.assert_array_equal(stored_values_of(path, "classifier.weight"), wanted)
    with pytest.raises(FedhftError, match="holds no weight"):
        stored_values_of(path, "weight")
