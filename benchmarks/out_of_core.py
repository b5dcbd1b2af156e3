"""Training a model that does not fit: `python -m benchmarks.out_of_core`.

A random Llama of 18 layers, hidden size 2048 (1.95 GB in bf16; in shards, and as one file) is trained at depth 2 for
two steps by a client that keeps only layers in training in memory, under a limit of data (RLIMIT_DATA, 1.2 GiB). Beside
it, under the same limit, a plain loop over transformers and PEFT. Each run is a process of its own; figures are above
what it had after its imports. Needs 2 GB of disk for the model, one copy at a time.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedhft.process.allocator import bound_arenas

LIMIT = int(1.2 * (1 << 30))
LAYERS, HIDDEN, INNER, HEADS, WORDS = 18, 2048, 5504, 16, 32000
ROWS, TOKENS, DEPTH = 24, 24, 2


def main(argv: Sequence[str] | None = None) -> None:
    """Print a table; with --run, be one of its lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", choices=["client", "plain"], help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.run:
        bound_arenas()  # as an agent's process does
        print(json.dumps(client(options.model) if options.run == "client" else plain(options.model)))
        return
    print("| files | what | peak RSS, MB | anonymous after, MB | CPU s | layers read, MB | loss |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for shards in (4, 1):
        with tempfile.TemporaryDirectory() as folder:
            write_model(Path(folder), shards)
            for what in ("client", "plain"):
                print(line(f"{shards} of {size_of(Path(folder)) / 1e9:.2f} GB", what, Path(folder)), flush=True)


def line(files: str, what: str, folder: Path) -> str:
    """One line of the table: a process under the limit."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.out_of_core", "--run", what, "--model", str(folder)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit code {done.returncode}"
        return f"| {files} | {what} | {last[:120]} | | | | |"
    told = json.loads(done.stdout.strip().splitlines()[-1])
    figures = " | ".join(f"{told[name]:.0f}" for name in ("rss", "anonymous"))
    return f"| {files} | {what} | {figures} | {told['cpu']:.1f} | {told['read']:.0f} | {told['loss']:.4f} |"


def size_of(folder: Path) -> int:
    """Bytes of the weights."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def write_model(folder: Path, shards: int) -> None:
    """Random weights, written a tensor at a time, so that this process needs no memory for them."""
    from tests.models import tiny_model

    tiny_model(folder, "llama")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config |= {
        "hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS, "head_dim": HIDDEN // HEADS, "vocab_size": WORDS, "dtype": "bfloat16",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "model.safetensors").unlink()
    names = list(shapes())
    parts = [names[len(names) * i // shards : len(names) * (i + 1) // shards] for i in range(shards)]
    placed = {}
    for number, part in enumerate(parts):
        file = f"model-{number}.safetensors" if shards > 1 else "model.safetensors"
        write_file(folder / file, {name: shapes()[name] for name in part})
        placed |= dict.fromkeys(part, file)
    if shards > 1:
        index = {"metadata": {}, "weight_map": placed}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def shapes() -> dict[str, tuple[int, ...]]:
    """Of every tensor of the model."""
    found: dict[str, tuple[int, ...]] = {"embed_tokens.weight": (WORDS, HIDDEN)}
    for layer in range(LAYERS):
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            found[f"layers.{layer}.self_attn.{name}.weight"] = (HIDDEN, HIDDEN)
        for name, shape in (("gate", (INNER, HIDDEN)), ("up", (INNER, HIDDEN)), ("down", (HIDDEN, INNER))):
            found[f"layers.{layer}.mlp.{name}_proj.weight"] = shape
        for name in ("input_layernorm", "post_attention_layernorm"):
            found[f"layers.{layer}.{name}.weight"] = (HIDDEN,)
    return {**found, "norm.weight": (HIDDEN,)}


def write_file(path: Path, tensors: Mapping[str, tuple[int, ...]]) -> None:
    """A safetensors file of bf16 values: norms one, the others normal with standard deviation 0.02."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in tensors.items():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    generator = np.random.default_rng(0)
    with path.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for shape in tensors.values():
            count = int(np.prod(shape))
            values = (
                generator.standard_normal(count, np.float32) * 0.02 if len(shape) > 1 else np.ones(count, np.float32)
            )
            stream.write((values.view(np.uint32) >> 16).astype(np.uint16).tobytes())


def client(folder: Path) -> dict[str, float]:
    """Two steps of a client at depth 2."""
    import torch

    from fedhft.plan import AdapterPlan
    from fedhft.training.base import load_base
    from fedhft.training.learner import train
    from fedhft.training.network import Network
    from fedhft.training.prefix.folder import PrefixFolder

    spec = job(folder)
    before = begin()
    base = load_base(spec, streamed=True)
    network = Network.on(base, spec)
    with tempfile.TemporaryDirectory() as scratch:
        kept = PrefixFolder.open(Path(scratch), 1 << 30)
        assert kept is not None, "the cache cannot be used"
        network.cache_prefix(kept, torch.float32)
        rows = encoded()
        network.load({}, DEPTH, 0)
        network.prepare([rows])
        plan = AdapterPlan("", DEPTH, 1.0, 1.0, 2, train_a=True, train_b=True)
        report = train(
            network, rows, plan, {}, spec.training, learning_rate=1e-4, seed=1, importance=None,
            should_stop=lambda: False,
        )  # fmt: skip
    assert base.streamed is not None, "the model was loaded whole"
    return {**since(before), "read": base.streamed.bytes_read / 1e6, "loss": report.loss}


def plain(folder: Path) -> dict[str, float]:
    """The same with transformers and PEFT alone."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification

    before = begin()
    model: Any = AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=2, pad_token_id=0, dtype=torch.float32
    )
    config = LoraConfig(
        r=8, target_modules=["q_proj", "v_proj"], layers_to_transform=list(range(LAYERS - DEPTH, LAYERS)),
        task_type="SEQ_CLS",
    )  # fmt: skip
    model = get_peft_model(model, config)
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    rows, loss = encoded(), 0.0
    for start in (0, 8):
        index = np.arange(start, start + 8)
        optimiser.zero_grad()
        found = model(**rows.inputs(index), labels=torch.from_numpy(rows.targets[index])).loss
        found.backward()
        optimiser.step()
        loss += float(found.detach()) / 2
    return {**since(before), "read": 0.0, "loss": loss}


def job(folder: Path) -> Any:
    """LoRA on queries and values."""
    from fedhft.job import parse_job

    return parse_job(
        {
            "name": "large",
            "model": {"name": str(folder), "max_length": 64},
            "task": {"labels": ["0", "1"]},
            "method": "fedit",
            "adapter": {"targets": ["q_proj", "v_proj"]},
            "training": {"batch_size": 8},
        }
    )


def encoded() -> Any:
    """Random rows."""
    from fedhft.training.batches import EncodedRows
    from fedhft.training.tasks.interface import Tokens

    generator = np.random.default_rng(1)
    ids = [generator.integers(4, WORDS, TOKENS - i % 9).astype(np.int32) for i in range(ROWS)]
    return EncodedRows(tuple(map(Tokens, ids)), generator.integers(0, 2, ROWS), 0)


def begin() -> tuple[float, float, float]:
    """Import what a model of this family needs, set the limit and forget the peak so far; RSS, anonymous, CPU s."""
    import torch
    import torch.optim
    import transformers.models.llama.modeling_llama  # noqa: F401

    torch.set_num_threads(1)
    torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))]).step()
    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT))
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return status("VmRSS"), status("RssAnon"), cpu()


def since(before: tuple[float, float, float]) -> dict[str, float]:
    """Peak RSS and anonymous memory now, MB above `before`, and CPU seconds."""
    return {
        "rss": status("VmHWM") - before[0],
        "anonymous": status("RssAnon") - before[1],
        "cpu": cpu() - before[2],
    }


def status(name: str) -> float:
    """A figure of this process from the kernel, MB."""
    for text in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if text.startswith(f"{name}:"):
            return int(text.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"no {name}")


def cpu() -> float:
    """CPU seconds of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
