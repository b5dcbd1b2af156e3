"""A language model learns to name topics, over real sockets: `python -m benchmarks.causal_lm --model DIR --data DIR`.

`--model`: a decoder's folder (`fedhft model convert` makes one of a GGUF file). `--data`: a folder with train.jsonl.gz,
validation.jsonl.gz (rows of `text` and a class index `label`) and meta.json (`label_names`). Rows become a prompt, the
text, and a completion, its topic. Redis, an aggregator and the agents are processes of their own; then the exported
adapter is loaded by plain PEFT and has to write the same tokens as the network that was trained.

Exit code 1 when a target is missed: completion perplexity at most 5 and written topics above the majority floor.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from fedhft.aggregation.mixture import mix
from fedhft.datasets.client_data import load_rows
from fedhft.datasets.federated import ClientFiles
from fedhft.export.published import PublishedAdapters, fetch_adapters, write_adapters
from fedhft.job import JobSpec, parse_job
from fedhft.local.federation import Federation, FederationLayout
from fedhft.training.base import load_base
from fedhft.training.batches import EncodedRows
from fedhft.training.exported_model import ExportedModel, prompt_length
from fedhft.training.network import Network
from fedhft.training.tasks.interface import Tokens
from fedhft.v1 import jobs_pb2

MOST_PERPLEXITY = 5.0
_MOST_TOKENS = 6


def main() -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--agents", type=int, default=4)
    parser.add_argument("--rows", type=int, default=160, help="training rows of an agent")
    parser.add_argument("--scored", type=int, default=100, help="rows that the written topics are counted on")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--depth", type=int, default=4, help="layers, counted from the output, with adapters")
    parser.add_argument("--out", type=Path, default=None, help="folder to keep; a temporary one without")
    options = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory(prefix="fedhft-causal-lm-") as temporary:
        folder = (options.out or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        files = _files(options, folder)
        spec = job_of(options, options.model.absolute())
        job, adapters = _run(spec, options.model.absolute(), files, folder, console)
        (exported,) = write_adapters(adapters, folder / "adapters", job, check=True)
        held = _scored(folder / "scored.jsonl", spec, adapters, exported.path)
    return _told(console, job, held, exported.checked.difference if exported.checked else float("nan"))


def job_of(options: argparse.Namespace, model: Path) -> JobSpec:
    """FedIT on the last layers of a decoder, with prompts and completions."""
    return parse_job(
        {
            "name": "topics",
            "model": {"name": str(model), "max_length": 160},
            "task": {"kind": "causal-lm", "metrics": ["token_accuracy", "perplexity", "exact_match"]},
            "method": "fedit",
            "adapter": {"rank": 8, "alpha": 16, "depth": options.depth},
            "training": {"learning_rate": 2e-3, "batch_size": 8, "schedule": "cosine", "warmup": 0.1},
            "rounds": {"total": options.rounds, "min_clients": options.agents, "deadline": "1h"},
            "evaluation": {"final": True},
            "limits": {"update_norm": 1e4},
        }
    )


def _files(options: argparse.Namespace, folder: Path) -> list[ClientFiles]:
    labels = list(json.loads((options.data / "meta.json").read_text(encoding="utf-8"))["label_names"])
    train, rest = _rows(options.data / "train.jsonl.gz"), _rows(options.data / "validation.jsonl.gz")
    files = []
    for agent in range(options.agents):
        own = [_write(folder / f"agent-{agent}-train.jsonl", islice(train, options.rows), labels)]
        own += [
            _write(folder / f"agent-{agent}-{kind}.jsonl", islice(rest, 25), labels) for kind in ("holdout", "shared")
        ]
        files.append(ClientFiles(f"agent-{agent}", *own))
    _write(folder / "scored.jsonl", islice(rest, options.scored), labels)
    return files


def _rows(path: Path) -> Any:
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        yield from map(json.loads, stream)


def _write(path: Path, rows: Any, labels: Sequence[str]) -> Path:
    with path.open("w", encoding="utf-8") as stream:
        for row in rows:
            written = {"prompt": f"{row['text']}\nTopic:", "completion": f" {labels[row['label']]}"}
            stream.write(json.dumps(written) + "\n")
    return path


def _run(
    spec: JobSpec, model: Path, files: Sequence[ClientFiles], folder: Path, console: Console
) -> tuple[jobs_pb2.Job, PublishedAdapters]:
    federation = Federation(FederationLayout(folder / "run", model))
    try:
        federation.start()
        federation.jobs.submit(spec)
        federation.start_agents(spec.name, files)
        shown = 0

        def show(change: jobs_pb2.Job) -> None:
            nonlocal shown
            if change.rounds_done > shown:
                shown = change.rounds_done
                console.print(f"round {shown}: {change.history[-1].seconds:.0f} s")

        job = federation.follow(spec.name, 7200.0, show)
        return job, fetch_adapters(federation.jobs, spec.name)
    finally:
        federation.stop(patience_s=30.0)


def _scored(rows: Path, spec: JobSpec, adapters: PublishedAdapters, directory: Path) -> dict[str, float]:
    """What plain PEFT writes: topics that are right, beside the floor, and rows that the trained network writes alike.

    Compared on a tenth of the rows, since the network writes a token a pass.
    """
    base = load_base(spec)
    network = Network.on(base, spec)
    examples = load_rows(rows, spec.task)
    exported = ExportedModel(directory, base.task, spec.model.name)
    encoded = network.encode(examples)
    topics = [(example.text_pair or "").strip() for example in examples]
    written = [answer["text"] for answer in exported.written(encoded, _MOST_TOKENS)]
    network.load(mix(adapters.state, (1.0,)), network.schema.layers, 0)
    stop, alike = int(exported.tokenizer.eos_token_id), 0
    compared = range(0, len(topics), 10)
    for row in compared:
        tokens = encoded.rows[row]
        own = greedy(network, tokens.ids[: prompt_length(tokens.places)], _MOST_TOKENS, stop)
        alike += exported.tokenizer.decode(own, skip_special_tokens=True) == written[row]
    return {
        "rows": len(topics),
        "right": sum(text.strip() == topic for text, topic in zip(written, topics, strict=True)) / len(topics),
        "majority": max(Counter(topics).values()) / len(topics),
        "compared": len(compared),
        "alike": alike,
    }


def greedy(network: Network, prompt: np.ndarray, count: int, stop: int) -> list[int]:
    """Tokens that a network in evaluation mode writes after a prompt, one pass each."""
    ids = prompt.astype(np.int32)
    made: list[int] = []
    while len(made) < count:
        place = np.array([len(ids) - 1], np.int32)
        rows = EncodedRows((Tokens(ids, None, place),), np.zeros(1), 0)
        with torch.no_grad():
            token = int(network.forward(rows, np.array([0]))[0].argmax())
        made.append(token)
        if token == stop:
            break
        ids = np.append(ids, np.int32(token))
    return made


def _told(console: Console, job: jobs_pb2.Job, held: dict[str, float], difference: float) -> int:
    """Print figures and verdicts; returns the exit code."""
    table = Table("figure", "value")
    first, last = job.history[0], job.final
    for name in ("perplexity", "token_accuracy", "exact_match"):
        table.add_row(f"{name} on own held-out rows, before training", f"{_figure(first, name):.3f}")
        table.add_row(f"{name} on own held-out rows, at the end", f"{_figure(last, name):.3f}")
    table.add_row(f"topics written right, of {held['rows']} other rows", f"{held['right']:.3f}")
    table.add_row("always the commonest topic", f"{held['majority']:.3f}")
    table.add_row("largest difference of plain PEFT's logits", f"{difference:.1e}")
    table.add_row("bytes up per agent and round", f"{first.payload_bytes_up / first.accepted:,.0f}")
    console.print(table)
    verdicts = {
        f"completion perplexity is at most {MOST_PERPLEXITY:g}": _figure(last, "perplexity") <= MOST_PERPLEXITY,
        "written topics are above the majority floor": held["right"] > held["majority"],
        f"plain PEFT writes the network's tokens in {held['compared']} rows": held["alike"] == held["compared"],
    }
    for verdict, holds in verdicts.items():
        console.print(f"{'yes' if holds else 'NO '}  {verdict}")
    return 0 if all(verdicts.values()) else 1


def _figure(summary: jobs_pb2.RoundSummary, name: str) -> float:
    return next(one.personal_before for one in summary.metrics if one.name == name)


if __name__ == "__main__":
    sys.exit(main())
