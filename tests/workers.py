"""Workers on tiny models, and the tasks a server would give them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedhft.adapter import SHARED, MaskedDelta, MaskedMatrix, Part
from fedhft.datasets.client_data import ClientData
from fedhft.datasets.examples import Example
from fedhft.job import JobSpec, parse_job
from fedhft.training.base import LoadedBase, load_base
from fedhft.training.worker import ClientWorker
from fedhft.v1 import adapter_pb2
from fedhft.v1 import federation_pb2 as pb
from fedhft.wire.codec import encode
from fedhft.wire.digest import digest_of
from tests.models import TARGETS, rows

torch.set_num_threads(1)  # bits depend on the number of threads


def job_for(
    path: Path, architecture: str = "bert", method: str | dict[str, Any] = "fedhft", **sections: Any
) -> JobSpec:
    """A two-class job on a tiny model: rank 4, alpha 8."""
    return parse_job(
        {
            "name": "tiny",
            "seed": 11,
            "method": method,
            "model": {"name": str(path), "max_length": 64},
            "task": {"labels": ["bad", "good"]},
            "adapter": {"targets": list(TARGETS[architecture]), "rank": 4, "alpha": 8},
            **sections,
        }
    )


def data_of(train: int = 48, holdout: int = 16, shared: int = 20, offset: int = 0) -> ClientData:
    """Rows of the good/bad task."""

    def parsed(count: int, start: int) -> list[Example]:
        return [Example(row["text"], None, float(row["label"])) for row in rows(count, start)]

    return ClientData.of(parsed(train, offset), parsed(holdout, offset + 200), parsed(shared, 400))


def worker_for(
    spec: JobSpec,
    state_dir: Path | None = None,
    base: LoadedBase | None = None,
    data: ClientData | None = None,
    client: str = "client-1",
) -> ClientWorker:
    """A worker with its own base model unless one is given."""
    return ClientWorker(spec, client, base or load_base(spec), data or data_of(), state_dir)


def plan(
    density: float = 1.0, depth: int = 0, epochs: float = 1.0, a: bool = True, b: bool = True
) -> adapter_pb2.AdapterPlan:
    """A plan as it travels; depth 0 means all layers."""
    return adapter_pb2.AdapterPlan(tier="t", depth=depth, density=density, epochs=epochs, train_a=a, train_b=b)


def train_task(
    round_number: int = 1,
    version: int | None = None,
    memberships: Sequence[float] = (1.0,),
    planned: adapter_pb2.AdapterPlan | None = None,
    seed: int = 7,
    **fields: Any,
) -> pb.TrainTask:
    """A train task of round `round_number` from the version before it."""
    view = pb.ViewSource(version=round_number - 1 if version is None else version, memberships=memberships)
    values: dict[str, Any] = {"learning_rate": 1e-2, **fields}
    return pb.TrainTask(round=round_number, view=view, plan=planned or plan(), seed=seed, **values)


def reference(data: bytes, kind: int, scope: str, version: int) -> adapter_pb2.BlobRef:
    """What the server says of a blob."""
    return adapter_pb2.BlobRef(
        digest=bytes.fromhex(digest_of(data)), size=len(data), kind=kind, scope=scope, version=version
    )


def published(
    worker: ClientWorker, scope: str, version: int, kind: int = adapter_pb2.BLOB_KIND_DELTA, scale: float = 0.1
) -> tuple[adapter_pb2.BlobRef, bytes]:
    """A version that changed every tensor of a scope by random values, as the server publishes it."""
    generator = np.random.default_rng(version)
    parts = (Part.A,) if scope == SHARED else (Part.B, Part.HEAD)
    tensors = {}
    for key in worker.schema.keys:
        if key.part in parts:
            values = scale * generator.standard_normal(worker.schema.shape(key))
            tensors[key] = MaskedMatrix.full(values.astype(np.float32))
    data = encode(MaskedDelta(tensors), worker.schema, kind=kind, encoding="fp32", scope=scope, version=version)
    return reference(data, kind, scope, version), data


def evaluate_task(
    number: int, memberships: tuple[float, ...] = (1.0,), mass: tuple[float, ...] = (1.0,)
) -> pb.EvaluateTask:
    """An evaluation from what the worker holds, of all shared rows, and a fourth of them mass-weighted."""
    return pb.EvaluateTask(
        round=number,
        view=pb.ViewSource(version=0, memberships=memberships, mass_memberships=mass),
        plan=plan(epochs=4),
        learning_rate=2e-2,
        seed=3,
        shared=pb.Shard(index=0, count=1),
        shared_mass_weighted=pb.Shard(index=1, count=4),
    )


def score_of(scores: list[pb.Score], split: int, moment: int, view: int = pb.Score.VIEW_OWN) -> pb.Score:
    """The one score of this split, moment and view."""
    found = [s for s in scores if (s.split, s.moment, s.view) == (split, moment, view)]
    assert len(found) == 1
    return found[0]
