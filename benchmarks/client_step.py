"""CPU seconds of one optimiser step of a client: `python -m benchmarks.client_step`.

Two models: the packaged MiniLM on batches like SST-2's (16 rows of about 13 tokens), and a random BERT-base on 16 rows
of 64 tokens; `--model DIR` measures another folder instead, with `--completion N` as a causal LM whose loss is on the
last N tokens of each row. Beside plain full fine-tuning and plain PEFT on all layers, written with transformers and
PEFT alone (its output layer is worked out at every place, as a model's own loss has it), a client's own training at
depth 1, 2 and 3: without the cache of frozen layers, with it, and with it in bf16. Steps are timed when the cache is
warm; what filling it takes is stated apart.

One process, one thread, one arm after another, PEFT first and last; the median of `--repeats` runs of `--steps` steps.
L/k is what is left of L layers at depth k: with the rest of a step for nothing, the ratio could be that, or about 1.1
times that, since the backward pass of the lowest trained layer need not reach its input.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from fedhft.job import JobSpec, parse_job
from fedhft.local.base_model import packaged_minilm
from fedhft.plan import AdapterPlan
from fedhft.training.base import load_base
from fedhft.training.batches import EncodedRows, training_batches
from fedhft.training.learner import train
from fedhft.training.network import Network
from fedhft.training.prefix.folder import PrefixFolder
from fedhft.training.tasks.interface import Tokens, place_targets

BATCH = 16
ROWS = 8 * BATCH
SEED = 7
RANK, ALPHA, RATE = 8, 16.0, 1e-4


@dataclass(frozen=True)
class Subject:
    """A model and rows for it. targets: modules with adapters."""

    name: str
    folder: Path
    layers: int
    rows: EncodedRows
    targets: tuple[str, ...]
    completion: int = 0


@dataclass(frozen=True)
class Figure:
    """One line of the table. seconds: of CPU, per step; fill: of CPU, for all rows once."""

    arm: str
    depth: int
    seconds: float
    fill: float = 0.0


def main(argv: Sequence[str] | None = None) -> None:
    """Print a table for each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="measure this model instead, on rows of --tokens")
    parser.add_argument("--tokens", type=int, default=64, help="tokens per row for --model (default 64)")
    parser.add_argument("--targets", default="query,value", help="modules with adapters in --model")
    parser.add_argument("--completion", type=int, default=0, help="tokens of a completion; 0: classification")
    parser.add_argument("--depths", default="1,2,3", help="depths to measure (default 1,2,3)")
    parser.add_argument("--precisions", default="fp32,bf16", help="of cached steps (default fp32,bf16)")
    parser.add_argument("--short", action="store_true", help="leave out what trains all layers, but for PEFT")
    parser.add_argument("--only", choices=["minilm", "bert-base"], help="one of the two models")
    parser.add_argument("--steps", type=int, default=4, help="steps per run (default 4)")
    parser.add_argument("--repeats", type=int, default=5, help="runs per arm (default 5)")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as scratch:
        for subject in subjects(options, Path(scratch)):
            print(table(subject, list(figures(subject, options, Path(scratch)))), flush=True)


def subjects(options: argparse.Namespace, scratch: Path) -> Iterator[Subject]:
    """What is measured."""
    if options.model is not None:
        lengths = np.full(ROWS, options.tokens)
        targets = tuple(options.targets.split(","))
        yield subject_of(options.model.name, options.model, lengths, targets, options.completion)
        return
    if options.only != "bert-base":
        lengths = np.random.default_rng(SEED).integers(5, 22, ROWS)
        yield subject_of("MiniLM", packaged_minilm(), lengths, ("query", "value"))
    if options.only != "minilm":
        yield subject_of("random BERT-base", random_bert(scratch / "bert"), np.full(ROWS, 64), ("query", "value"))


def subject_of(
    name: str, folder: Path, lengths: np.ndarray[Any, Any], targets: tuple[str, ...], completion: int = 0
) -> Subject:
    """Random rows of the given lengths for a model. completion: at the end of each row, tokens that are answers."""
    config = transformers.AutoConfig.from_pretrained(folder)
    generator = np.random.default_rng(SEED)
    ids = [generator.integers(1000, min(30000, config.vocab_size), n).astype(np.int32) for n in lengths]
    pad = config.pad_token_id or 0
    if completion:
        places = [np.arange(len(row) - completion - 1, len(row) - 1, dtype=np.int32) for row in ids]
        tokens = [Tokens(row, places=place) for row, place in zip(ids, places, strict=True)]
        rows = EncodedRows(tuple(tokens), place_targets([row[-completion:] for row in ids]), pad)
    else:
        rows = EncodedRows(tuple(map(Tokens, ids)), generator.integers(0, 2, len(ids)), pad)
    return Subject(name, folder, config.num_hidden_layers, rows, targets, completion)


def random_bert(folder: Path) -> Path:
    """A BERT-base with random weights, and MiniLM's tokenizer, whose vocabulary it shares."""
    torch.manual_seed(SEED)
    transformers.BertModel(transformers.BertConfig()).save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(packaged_minilm()).save_pretrained(folder)
    return folder


