"""Steps per second and peak device memory of a client on an accelerator: `python -m benchmarks.gpu`.

Subjects and arms are those of `benchmarks.client_step`: plain PEFT on all layers, and a client's own training at all
layers and at depth 1, 2 and 3, without the cache of frozen layers and with it, each in fp32 and in bf16. Time is wall
time, between two waits for the device; memory is the most that tensors took on it, base model included.

Where torch finds no accelerator there is nothing to measure: the program says so and ends with 1. `--device cpu` runs
it all the same, to see that it runs; the figures are then those of a CPU, and there is no device memory.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from benchmarks.client_step import ALPHA, BATCH, RANK, RATE, SEED, Subject, job, subjects
from fedhft.errors import FedhftError
from fedhft.plan import AdapterPlan
from fedhft.process.device_name import parse_device
from fedhft.training.base import load_base
from fedhft.training.batches import training_batches
from fedhft.training.device.choice import accelerators, computes_bf16, description, usable_device
from fedhft.training.device.state import forget_peak, peak_bytes
from fedhft.training.learner import train
from fedhft.training.network import Network
from fedhft.training.prefix.folder import PrefixFolder


@dataclass(frozen=True)
class Figure:
    """One line of the table. steps: per second; peak: bytes."""

    arm: str
    depth: int
    precision: str
    steps: float
    peak: int


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table for each model; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", help="cuda, cuda:N, mps, or cpu to try the program (default auto)")
    parser.add_argument("--model", type=Path, help="measure this model instead, on rows of --tokens")
    parser.add_argument("--tokens", type=int, default=64, help="tokens per row for --model (default 64)")
    parser.add_argument("--targets", default="query,value", help="modules with adapters in --model")
    parser.add_argument("--only", choices=["minilm", "bert-base"], help="one of the two models")
    parser.add_argument("--steps", type=int, default=20, help="steps per run (default 20)")
    parser.add_argument("--repeats", type=int, default=5, help="runs per arm (default 5)")
    options = parser.parse_args(argv)
    try:
        device = usable_device(parse_device(options.device))
    except FedhftError as error:
        print(f"nothing measured: {error.message}", file=sys.stderr)
        return 1
    if device.type == "cpu" and options.device != "cpu":
        found = f"{accelerators()[0]} is there, but does not work" if accelerators() else "torch finds no GPU here"
        print(f"nothing measured: {found} (CUDA or MPS); --device cpu tries the program all the same", file=sys.stderr)
        return 1
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    print(f"{description(device)}, torch {torch.__version__}, transformers {transformers.__version__}")
    with tempfile.TemporaryDirectory() as scratch:
        for subject in subjects(options, Path(scratch)):
            print(table(subject, list(figures(subject, options, device, Path(scratch)))), flush=True)
    return 0


def figures(subject: Subject, options: argparse.Namespace, device: torch.device, scratch: Path) -> Iterator[Figure]:
    """Every arm in turn."""
    for precision in ("fp32", "bf16") if computes_bf16(device) else ("fp32",):
        yield measured(plain(subject, device, precision), options, device, "PEFT", subject.layers, precision)
        for depth in (subject.layers, *range(1, min(4, subject.layers))):
            for cache in (False, True) if depth < subject.layers else (False,):
                folder = scratch / f"{subject.name}-{depth}-{precision}".replace(" ", "-") if cache else None
                arm = "fedhft, cached" if cache else "fedhft"
                run = client(subject, device, depth, folder, precision)
                yield measured(run, options, device, arm, depth, precision)


def plain(subject: Subject, device: torch.device, precision: str) -> Callable[[int], None]:
    """Training by transformers and PEFT alone, in a model of float32 under autocast for bf16."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(SEED)
    model: Any = transformers.AutoModelForSequenceClassification.from_pretrained(subject.folder, num_labels=2)
    config = LoraConfig(r=RANK, lora_alpha=int(ALPHA), target_modules=list(subject.targets), task_type="SEQ_CLS")
    model = get_peft_model(model, config).to(device).train()
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=RATE)
    rows = subject.rows

    def run(steps: int) -> None:
        for index in training_batches(rows.lengths, BATCH, SEED, steps):
            optimiser.zero_grad(set_to_none=True)
            inputs = {name: tensor.to(device) for name, tensor in rows.inputs(index).items()}
            labels = torch.from_numpy(rows.targets[index]).to(device)
            with torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext():
                loss = model(**inputs, labels=labels).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()

    return run


def client(
    subject: Subject, device: torch.device, depth: int, cache: Path | None, precision: str
) -> Callable[[int], None]:
    """A client's own training, its cache filled."""
    spec = job(subject, precision)
    network = Network.on(load_base(spec, device=device), spec)
    if cache is not None:
        folder = PrefixFolder.open(cache, 4 << 30)
        assert folder is not None, "the cache cannot be used"
        network.cache_prefix(folder, torch.float32)
    network.load({}, depth, 0)
    if cache is not None:
        with torch.no_grad():
            for start in range(0, len(subject.rows), BATCH):
                network.forward(subject.rows, np.arange(start, min(start + BATCH, len(subject.rows))))

    def run(steps: int) -> None:
        plan = AdapterPlan("", depth, 1.0, 100.0, steps, train_a=True, train_b=True)
        train(
            network, subject.rows, plan, {}, spec.training, learning_rate=RATE, seed=SEED, importance=None,
            should_stop=lambda: False,
        )  # fmt: skip

    return run


def measured(
    run: Callable[[int], None],
    options: argparse.Namespace,
    device: torch.device,
    arm: str,
    depth: int,
    precision: str,
) -> Figure:
    """Median over the repeats, after one step to warm up; the peak is of the repeats."""
    run(1)
    wait(device)
    forget_peak(device)
    found = []
    for _ in range(options.repeats):
        began = time.perf_counter()
        run(options.steps)
        wait(device)
        found.append(options.steps / (time.perf_counter() - began))
    figure = Figure(arm, depth, precision, statistics.median(found), peak_bytes(device))
    gc.collect()
    return figure


def wait(device: torch.device) -> None:
    """Until the device has done all that it was given."""
    synchronize = getattr(getattr(torch, device.type), "synchronize", None)
    if device.type != "cpu" and synchronize is not None:
        synchronize()


def table(subject: Subject, lines: Sequence[Figure]) -> str:
    """Markdown: steps per second, that as a multiple of PEFT's in fp32, peak memory of the device in MiB."""
    peft = lines[0].steps
    tokens = int(subject.rows.lengths.sum()) / len(subject.rows)
    out = [
        f"\n{subject.name}: {subject.layers} layers, {BATCH} rows a step, {tokens:.0f} tokens a row\n",
        "| | depth | precision | steps per second | times PEFT in fp32 | peak device memory, MiB |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for line in lines:
        peak = f"{line.peak / 2**20:.0f}" if line.peak else "not measured"
        times = f"{line.steps / peft:.2f}"
        out.append(f"| {line.arm} | {line.depth} | {line.precision} | {line.steps:.1f} | {times} | {peak} |")
    return "\n".join(out)


if __name__ == "__main__":
    sys.exit(main())
