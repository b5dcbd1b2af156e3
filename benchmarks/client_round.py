"""CPU seconds of a client's whole round: `python -m benchmarks.client_round`.

MiniLM; 400 training rows, 100 held out and 500 shared validation rows of about 13 tokens, batches of 16, one epoch. A
round scores the rows, trains, scores again, chooses masks and codes the update: all that an agent does but for moving
bytes. With all layers, then at depth 1 without the cache of frozen layers and with it, cold and warm. One thread.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from fedhft.datasets.client_data import ClientData
from fedhft.datasets.examples import Example
from fedhft.job import parse_job
from fedhft.local.base_model import packaged_minilm
from fedhft.training.base import load_base
from fedhft.training.network import Network
from fedhft.training.prefix.folder import PrefixFolder
from fedhft.training.worker import ClientWorker
from fedhft.v1 import adapter_pb2
from fedhft.v1 import federation_pb2 as pb

VOCABULARY = """
the a film movie story scene plot actor director music ending it was is feels looks quite very not and but with of funny
sad slow great awful boring lovely clever dull bright
"""
ROWS = {"train": 400, "holdout": 100, "shared": 500}


def main(argv: Sequence[str] | None = None) -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="rounds per arm (default 3)")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    generator = np.random.default_rng(0)
    data = ClientData.of(*(texts(generator, count) for count in ROWS.values()))
    print("| depth | cache | anchor signature | CPU s per round, in order |\n| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as scratch:
        for depth, cached in ((6, False), (1, False), (1, True)):
            signature, seconds = rounds(data, depth, Path(scratch) if cached else None, options.rounds)
            shown = ", ".join(f"{value:.2f}" for value in seconds)
            print(f"| {depth} | {'yes' if cached else 'no'} | {signature:.2f} | {shown} |", flush=True)


def texts(generator: np.random.Generator, count: int) -> list[Example]:
    """Rows of 4 to 19 words with a label each."""
    return [
        Example(
            " ".join(generator.choice(VOCABULARY.split(), generator.integers(4, 20))),
            None,
            float(generator.integers(0, 2)),
        )
        for _ in range(count)
    ]


def rounds(data: ClientData, depth: int, cache: Path | None, count: int) -> tuple[float, list[float]]:
    """CPU seconds of the signature, and of each round."""
    spec = parse_job(
        {
            "name": "round",
            "model": {"name": str(packaged_minilm()), "max_length": 128},
            "task": {"labels": ["bad", "good"]},
        }
    )
    base = load_base(spec)
    if cache is not None:
        folder = PrefixFolder.open(cache, 4 << 30)
        assert folder is not None, "the cache cannot be used"
        Network.on(base, spec).cache_prefix(folder, torch.float32)
    worker = ClientWorker(spec, "client", base, data)
    began = time.process_time()
    worker.signature()
    signature, seconds = time.process_time() - began, []
    plan = adapter_pb2.AdapterPlan(depth=depth, density=1.0, epochs=1, train_a=True, train_b=True)
    for number in range(1, count + 1):
        began = time.process_time()
        view = pb.ViewSource(version=0, memberships=[1.0])
        shard = pb.Shard(index=0, count=1)
        task = pb.TrainTask(
            round=number, view=view, plan=plan, seed=number, learning_rate=1e-3, evaluate=True, shared=shard
        )
        worker.commit(worker.train(task))
        seconds.append(time.process_time() - began)
    return signature, seconds


if __name__ == "__main__":
    main()