def figures(subject: Subject, options: argparse.Namespace, scratch: Path) -> Iterator[Figure]:
    """Every arm in turn."""
    if not options.short:
        yield Figure("full fine-tuning", subject.layers, plain(subject, options, whole=True))
    yield Figure("PEFT, all layers", subject.layers, plain(subject, options, whole=False))
    if not options.short:
        yield Figure("fedhft, all layers", subject.layers, client(subject, options, subject.layers, None)[0])
    for depth in (depth for depth in map(int, options.depths.split(",")) if depth < subject.layers):
        yield Figure("not cached", depth, client(subject, options, depth, None)[0])
        for precision in options.precisions.split(","):
            cache = scratch / f"{subject.name}-{depth}-{precision}".replace(" ", "-")
            seconds, fill = client(subject, options, depth, cache, precision)
            yield Figure("cached" if precision == "fp32" else "cached, bf16", depth, seconds, fill)
    yield Figure("PEFT, all layers, again", subject.layers, plain(subject, options, whole=False))


def plain(subject: Subject, options: argparse.Namespace, whole: bool) -> float:
    """CPU seconds per step of a loop over transformers, and PEFT unless all weights are trained."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(SEED)
    causal = subject.completion > 0
    kind = transformers.AutoModelForCausalLM if causal else transformers.AutoModelForSequenceClassification
    model: Any = kind.from_pretrained(subject.folder, **({} if causal else {"num_labels": 2}))
    if not whole:
        task = "CAUSAL_LM" if causal else "SEQ_CLS"
        config = LoraConfig(r=RANK, lora_alpha=int(ALPHA), target_modules=list(subject.targets), task_type=task)
        model = get_peft_model(model, config)
    model.train()
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=RATE)
    rows = subject.rows

    def run(steps: int) -> None:
        for index in training_batches(rows.lengths, BATCH, SEED, steps):
            optimiser.zero_grad(set_to_none=True)
            inputs = rows.inputs(index)
            if causal:
                labels = inputs["input_ids"].clone()
                labels[:, : -subject.completion] = -100  # rows are of equal length
            else:
                labels = torch.from_numpy(rows.targets[index])
            model(**inputs, labels=labels).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()

    return per_step(run, options)


def client(
    subject: Subject, options: argparse.Namespace, depth: int, cache: Path | None, precision: str = "fp32"
) -> tuple[float, float]:
    """CPU seconds per step of a client's own training, and of filling its cache."""
    spec = job(subject, precision)
    network = Network.on(load_base(spec), spec)
    if cache is not None:
        folder = PrefixFolder.open(cache, 4 << 30)
        assert folder is not None, "the cache cannot be used"
        network.cache_prefix(folder, torch.float32)
    network.load({}, depth, 0)
    fill = 0.0
    if cache is not None:
        network.model.eval()
        with torch.no_grad():
            warm = fill_seconds(network, subject.rows)
            fill = warm[0] - warm[1]

    def run(steps: int) -> None:
        plan = AdapterPlan("", depth, 1.0, 100.0, steps, train_a=True, train_b=True)
        train(
            network, subject.rows, plan, {}, spec.training, learning_rate=RATE, seed=SEED, importance=None,
            should_stop=lambda: False,
        )  # fmt: skip

    return per_step(run, options), fill


def job(subject: Subject, precision: str) -> JobSpec:
    """A job on the subject: LoRA as in the plain loop."""
    return parse_job(
        {
            "name": "step",
            "model": {"name": str(subject.folder), "max_length": 128},
            "task": {"kind": "causal-lm"} if subject.completion else {"labels": ["0", "1"]},
            "method": "fedit",
            "adapter": {"targets": list(subject.targets), "rank": RANK, "alpha": ALPHA},
            "training": {"batch_size": BATCH, "precision": precision},
        }
    )


def fill_seconds(network: Network, rows: EncodedRows) -> list[float]:
    """CPU seconds of a pass over all rows, with a cold cache and with a warm one."""
    found = []
    for _ in range(2):
        began = time.process_time()
        for start in range(0, len(rows), BATCH):
            network.forward(rows, np.arange(start, min(start + BATCH, len(rows))))
        found.append(time.process_time() - began)
    return found


def per_step(run: Callable[[int], None], options: argparse.Namespace) -> float:
    """Median over the repeats, after one step to warm up."""
    run(1)
    found = []
    for _ in range(options.repeats):
        began = time.process_time()
        run(options.steps)
        found.append((time.process_time() - began) / options.steps)
    gc.collect()
    return float(statistics.median(found))


def table(subject: Subject, lines: Sequence[Figure]) -> str:
    """Markdown: CPU ms per step, the ratio to PEFT on all layers, that ratio over L/k, seconds of filling."""
    peft = statistics.mean(line.seconds for line in lines if line.arm.startswith("PEFT"))
    tokens = int(subject.rows.lengths.sum())
    out = [
        f"\n{subject.name}: {subject.layers} layers, {BATCH} rows a step, {tokens / ROWS:.0f} tokens a row\n",
        "| | depth | CPU ms per step | times faster than PEFT | of L/k | fill, CPU ms per row |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for line in lines:
        faster = peft / line.seconds
        share = f"{faster * line.depth / subject.layers:.2f}" if line.depth < subject.layers else ""
        fill = f"{1000 * line.fill / ROWS:.1f}" if line.fill else ""
        out.append(f"| {line.arm} | {line.depth} | {1000 * line.seconds:.1f} | {faster:.2f} | {share} | {fill} |")
    return "\n".join(out)


if __name__ == "__main__":
    main()
