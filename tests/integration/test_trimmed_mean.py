"""A job by trimmed mean with real models: one client of five sends a thousand times its update, flipped."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedhft.adapter import Float32, MaskedDelta, TensorKey
from fedhft.job import JobSpec
from fedhft.simulation.run import Simulation
from fedhft.training.base import load_base
from fedhft.training.state import Draft
from fedhft.training.worker import ClientWorker
from fedhft.v1 import adapter_pb2
from fedhft.wire.codec import decode, encode
from tests.models import tiny_model
from tests.workers import data_of, job_for

CLIENTS = ("a", "b", "c", "d", "e")
HOSTILE = "c"
UNBOUNDED = {"sample_cap": 0, "clip": 0, "opposed": 0}


class Told:
    """What the honest clients sent in round 1, and what was published of it."""

    def __init__(self) -> None:
        self.honest: dict[str, MaskedDelta] = {}
        self.published: dict[TensorKey, Float32] = {}

    def worker(self, spec: JobSpec, name: str, *rest: Any) -> ClientWorker:
        told = self

        class Watched(ClientWorker):
            def train(self, *arguments: Any, **named: Any) -> Draft:
                draft = super().train(*arguments, **named)
                delta = decode(draft.blob, self.schema, kind=adapter_pb2.BLOB_KIND_UPDATE).delta
                if name != HOSTILE:
                    if draft.round == 1:
                        told.honest[name] = delta
                    return draft
                far = {key: replace(matrix, values=matrix.values * np.float32(-1000)) for key, matrix in delta}
                blob = encode(
                    MaskedDelta(far), self.schema, kind=adapter_pb2.BLOB_KIND_UPDATE, encoding="fp32",
                    version=draft.base_version,
                )  # fmt: skip
                return replace(draft, blob=blob, digest=hashlib.sha256(blob).hexdigest())

            def apply(self, ref: adapter_pb2.BlobRef, data: bytes) -> None:
                if name == CLIENTS[0] and ref.version == 1:
                    blob = decode(data, self.schema, kind=ref.kind)
                    told.published.update({key: matrix.dense() for key, matrix in blob.delta})
                super().apply(ref, data)

        return Watched(spec, name, *rest)


def played(path: Path, method: dict[str, Any]) -> Told:
    spec = job_for(
        path, method=method, limits=UNBOUNDED, wire={"up": "fp32", "down": "fp32"}, rounds={"total": 2},
        training={"max_steps": 2}, evaluation={"final": False, "every": 0},
    )  # fmt: skip
    clients = {name: data_of(16, 4, 4, offset=20 * place) for place, name in enumerate(CLIENTS)}
    told = Told()
    ended = asyncio.run(Simulation(spec, clients, load_base(spec), worker_of=told.worker).run())
    assert (ended.job.status, [entry.accepted for entry in ended.job.history]) == ("completed", [5, 5])
    return told


def beyond(told: Told) -> float:
    """How far what was published lies outside the range of the honest values, at most."""
    assert len(told.honest) == len(CLIENTS) - 1
    assert told.published
    most = 0.0
    for key, value in told.published.items():
        sent = np.stack([delta.tensors[key].dense() for delta in told.honest.values()])
        most = max(most, float((value - sent.max(axis=0)).max()), float((sent.min(axis=0) - value).max()))
    return most


@pytest.mark.parametrize("method", [{"preset": "fedhft", "clusters": 1}, {"preset": "full"}], ids=lambda m: m["preset"])
def test_the_published_step_stays_within_the_range_of_the_honest_updates(
    tmp_path: Path, method: dict[str, Any]
) -> None:
    path = tiny_model(tmp_path / "model", layers=1)
    assert beyond(played(path, {**method, "combine": "trimmed-mean"})) <= 1e-7
    assert beyond(played(path, method)) > 0.1
