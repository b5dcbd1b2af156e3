"""One client's federation against the same training without fedhft, and against what is exported from it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers
from peft import PeftModel

from benchmarks.families import TASKS, example_rows, write_family
from benchmarks.plain_peft import PlainPeft
from fedhft.adapter import Float32
from fedhft.datasets.client_data import ClientData
from fedhft.export.peft_directory import write_adapter
from fedhft.job import JobSpec, parse_job
from fedhft.simulation.run import Simulation
from fedhft.training.base import load_base
from fedhft.training.held import start_of
from fedhft.training.network import Network
from fedhft.training.worker import ClientWorker

CLIENT = "only"
ROUNDS = 2
_ROWS, _HELD = 32, 10


@dataclass(frozen=True)
class Equality:
    """Largest differences of logits on held-out rows. plain: federation against plain loop. exported: federation
    against its adapter under plain PEFT. moved: trained against untrained, so that equality of nothing would show.
    """

    plain: float
    exported: float
    moved: float
    score: float
    loss: float


def job_of(path: Path, task: str) -> JobSpec:
    """FedIT at full density in fp32 on one client, with the architecture's usual targets."""
    return parse_job(
        {
            "name": "equality",
            "seed": 5,
            "model": {"name": str(path), "max_length": 64},
            "task": TASKS[task].model_dump(mode="json"),
            "adapter": {"rank": 4, "alpha": 8},
            "method": "fedit",
            "training": {"learning_rate": 1e-2, "batch_size": 8},
            "rounds": {"total": ROUNDS, "min_clients": 1},
        }
    )


def compare(folder: Path, family: str, task: str) -> Equality:
    """Train both ways and compare. Raises FedhftError for a model or task that fedhft refuses."""
    spec = job_of(write_family(folder / "model", family, task), task)
    train, held = example_rows(task, _ROWS), example_rows(task, _HELD, 500)
    base = load_base(spec)
    workers: list[ClientWorker] = []

    def noted(*given: object) -> ClientWorker:
        workers.append(ClientWorker(*given))  # type: ignore[arg-type]
        return workers[-1]

    data = ClientData.of(train, held, held)
    ended = asyncio.run(Simulation(spec, {CLIENT: data}, base, worker_of=noted).run())
    network = Network.on(base, spec)
    tensors = start_of(workers[0]._state, spec.method.combine, (1.0,))

    def ours(given: object) -> Float32:
        network.load(given, network.schema.layers, 99)  # type: ignore[arg-type]
        with torch.no_grad():
            logits: Float32 = network.forward(network.encode(held), np.arange(len(held))).numpy()
        return logits

    trained, untrained = ours(tensors), ours({})
    write_adapter(folder / "adapter", spec, network.schema, tensors, spec.model.name)
    loop = PlainPeft(spec, network.schema)
    loop.train(train, CLIENT, ROUNDS)
    auto = getattr(transformers, base.task.auto_class)
    whole = auto.from_pretrained(spec.model.name, dtype=torch.float32, **base.task.auto_arguments)
    whole.config.pad_token_id = base.tokenizer.pad_token_id
    exported = loop.logits(held, PeftModel.from_pretrained(whole, str(folder / "adapter")))
    final = ended.job.final
    return Equality(
        plain=float(np.abs(loop.logits(held) - trained).max()),
        exported=float(np.abs(exported - trained).max()),
        moved=float(np.abs(trained - untrained).max()),
        score=final.shared_before,
        loss=final.shared_loss_before,
    )
