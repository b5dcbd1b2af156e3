"""Signatures of a case's clients under many projections, computed once and kept in a folder.

Gradients of the anchor take a forward and a backward pass over every row; projecting them takes milliseconds. So they
are computed once per data seed, and projected with as many seeds as are asked for.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from benchmarks.cluster_cases import Case, data_of, job_of
from fedhft.adapter import Float32
from fedhft.clustering.signature import DIMENSIONS, project
from fedhft.datasets.client_data import ClientData
from fedhft.local.base_model import base_model
from fedhft.training.base import load_base
from fedhft.training.network import Network
from fedhft.training.signatures import ANCHOR_ROWS, anchor_gradients, balanced, halves_of, varies


def kept_at(case: Case, seed: int, projections: int, cache: Path) -> Path:
    """Where the signatures of a case are kept."""
    name = case.name.replace(", ", "-").replace(" ", "")
    return cache / f"{name}-data{seed}-projections{projections}.npy"


def compute(case: Case, seed: int, projections: int, folder: Path, cache: Path) -> str:
    """Compute and keep the signatures of a case, unless they are there; returns what was done.

    What is kept: float32 (projections x clients x 2 halves x DIMENSIONS).
    """
    file = kept_at(case, seed, projections, cache)
    if file.exists():
        return f"{file.name}: kept"
    data = data_of(case, folder, seed)
    model = base_model(None)
    spec = job_of(case, data, model.name, seed)
    network = Network.on(load_base(spec, str(model.path)), spec)
    found = np.zeros((projections, len(data.clients), 2, DIMENSIONS), np.float32)
    for client, own in enumerate(data.clients):
        rows = network.encode(ClientData.of(own.train).train, training=True)
        chosen = np.linspace(0, len(rows) - 1, min(len(rows), ANCHOR_ROWS)).round().astype(np.int64)
        for half, index in enumerate(halves_of(rows, chosen, spec.seed)):
            if varies(rows, index):
                gradients = anchor_gradients(network, rows, index)
                for projection in range(projections):
                    found[projection, client, half] = project(balanced(gradients), 1000 * projection + seed)
    part = file.with_suffix(f".{os.getpid()}.part")
    with part.open("wb") as out:
        np.save(out, found)
    part.replace(file)
    return f"{file.name}: computed"


def compute_all(wanted: Sequence[tuple[Case, int]], projections: int, folder: Path, cache: Path, workers: int) -> None:
    """`compute` for every case and data seed, `workers` processes at once; says on standard error what was done."""
    import sys

    cache.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(workers) as pool:
        waiting = [pool.submit(compute, case, seed, projections, folder, cache) for case, seed in wanted]
        for one in waiting:
            print(one.result(), file=sys.stderr, flush=True)


def signatures(case: Case, seed: int, projections: int, cache: Path) -> Float32:
    """What `compute` kept."""
    found: Float32 = np.load(kept_at(case, seed, projections, cache))
    return found
