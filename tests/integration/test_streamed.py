"""A model of which only layers in training are in memory: the same values, and each frozen layer read once per fill."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fedhft_agent.settings import AgentSettings
from fedhft_agent.workplace import Workplace
from safetensors.torch import load_file, save_file

from fedhft.errors import ErrorCode, FedhftError
from fedhft.job import JobSpec
from fedhft.planning.memory import PROCESS_BYTES
from fedhft.training.base import LoadedBase, load_base
from fedhft.training.memory.layers import Weights
from fedhft.training.network import Network
from fedhft.training.prefix.folder import PrefixFolder
from fedhft.training.scores import predict
from fedhft.training.stored_weights import stored_tensors, stored_values
from fedhft.training.worker import ClientWorker
from fedhft.v1 import adapter_pb2
from fedhft.v1 import federation_pb2 as pb
from fedhft.wire.codec import decode
from tests.models import tiny_model
from tests.workers import data_of, job_for, plan, train_task, worker_for

FP32 = {"up": "fp32", "down": "fp32", "error_feedback": False}
ARCHITECTURES = ("bert", "roberta", "distilbert", "llama", "gpt2", "modernbert")


def folder_in(path: Path) -> PrefixFolder:
    folder = PrefixFolder.open(path, 1 << 30)
    assert folder is not None
    return folder


def streamed_base(spec: JobSpec) -> LoadedBase:
    base = load_base(spec, streamed=True)
    assert base.streamed is not None
    return base


def sum_of(weights: Weights) -> int:
    return weights.own + weights.mapped


def worker_on(spec: JobSpec, base: LoadedBase, folder: PrefixFolder | None) -> ClientWorker:
    if folder is not None:
        Network.on(base, spec).cache_prefix(folder, torch.float32)
    return worker_for(spec, base=base)


@pytest.mark.parametrize("cached", [True, False], ids=["cached", "not cached"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_round_is_that_of_a_model_in_memory(tmp_path: Path, architecture: str, cached: bool) -> None:
    path = tiny_model(tmp_path / "model", architecture, layers=4)
    spec = job_for(path, architecture, method="fedit", wire=FP32)
    folders = [folder_in(tmp_path / name) if cached else None for name in ("whole", "streamed")]
    whole = worker_on(spec, load_base(spec), folders[0])
    base = streamed_base(spec)
    streamed = worker_on(spec, base, folders[1])
    assert streamed.schema == whole.schema
    drafts = []
    for worker in (whole, streamed):
        task = train_task(planned=plan(depth=2), evaluate=True, shared=pb.Shard(index=0, count=2))
        drafts.append(worker.train(task))
    wanted, got = (decode(d.blob, whole.schema, kind=adapter_pb2.BLOB_KIND_UPDATE).delta for d in drafts)
    for (key, matrix), (_, own) in zip(wanted, got, strict=True):
        np.testing.assert_allclose(own.dense(), matrix.dense(), atol=2e-6, err_msg=str(key))
    for score, own_score in zip(drafts[0].scores, drafts[1].scores, strict=True):
        assert own_score.loss == pytest.approx(score.loss, abs=1e-5)
    in_memory = {name for name, p in base.model.named_parameters() if p.device.type != "meta"}
    layers = {int(part) for name in in_memory for part in name.split(".") if part.isdecimal() and "lora" not in name}
    assert layers == {2, 3}


def test_the_boundary_has_the_bits_of_a_model_in_memory(tmp_path: Path) -> None:
    """Whatever dtype the files have: values are converted alike."""
    path = tiny_model(tmp_path / "model", "llama", layers=4)
    tensors = {name: value.to(torch.bfloat16) for name, value in load_file(path / "model.safetensors").items()}
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    spec = job_for(path, "llama", method="fedit")
    states = []
    for base in (load_base(spec), streamed_base(spec)):
        network = Network.on(base, spec)
        network.load({}, 1, 0)
        rows = network.encode(data_of().train)
        stack = network._stack
        assert stack is not None
        inputs = rows.inputs(np.arange(9))
        states.append(stack.entering(3, lambda n=network, i=inputs: n._pass(i)))
    assert torch.equal(*states)


def test_every_byte_of_a_frozen_layer_is_read_once_per_fill(tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "model", "llama", layers=4)
    spec = job_for(path, "llama", method="fedit")
    base = streamed_base(spec)
    network = Network.on(base, spec)
    network.cache_prefix(folder_in(tmp_path / "prefix"), torch.float32)
    data = data_of(80)
    first, more = network.encode(data.train[:8]), [network.encode(data.train), network.encode(data.holdout)]
    network.load({}, 1, 0)
    network.prepare([first])  # compares a batch with the cache and without, which reads the layers, too
    streamed = base.streamed
    assert streamed is not None
    layers = sum(t.size for name, t in stored_tensors(path).items() if "layers." in name)
    before = streamed.bytes_read
    network.prepare(more)  # the layer in training makes room meanwhile, and is read again
    assert streamed.bytes_read - before == layers
    network.prepare(more)
    for rows in more:
        predict(network, rows)
    assert streamed.bytes_read - before == layers


def test_a_start_reads_each_frozen_layer_once(tmp_path: Path) -> None:
    """Beside them, the first and the last for the padding, the first to find the layers, and twice those in training,
    which make room meanwhile: each is read for the check of the cache with and without it.
    """
    path = tiny_model(tmp_path / "model", layers=8)
    spec = job_for(path, method="fedit")
    base = streamed_base(spec)
    network = Network.on(base, spec)
    network.cache_prefix(folder_in(tmp_path / "prefix"), torch.float32)
    rows = network.encode(data_of().train)
    network.load({}, 1, 0)
    network.prepare([rows])
    assert base.streamed is not None
    layer = sum(t.size for name, t in stored_tensors(path).items() if "layer." in name) / 8
    assert base.streamed.bytes_read / layer == 7 + 3 + 4
    before = base.streamed.bytes_read
    predict(network, rows)
    assert base.streamed.bytes_read == before  # the first fill came with the check


def test_a_depth_that_grows_and_shrinks_holds_what_it_trains(tmp_path: Path) -> None:
    spec = job_for(tiny_model(tmp_path / "model", layers=4), method="fedit")
    base = streamed_base(spec)
    network, whole = Network.on(base, spec), Network.on(load_base(spec), spec)
    rows = network.encode(data_of().train)
    for depth in (1, 4, 2, 3, 1):
        network.load({}, depth, 0)
        whole.load({}, depth, 0)
        np.testing.assert_array_equal(predict(network, rows), predict(whole, rows))
        held = {name.split(".")[3] for name, p in base.model.named_parameters() if p.device.type != "meta" and
                ".layer." in name and "lora" not in name}  # fmt: skip
        assert held == {str(layer) for layer in range(4 - depth, 4)}


def test_shards_and_one_file_are_the_same(tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "model", layers=4)
    spec = job_for(path, method="fedit")
    rows_of = data_of().train
    network = Network.on(streamed_base(spec), spec)
    network.load({}, 1, 0)
    wanted = predict(network, network.encode(rows_of))
    tensors = load_file(path / "model.safetensors")
    (path / "model.safetensors").unlink()
    names = sorted(tensors)
    placed = {}
    for number, part in enumerate((names[:20], names[20:])):
        file = f"model-{number}.safetensors"
        save_file({name: tensors[name] for name in part}, path / file, metadata={"format": "pt"})
        placed |= dict.fromkeys(part, file)
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    network = Network.on(streamed_base(spec), spec)
    network.load({}, 1, 0)
    np.testing.assert_array_equal(predict(network, network.encode(rows_of)), wanted)


def test_files_that_name_values_otherwise_and_methods_that_write_to_them_are_loaded_whole(tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "model")
    assert load_base(job_for(path, method="fedhft-paper"), streamed=True).streamed is None
    assert load_base(job_for(path, method="full"), streamed=True).streamed is None
    tensors = load_file(path / "model.safetensors")
    renamed = {f"_orig_mod.{name}": value for name, value in tensors.items()}  # as a compiled model is saved
    save_file(renamed, path / "model.safetensors", metadata={"format": "pt"})
    assert load_base(job_for(path, method="fedit"), streamed=True).streamed is None


def test_a_file_that_shrinks_meanwhile_is_named(tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "model", layers=4)
    spec = job_for(path, method="fedit")
    network = Network.on(streamed_base(spec), spec)
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(FedhftError, match="has become shorter") as caught:
        network.load({}, 4, 0)
    assert caught.value.code is ErrorCode.INVALID_MODEL


def test_a_large_table_of_embeddings_is_read_by_the_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tiny_model(tmp_path / "model", "llama", layers=4)
    tensors = {name: value.to(torch.bfloat16) for name, value in load_file(path / "model.safetensors").items()}
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    spec = job_for(path, "llama", method="fedit")
    monkeypatch.setattr("fedhft.training.memory.layers._LARGE_VALUES", 1)
    base = streamed_base(spec)
    network, whole = Network.on(base, spec), Network.on(load_base(spec), spec)
    rows = network.encode(data_of().train)
    for one in (network, whole):
        one.load({}, 2, 0)
    np.testing.assert_array_equal(predict(network, rows), predict(whole, rows))
    assert base.model.get_parameter("model.embed_tokens.weight").dtype is torch.bfloat16
    embedding = base.model.get_submodule("model.embed_tokens")
    table = tensors["embed_tokens.weight"].float()
    ids = torch.tensor([[3, 5], [5, 0]])
    assert torch.equal(embedding(ids), table[ids])
    with pytest.raises(IndexError, match=f"of {len(table)}"):
        embedding(torch.tensor([len(table)]))


def test_an_agent_streams_what_takes_more_than_half_of_its_memory(tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "model", layers=4)
    values = stored_values(path)

    def workplace(**given: Any) -> Workplace:
        settings = AgentSettings(server="a:1", client="c", data="d", state_dir=tmp_path / "state", **given)
        made = Workplace(settings)
        if made._prefixes is not None:
            made._prefixes.close()
        return made

    adapter = {"targets": ["query"], "rank": 4, "alpha": 8}
    shallow = job_for(path, method="fedit", adapter={**adapter, "depth": 1})
    limit = PROCESS_BYTES + 8 * values
    tight, ample = str(limit - 1), str(limit)
    assert workplace(memory=tight)._base_of(shallow).streamed is not None
    assert workplace(memory=ample)._base_of(shallow).streamed is None
    assert workplace()._base_of(shallow).streamed is None
    assert workplace(memory=tight, cache="off")._base_of(shallow).streamed is None
    deep = job_for(path, method="fedit", adapter=adapter)  # a smaller plan may come
    assert workplace(memory=tight)._base_of(deep).streamed is not None


def test_the_memory_of_a_depth_is_what_is_held(tmp_path: Path) -> None:
    spec = job_for(tiny_model(tmp_path / "model", layers=4), method="fedit")
    base = streamed_base(spec)
    network = Network.on(base, spec)
    for depth in (1, 3):
        network.load({}, depth, 0)
        held = sum(
            p.nbytes for name, p in base.model.named_parameters() if p.device.type != "meta" and "lora" not in name
        )
        assert sum_of(network.weights(depth)) == held
    assert sum_of(network.weights(3)) < sum_of(network.weights(4))
