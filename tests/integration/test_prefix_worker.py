"""A client's work with the cache of its frozen layers: the same updates and scores, read instead of computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fedhft_agent.settings import AgentSettings

from fedhft.adapter import MaskedDelta
from fedhft.job import JobSpec
from fedhft.telemetry import metrics
from fedhft.training.base import load_base
from fedhft.training.network import Network
from fedhft.training.prefix.folder import PrefixFolder
from fedhft.training.worker import ClientWorker, Draft
from fedhft.v1 import adapter_pb2
from fedhft.v1 import federation_pb2 as pb
from fedhft.wire.codec import decode
from tests.models import ARCHITECTURES, tiny_model
from tests.workers import data_of, job_for, plan, train_task, worker_for


def folder_in(path: Path) -> PrefixFolder:
    folder = PrefixFolder.open(path, 1 << 30)
    assert folder is not None
    return folder


def worker_on(spec: JobSpec, folder: PrefixFolder | None) -> ClientWorker:
    base = load_base(spec)
    if folder is not None:
        Network.on(base, spec).cache_prefix(folder, torch.float32)
    return worker_for(spec, base=base)


def passed() -> dict[str, float]:
    return {source: metrics.AGENT_PREFIX_ROWS.labels(source=source)._value.get() for source in ("cache", "computed")}


def rounds(worker: ClientWorker, depth: int, count: int = 2, **planned: Any) -> list[Draft]:
    drafts = []
    for number in range(1, count + 1):
        task = train_task(
            number, version=0, planned=plan(depth=depth, **planned), evaluate=True, shared=pb.Shard(index=0, count=2)
        )
        drafts.append(worker.train(task))
        worker.commit(drafts[-1])
    return drafts


def delta_of(worker: ClientWorker, draft: Draft) -> MaskedDelta:
    return decode(draft.blob, worker.schema, kind=adapter_pb2.BLOB_KIND_UPDATE).delta


def assert_alike(worker: ClientWorker, wanted: list[Draft], got: list[Draft]) -> None:
    for one, other in zip(wanted, got, strict=True):
        for (key, matrix), (_, own) in zip(delta_of(worker, one), delta_of(worker, other), strict=True):
            np.testing.assert_allclose(own.dense(), matrix.dense(), atol=2e-6, err_msg=str(key))
        for score, own_score in zip(one.scores, other.scores, strict=True):
            assert own_score.value == pytest.approx(score.value, abs=1e-6)
            assert own_score.loss == pytest.approx(score.loss, abs=1e-5)


FP32 = {"up": "fp32", "down": "fp32", "error_feedback": False}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("method", ["fedit", "fedhft-paper"])
def test_updates_and_scores_are_those_without_the_cache(tmp_path: Path, architecture: str, method: str) -> None:
    """Also for products, which are folded into base weights, but only inside the depth."""
    spec = job_for(tiny_model(tmp_path / "model", architecture), architecture, method=method, wire=FP32)
    plain, cached = worker_on(spec, None), worker_on(spec, folder_in(tmp_path / "prefix"))
    wanted, before = rounds(plain, 1), passed()
    got = rounds(cached, 1)
    after = passed()
    assert_alike(plain, wanted, got)
    train, holdout, shared = 48, 16, 10
    assert after["computed"] - before["computed"] <= train + holdout + shared
    assert after["cache"] - before["cache"] >= train + 3 * holdout + shared


def test_masks_probes_and_signatures_read_the_cache_too(tmp_path: Path) -> None:
    spec = job_for(tiny_model(tmp_path / "model"), adapter={"targets": ["query"], "rank": 4, "alpha": 8, "depth": 1})
    plain, cached = worker_on(spec, None), worker_on(spec, folder_in(tmp_path / "prefix"))
    np.testing.assert_allclose(cached.signature().whole, plain.signature().whole, atol=1e-6)
    before = passed()
    assert len(cached.train(train_task(planned=plan(density=0.5))).blob) == len(
        plain.train(train_task(planned=plan(density=0.5))).blob
    )
    assert passed()["computed"] == before["computed"]  # the signature has worked all rows out


def test_the_next_process_computes_no_row_again(tmp_path: Path) -> None:
    spec = job_for(tiny_model(tmp_path / "model"), method="fedit", wire=FP32)
    folder = folder_in(tmp_path / "prefix")
    first = rounds(worker_on(spec, folder), 2)
    folder.close()
    before = passed()
    worker = worker_on(spec, folder_in(tmp_path / "prefix"))
    assert_alike(worker, first, rounds(worker, 2))
    assert passed()["computed"] == before["computed"]


def test_another_base_model_or_arithmetic_shares_nothing(tmp_path: Path) -> None:
    folder = folder_in(tmp_path / "prefix")
    for seed, precision in ((1, "fp32"), (2, "fp32"), (2, "bf16")):
        model = tiny_model(tmp_path / f"model-{seed}", seed=seed)
        spec = job_for(model, method="fedit", training={"precision": precision})
        before = passed()
        rounds(worker_on(spec, folder), 1, count=1)
        assert passed()["computed"] > before["computed"]
    assert len([path for path in (tmp_path / "prefix").iterdir() if path.is_dir()]) == 3


def test_nothing_is_frozen_where_all_weights_are_trained(tmp_path: Path) -> None:
    path = tiny_model(tmp_path)
    spec = job_for(path, method="full")
    network = Network.on(load_base(spec), spec)
    network.load({}, 1, 0)
    assert network.boundary == 0


def test_dropout_is_where_training_is_whether_there_is_a_cache_or_not(tmp_path: Path) -> None:
    spec = job_for(tiny_model(tmp_path / "model"), method="fedit")
    network = Network.on(load_base(spec), spec)
    network.load({}, 1, 0)
    network.training_mode()
    modes = {name: module.training for name, module in network.model.named_modules()}
    assert not modes["bert.embeddings.dropout"]
    assert not modes["bert.encoder.layer.1.attention.output.dropout"]
    assert modes["bert.encoder.layer.2.attention.output.dropout"]
    assert modes["dropout"]
    network.load({}, 3, 0)
    network.training_mode()
    assert all(module.training for module in network.model.modules())


def test_where_the_cache_is_and_how_to_do_without(tmp_path: Path) -> None:
    def settings(**given: Any) -> AgentSettings:
        return AgentSettings(server="a:1", client="c", data="d", state_dir=tmp_path, **given)

    assert settings().cache_folder == tmp_path / "prefix"
    assert settings(cache="off").cache_folder is None
    assert settings(cache="/var/cache/fedhft").cache_folder == Path("/var/cache/fedhft")
    assert settings(cache_size="300MiB").cache_size == 300 << 20


def test_every_layer_that_rows_pass_is_counted_once(tmp_path: Path) -> None:
    """A deeper boundary is worked out from a shallower one, and from then on read.

    Before that, the shortest, the middle and the longest row show that it serves: together through the whole model, and
    from the boundary on, and one by one up to it.
    """
    spec = job_for(tiny_model(tmp_path / "model", layers=4))
    network = worker_on(spec, folder_in(tmp_path / "prefix"))._network
    rows = network.encode(data_of(6).train)
    steps = []
    for depth in (3, 1, 1):
        network.load({}, depth, 0)
        with torch.no_grad():
            network.forward(rows, np.arange(6))
        steps.append(network.stopwatch.take(1).forward_layer_steps)
    batch = 6 * max(rows.lengths)
    shown = sorted(rows.lengths)[0], int(np.median(rows.lengths)), max(rows.lengths)
    together = 3 * max(shown)
    assert steps == [
        batch * (1 + 3) + together * (4 + 3) + sum(shown) * 1,
        batch * (2 + 1) + together * (4 + 1) + sum(shown) * 3,
        batch * 1,
    ]
