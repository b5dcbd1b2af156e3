"""Ranks that differ by layer: built, trained, checked at the door, and exported as plain PEFT reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedhft.adapter import Part, TensorKey
from fedhft.errors import ErrorCode, FedhftError
from fedhft.export.peft_directory import write_adapter
from fedhft.job import JobSpec
from fedhft.rounds.joining import check_schema
from fedhft.training.base import load_base
from fedhft.training.schema import build_schema
from fedhft.v1 import adapter_pb2
from fedhft.wire.codec import decode
from tests.integration.test_export import by_worker, logits_of, plain_peft
from tests.models import tiny_model
from tests.workers import job_for, plan, train_task, worker_for


def ranked(model: Path, method: str = "fedhft", **adapter: Any) -> JobSpec:
    spec = job_for(model, "bert", method)
    return spec.model_copy(update={"adapter": spec.adapter.model_copy(update=adapter)})


@pytest.mark.parametrize("scaling", ["equal", "by-rank"])
@pytest.mark.parametrize(("depth", "density"), [(0, 1.0), (2, 0.5), (1, 0.25)])
def test_plain_peft_reproduces_unequal_ranks_at_any_depth_and_density(
    tmp_path: Path, scaling: str, depth: int, density: float
) -> None:
    spec = ranked(tiny_model(tmp_path / "base"), ranks="progression", scaling=scaling)
    worker = worker_for(spec)
    layers = worker.schema.layers
    depth = depth or layers
    planned = plan(depth=depth, density=density, epochs=2)
    draft = worker.train(train_task(1, version=0, planned=planned, learning_rate=2e-2, seed=1))
    worker.commit(draft)
    delta = decode(draft.blob, worker.schema, kind=adapter_pb2.BLOB_KIND_UPDATE).delta
    tensors = {key: matrix.dense() for key, matrix in delta}
    wanted = by_worker(worker, tensors)
    write_adapter(tmp_path / "out", spec, worker.schema, tensors, spec.model.name)
    np.testing.assert_allclose(logits_of(plain_peft(worker, tmp_path / "out"), worker), wanted, atol=1e-5)
    assert np.abs(wanted - by_worker(worker, {})).max() > 1e-3
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    ranks = {slot.rank for slot in worker.schema.slots}
    assert len(ranks) > 1
    assert {config["r"], *config["rank_pattern"].values()} == ranks
    assert bool(config["alpha_pattern"]) is (scaling == "equal")
    sent = {key.name for key in tensors if key.part is Part.B}
    assert sent == {slot.name for slot in worker.schema.slots if slot.layer >= layers - depth}
    assert all(
        delta.tensors[TensorKey(slot.name, Part.B)].dense().shape == (slot.out_features, slot.rank)
        for slot in worker.schema.slots
        if slot.name in sent
    )


def test_ranks_of_a_list_go_to_their_layers(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "base")
    layers = load_base(ranked(model)).model.config.num_hidden_layers
    spec = ranked(model, ranks=tuple(range(1, layers + 1)))
    schema = build_schema(load_base(spec), spec)
    assert {(slot.layer, slot.rank) for slot in schema.slots} == {(layer, layer + 1) for layer in range(layers)}
    check_schema(spec, schema)
    with pytest.raises(FedhftError, match=r"rank of slot .* = 1: the job gives layer 0 rank 4") as refused:
        check_schema(ranked(model), schema)
    assert refused.value.code is ErrorCode.SCHEMA_MISMATCH


def test_a_list_of_another_length_than_the_model_is_refused(tmp_path: Path) -> None:
    spec = ranked(tiny_model(tmp_path / "base"), ranks=(4, 4, 4, 4, 4, 4, 4))
    with pytest.raises(FedhftError, match=r"adapter.ranks: 7 ranks for a model of \d layers; write one for each layer"):
        build_schema(load_base(spec), spec)
