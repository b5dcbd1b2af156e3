"""Models in other formats become folders that agents load."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from fedhft.training.base import load_base
from tests.cli_runner import run_cli
from tests.models import tiny_model
from tests.workers import job_for

LAYERS, WIDTH, INNER, HEADS, PAIRS = 2, 32, 64, 4, 2


def write_gguf(path: Path, kind: gguf.GGMLQuantizationType | None = None) -> dict[str, np.ndarray]:
    """A small Llama with a byte-level tokenizer; returns its tensors."""
    writer = gguf.GGUFWriter(str(path), "llama")
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *bytes_to_unicode().values(), "Ġt", "he", "Ġthe", "in"]
    writer.add_block_count(LAYERS)
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(PAIRS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * 3 + [1] * (len(tokens) - 3))
    writer.add_token_merges(["Ġ t", "h e", "Ġt he", "i n"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    narrow = WIDTH // HEADS * PAIRS
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (len(tokens), WIDTH), "output_norm.weight": (WIDTH,)}
    for layer in range(LAYERS):
        shapes |= {
            f"blk.{layer}.{name}.weight": shape
            for name, shape in {
                "attn_norm": (WIDTH,), "ffn_norm": (WIDTH,), "attn_q": (WIDTH, WIDTH), "attn_k": (narrow, WIDTH),
                "attn_v": (narrow, WIDTH), "attn_output": (WIDTH, WIDTH), "ffn_gate": (INNER, WIDTH),
                "ffn_up": (INNER, WIDTH), "ffn_down": (WIDTH, INNER),
            }.items()
        }  # fmt: skip
    generator = np.random.default_rng(0)
    tensors = {name: (generator.standard_normal(shape) * 0.2).astype(np.float32) for name, shape in shapes.items()}
    for name, values in tensors.items():
        if kind is not None and values.ndim == 2:
            writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors


@pytest.mark.parametrize("kind", [None, gguf.GGMLQuantizationType.Q8_0], ids=["plain", "quantised"])
def test_a_gguf_file_becomes_a_folder_that_loads(tmp_path: Path, kind: gguf.GGMLQuantizationType | None) -> None:
    tensors = write_gguf(tmp_path / "small.gguf", kind)
    out = tmp_path / "out"
    done = run_cli("model", "convert", str(tmp_path / "small.gguf"), "--out", str(out), "-o", "json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    model = AutoModelForCausalLM.from_pretrained(str(out))
    assert told["values"] == sum(parameter.numel() for parameter in model.parameters())
    embedding = model.get_input_embeddings().weight.detach().numpy()
    wanted = tensors["token_embd.weight"]
    np.testing.assert_allclose(embedding, wanted, atol=0 if kind is None else 0.01)
    assert "quantization_config" not in json.loads((out / "config.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(str(out))
    assert tokenizer.decode(tokenizer("in the")["input_ids"]) == "in the"
    task = {"kind": "causal-lm"}
    base = load_base(job_for(out, adapter={"targets": ["q_proj"], "rank": 2}, task=task, method="fedit"))
    assert base.digest == told["digest"]


def test_pickled_weights_become_safetensors_of_the_dtype_asked_for(tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base")
    AutoModelForSequenceClassification.from_pretrained(str(base), num_labels=3).save_pretrained(str(base))
    model = AutoModelForSequenceClassification.from_pretrained(str(base))
    torch.save(model.state_dict(), base / "pytorch_model.bin")
    (base / "model.safetensors").unlink()
    out = tmp_path / "out"
    done = run_cli("model", "convert", str(base), "--out", str(out), "--dtype", "bfloat16")
    assert done.returncode == 0, done.stderr
    again = AutoModelForSequenceClassification.from_pretrained(str(out))
    assert again.dtype == torch.bfloat16
    assert torch.equal(again.classifier.weight, model.classifier.weight.to(torch.bfloat16))


@pytest.mark.parametrize(
    ("share", "said"),
    [(None, "is neither a .gguf file nor a folder"), (0.0, "cannot be read"), (0.01, "cannot be read"),
     (0.5, "cannot be read"), (0.9, "cannot be read")],
)  # fmt: skip
def test_a_file_that_is_no_model_or_is_cut_off_is_refused(tmp_path: Path, share: float | None, said: str) -> None:
    if share is not None:
        write_gguf(tmp_path / "whole.gguf")
        data = (tmp_path / "whole.gguf").read_bytes()
        (tmp_path / "x.gguf").write_bytes(data[: int(share * len(data))])
    done = run_cli("model", "convert", str(tmp_path / "x.gguf"), "--out", str(tmp_path / "out"))
    assert done.returncode == 16, done.stderr
    assert said in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_folder_with_something_in_it_is_not_written_into(tmp_path: Path) -> None:
    write_gguf(tmp_path / "small.gguf")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").write_text("")
    done = run_cli("model", "convert", str(tmp_path / "small.gguf"), "--out", str(tmp_path / "out"))
    assert done.returncode == 14
    assert "is there already" in done.stderr
