"""Models that do not fit their tokenizer, their job or themselves: each is refused by name before a row is read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from benchmarks.families import TASKS, word_tokenizer, write_family
from fedhft.datasets.examples import Example
from fedhft.errors import ErrorCode, FedhftError
from fedhft.job import JobSpec, parse_job
from fedhft.training.base import load_base
from fedhft.training.network import Network
from tests.models import tiny_model
from tests.workers import job_for, train_task, worker_for


def refusal(spec: JobSpec) -> str:
    with pytest.raises(FedhftError) as caught:
        load_base(spec)
    assert caught.value.code is ErrorCode.INVALID_MODEL
    assert ";" in caught.value.message  # the fix
    return caught.value.message


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def rename(path: Path, change: Any) -> None:
    weights = load_file(path / "model.safetensors")
    kept = {name: tensor.contiguous() for old, tensor in weights.items() if (name := change(old))}
    save_file(kept, path / "model.safetensors", metadata={"format": "pt"})


def logits_of(spec: JobSpec, text: str = "the cat works today") -> torch.Tensor:
    network = Network.on(load_base(spec), spec)
    network.load({}, network.schema.layers, 0)
    with torch.no_grad():
        return network.forward(network.encode([Example(text, None, 0.0)]), np.arange(1))


def test_rows_of_positions_that_a_table_keeps_for_itself_cannot_be_used(tmp_path: Path) -> None:
    # RoBERTa's table of 130 rows begins to count after the padding id, 0 here.
    path = tiny_model(tmp_path, "roberta")
    message = refusal(job_for(path, "roberta", model={"name": str(path), "max_length": 130}))
    assert "model.max_length = 130" in message
    assert "at most 129 tokens" in message
    assert (
        logits_of(job_for(path, "roberta", model={"name": str(path), "max_length": 129}), "the cat " * 90)
        .isfinite()
        .all()
    )


@pytest.mark.parametrize(("family", "longest"), [("gpt2", 128), ("distilbert", 128), ("electra", 128)])
def test_the_longest_row_is_that_of_the_position_table(tmp_path: Path, family: str, longest: int) -> None:
    path = write_family(tmp_path, family, "classification")
    raw = {"name": "x", "task": {"labels": ["a", "b"]}, "method": "fedit"}
    assert f"at most {longest} tokens" in refusal(
        parse_job({**raw, "model": {"name": str(path), "max_length": longest + 1}})
    )
    spec = parse_job({**raw, "model": {"name": str(path), "max_length": longest}})
    assert logits_of(spec, "the cat " * 90).isfinite().all()


@pytest.mark.parametrize("architecture", ["llama", "bert"])
def test_a_token_beyond_the_vocabulary_is_refused_by_its_name(tmp_path: Path, architecture: str) -> None:
    path = tiny_model(tmp_path, architecture)
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    tokenizer.save_pretrained(path)
    message = refusal(job_for(path, architecture))
    assert f"pad_token_id is {len(tokenizer) - 1}" in message
    assert f"vocabulary of the model ends at {len(tokenizer) - 2}" in message
    tokenizer.pad_token = tokenizer.eos_token or "[PAD]"
    tokenizer.add_tokens(["surplus"])
    tokenizer.save_pretrained(path)
    assert "token 'surplus'" in refusal(job_for(path, architecture))


def test_a_special_token_that_nothing_makes_may_lie_beyond_the_vocabulary(tmp_path: Path) -> None:
    path = tiny_model(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    tokenizer.save_pretrained(path)
    assert logits_of(job_for(path), "the cat <image> works").isfinite().all()  # in a text it is text


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod."])
def test_a_prefix_that_a_wrapper_left_in_all_names_is_taken_off(
    tmp_path: Path, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tiny_model(tmp_path)
    wanted = logits_of(job_for(path))
    assert "left by a wrapper" not in caplog.text
    rename(path, lambda name: prefix + name)
    torch.testing.assert_close(logits_of(job_for(path)), wanted, atol=1e-6, rtol=0)
    assert f"begin with {prefix!r}, left by a wrapper" in caplog.text


def test_weights_that_the_files_lack_are_refused_by_name(tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "a")
    shutil.copytree(path, tmp_path / "b")
    rename(path, lambda name: "strange." + name)
    message = refusal(job_for(path))
    assert "its files lack bert.embeddings.LayerNorm.bias" in message
    rename(tmp_path / "b", lambda name: None if "layer.1.attention.self.key.weight" in name else name)
    assert "bert.encoder.layer.1.attention.self.key.weight" in refusal(job_for(tmp_path / "b"))


def test_a_pooler_and_a_head_may_be_missing(tmp_path: Path) -> None:
    path = tiny_model(tmp_path)
    rename(path, lambda name: None if "pooler" in name else name)
    base = load_base(job_for(path))
    assert {"bert.pooler.dense.weight", "classifier.weight"} <= base.new_parameters


def test_a_weight_of_another_shape_is_not_drawn_at_random(tmp_path: Path) -> None:
    path = tiny_model(tmp_path)
    edit(path / "config.json", intermediate_size=48)
    assert "hold them in another shape" in refusal(job_for(path))


def test_a_quantised_base_is_refused_with_the_reason(tmp_path: Path) -> None:
    path = tiny_model(tmp_path)
    edit(path / "config.json", quantization_config={"quant_method": "gptq"})
    assert "quantised (gptq)" in refusal(job_for(path))


def test_a_model_that_sees_the_next_token_cannot_learn_to_predict_it(tmp_path: Path) -> None:
    path = write_family(tmp_path, "bert", "causal-lm")
    raw = {"name": "x", "model": {"name": str(path)}, "task": {"kind": "causal-lm"}, "method": "fedit"}
    assert "reads the text on both sides" in refusal(parse_job(raw))


def test_a_base_without_the_layer_that_makes_text_is_refused(tmp_path: Path) -> None:
    path = write_family(tmp_path, "llama", "classification")  # the base network alone
    raw = {"name": "x", "model": {"name": str(path)}, "task": {"kind": "causal-lm"}, "method": "fedit"}
    assert "lack lm_head.weight" in refusal(parse_job(raw))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", ["xlnet", "gpt2", "llama", "bert", "roberta"])
def test_a_row_beside_a_longer_one_is_answered_as_alone_whatever_side_the_tokenizer_names(
    tmp_path: Path, family: str, side: str
) -> None:
    if family == "xlnet":
        tokenizer = word_tokenizer(encoder=True)
        config = transformers.XLNetConfig(
            vocab_size=len(tokenizer), d_model=32, n_layer=2, n_head=4, d_inner=64, pad_token_id=0, dropout=0.0,
            initializer_range=0.18,
        )  # fmt: skip
        tokenizer.save_pretrained(tmp_path)
        transformers.XLNetModel(config).save_pretrained(tmp_path)
    else:
        write_family(tmp_path, family, "classification")
    edit(tmp_path / "tokenizer_config.json", padding_side=side)
    spec = parse_job(
        {
            "name": "x",
            "model": {"name": str(tmp_path), "max_length": 32},
            "task": TASKS["classification"].model_dump(),
            "method": "fedit",
        }
    )
    network = Network.on(load_base(spec), spec)
    network.load({}, network.schema.layers, 0)
    rows = network.encode([Example("a dog", None, 0.0), Example("the cat works today in paris again", None, 1.0)])
    # An encoder reads its answer off the first place, XLNet off the last; decoders find the last token themselves.
    assert rows.left == {"xlnet": True, "bert": False, "roberta": False}.get(family, side == "left")
    with torch.no_grad():
        beside = network.forward(rows, np.arange(2))[0]
        alone = network.forward(rows, np.array([0]))[0]
    torch.testing.assert_close(beside, alone, atol=1e-5, rtol=0)


def test_what_looks_like_a_special_token_in_a_text_is_text(tmp_path: Path) -> None:
    path = tiny_model(tmp_path)
    network = Network.on(load_base(job_for(path)), job_for(path))
    plain, tricky = network.encode([Example("the cat", None, 0.0), Example("the [SEP] cat [PAD]", None, 0.0)]).ids
    separator, padding = 3, 0
    assert plain.tolist().count(separator) == tricky.tolist().count(separator) == 1
    assert padding not in tricky.tolist()


def test_a_factor_that_gets_no_gradient_is_an_error_and_not_left_as_it_is(tmp_path: Path) -> None:
    spec = job_for(tiny_model(tmp_path))
    base = load_base(spec)
    worker = worker_for(spec, base=base)
    query = base.model.get_submodule("bert.encoder.layer.0.attention.self.query")
    deaf = query.register_forward_hook(lambda module, given, answer: answer.detach())
    with pytest.raises(FedhftError, match=r"layer\.0\.attention\.self\.query.*get no gradient") as caught:
        worker.train(train_task())
    assert caught.value.code is ErrorCode.INVALID_MODEL
    deaf.remove()
    assert worker.train(train_task()).blob


def test_a_model_whose_tokenizer_does_not_end_texts_as_it_needs_is_refused(tmp_path: Path) -> None:
    path = write_family(tmp_path, "bart", "classification")
    edit(path / "config.json", eos_token_id=7)
    assert "cannot read a text: Each example must contain at least one <eos> token" in refusal(
        parse_job({"name": "x", "model": {"name": str(path)}, "task": {"labels": ["a", "b"]}, "method": "fedit"})
    )
