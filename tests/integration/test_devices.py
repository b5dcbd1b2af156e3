"""Training on another device than the CPU: on one that is pretended here, and on a real one where there is one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedhft.adapter import MaskedDelta
from fedhft.errors import ErrorCode, FedhftError
from fedhft.methods import MaskRule
from fedhft.planning.peak import Arrangement, Unfit
from fedhft.training.base import load_base
from fedhft.training.device.choice import CPU, accelerators, base_dtype, computes_bf16, usable_device
from fedhft.training.device.failure import device_failures
from fedhft.training.device.state import device_memory, forget_peak, peak_bytes, random_numbers_apart
from fedhft.training.memory.fitting import fitted
from fedhft.training.network import Network
from fedhft.training.prefix.folder import PrefixFolder
from fedhft.training.worker import ClientWorker, Draft
from fedhft.v1 import adapter_pb2
from fedhft.v1 import federation_pb2 as pb
from fedhft.wire.codec import decode
from tests.models import ARCHITECTURES, tiny_model
from tests.pretend_device import Module, pretending
from tests.workers import data_of, job_for, plan, train_task, worker_for

HERE = accelerators()
needs_gpu = pytest.mark.skipif(not HERE, reason="torch finds no GPU here (CUDA or MPS)")


@pytest.fixture
def pretend() -> Iterator[torch.device]:
    with pretending() as device:
        yield device


@dataclass(frozen=True)
class Round:
    """What a client made of one round, and its signature."""

    draft: Draft
    signature: tuple[float, ...]
    delta: MaskedDelta | None

    @property
    def scores(self) -> list[float]:
        """Value and loss, in the order in which they were scored."""
        return [figure for score in self.draft.scores for figure in (score.value, score.loss)]


def one_round(
    path: Path,
    device: torch.device,
    architecture: str = "bert",
    *,
    cache: Path | None = None,
    streamed: bool = False,
    dtype: torch.dtype | None = None,
    depth: int = 2,
    density: float = 0.5,
    **sections: Any,
) -> Round:
    spec = job_for(path, architecture, **{"wire": {"up": "fp32"}, **sections})
    base = load_base(spec, device=device, dtype=dtype, streamed=streamed)
    assert (base.streamed is not None) == streamed
    folder = PrefixFolder.open(cache, 1 << 30) if cache is not None else None
    if folder is not None:
        Network.on(base, spec).cache_prefix(folder, torch.float32)
    worker = worker_for(spec, base=base, data=data_of(20, 8, 8))
    planned = plan(density=1.0 if spec.method.mask is MaskRule.NONE else density, depth=depth)
    shared = pb.Shard(index=0, count=1)
    signature = worker.signature().whole
    draft = worker.train(train_task(planned=planned, evaluate=True, shared=shared))
    delta = decode(draft.blob, worker.schema, kind=adapter_pb2.BLOB_KIND_UPDATE).delta if draft.blob else None
    found = Round(draft, signature, delta)
    if folder is not None:
        folder.close()
    return found


def same(one: Round, other: Round) -> None:
    """The same update, scores and signature, to rounding: kernels may sum in another order."""
    assert one.scores == pytest.approx(other.scores)
    np.testing.assert_allclose(one.signature, other.signature, atol=2e-6)
    assert (one.delta is None) == (other.delta is None)
    if one.delta is not None and other.delta is not None:
        assert one.delta.tensors.keys() == other.delta.tensors.keys()
        for key, matrix in one.delta:
            np.testing.assert_allclose(matrix.dense(), other.delta.tensors[key].dense(), atol=2e-5)


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "gpt2", "modernbert"])
def test_a_round_on_another_device_is_the_round_on_the_cpu(
    tmp_path: Path, pretend: torch.device, architecture: str
) -> None:
    path = tiny_model(tmp_path / "model", architecture)
    before = Module.operations
    elsewhere = one_round(path, pretend, architecture)
    assert Module.operations - before > 1000
    same(elsewhere, one_round(path, CPU, architecture))


@pytest.mark.parametrize("method", ["fedhft-paper", "fedit", "ffa-lora", "rolora", "full", "local"])
def test_every_method_works_on_another_device(tmp_path: Path, pretend: torch.device, method: str) -> None:
    path = tiny_model(tmp_path / "model")
    depth = 0 if method == "full" else 2
    elsewhere, here = (one_round(path, device, method=method, depth=depth) for device in (pretend, CPU))
    same(elsewhere, here)


@pytest.mark.parametrize("streamed", [False, True])
def test_kept_rows_go_to_the_device_batch_by_batch(tmp_path: Path, pretend: torch.device, streamed: bool) -> None:
    path = tiny_model(tmp_path / "model")
    plain = one_round(path, CPU)
    for _ in range(2):  # filling, and reading
        same(one_round(path, pretend, cache=tmp_path / "cache", streamed=streamed), plain)
    assert any((tmp_path / "cache").rglob("rows.bin"))


def test_rows_that_were_kept_on_one_kind_of_device_are_not_read_on_another(
    tmp_path: Path, pretend: torch.device
) -> None:
    path = tiny_model(tmp_path / "model")
    for device in (pretend, CPU):
        one_round(path, device, cache=tmp_path / "cache")
    assert len(list((tmp_path / "cache").rglob("rows.bin"))) == 2


def test_the_pretended_device_refuses_what_a_real_one_would(pretend: torch.device) -> None:
    there = torch.ones(3).to(pretend)
    assert there.device == pretend
    assert (there + 1).cpu().tolist() == [2, 2, 2]
    with pytest.raises(RuntimeError, match="same device"):
        there + torch.ones(3)
    with pytest.raises((TypeError, RuntimeError)):
        there.numpy()


def test_everything_that_a_forward_and_a_backward_pass_make_is_on_the_device(tmp_path: Path) -> None:
    # `meta` has shapes and no values: a tensor made on the CPU by mistake could not be combined with one on it.
    spec = job_for(tiny_model(tmp_path / "model", "llama"), "llama", method="fedit")
    base = load_base(spec)
    base.device = torch.device("meta")
    base.model.set_attn_implementation("eager")  # others look at a mask's values
    network = Network.on(base, spec)
    base.model.to(base.device)
    rows = network.encode(data_of().train)
    network_plan = ClientWorker(spec, "a", base, data_of()).plan(plan())
    with torch.enable_grad(), network.trainable(network_plan, {}, None) as parameters:
        logits = network.forward(rows, np.arange(5))
        assert (tuple(logits.shape), logits.device.type) == ((5, 2), "meta")
        logits.sum().backward()
        assert {(p.device.type, p.grad is not None and p.grad.device.type) for p in parameters} == {("meta", "meta")}


@pytest.mark.parametrize("architecture", ["bert", "llama", "modernbert"])
def test_on_a_base_in_16_bits_what_is_trained_is_float32(tmp_path: Path, architecture: str) -> None:
    spec = job_for(tiny_model(tmp_path / "model", architecture), architecture, method="fedit")
    base = load_base(spec, dtype=torch.bfloat16)
    network = Network.on(base, spec)
    weights = network.weights(3)
    assert 2 * network.base_values <= weights.own + weights.mapped < 3 * network.base_values
    network.load({}, 3, 0)
    worker = ClientWorker(spec, "a", base, data_of())
    with network.trainable(worker.plan(plan()), {}, None) as parameters:
        assert {parameter.dtype for parameter in parameters} == {torch.float32}
    frozen = [
        p for name, p in base.model.named_parameters() if "lora" not in name and name not in network_head(network)
    ]
    assert {parameter.dtype for parameter in frozen} == {torch.bfloat16}
    short, long = (
        one_round(tmp_path / "model", CPU, architecture, method="fedit", dtype=dtype)
        for dtype in (torch.bfloat16, torch.float32)
    )
    losses = [[score.loss for score in found.draft.scores] for found in (short, long)]
    np.testing.assert_allclose(*losses, rtol=0.1)
    assert short.draft.digest != long.draft.digest


def network_head(network: Network) -> set[str]:
    return {parameter.name for parameter in network.schema.head}


def test_a_cache_of_a_base_in_16_bits_changes_nothing_but_time(tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "model")
    plain = one_round(path, CPU, dtype=torch.bfloat16)
    kept = one_round(path, CPU, dtype=torch.bfloat16, cache=tmp_path / "cache")
    assert any((tmp_path / "cache").rglob("rows.bin"))
    np.testing.assert_allclose([s.loss for s in kept.draft.scores], [s.loss for s in plain.draft.scores], rtol=1e-2)


def test_a_base_is_held_as_its_files_or_as_the_job_says_but_never_where_it_is_written_to(
    tmp_path: Path, pretend: torch.device
) -> None:
    path = tiny_model(tmp_path / "model")
    plain, short = job_for(path), job_for(path, training={"precision": "bf16"})
    assert [base_dtype(CPU, spec, "BF16") for spec in (plain, short)] == [torch.float32] * 2
    assert base_dtype(pretend, plain, "BF16") is torch.bfloat16
    assert base_dtype(pretend, plain, "F16") is torch.float16
    assert base_dtype(pretend, plain, "F32") is torch.float32
    assert base_dtype(pretend, short, "F32") is torch.bfloat16
    for method in ("full", "fedhft-paper"):
        assert base_dtype(pretend, job_for(path, method=method), "BF16") is torch.float32


def test_seeding_inside_leaves_the_generators_as_they_were(pretend: torch.device) -> None:
    for device in (CPU, pretend, torch.device("meta")):
        torch.manual_seed(1)
        expected = torch.rand(3).tolist()
        torch.manual_seed(1)
        with random_numbers_apart(device):
            torch.manual_seed(2)
        assert torch.rand(3).tolist() == expected


def test_a_plan_is_fitted_to_memory_on_another_device_as_well(tmp_path: Path, pretend: torch.device) -> None:
    spec = job_for(tiny_model(tmp_path / "model"), method="fedit")
    worker = worker_for(spec, base=load_base(spec, device=pretend))
    network, rows = worker._network, worker._train
    torch.manual_seed(3)
    before = torch.get_rng_state()
    found = fitted(network, rows, worker.plan(plan()), 8, 16, 8 << 30)
    assert isinstance(found, Arrangement)
    assert isinstance(fitted(network, rows, worker.plan(plan()), 8, 16, 1 << 20), Unfit)
    assert torch.equal(before, torch.get_rng_state())


# -- devices that are not there, fail, or are full


@pytest.mark.skipif(bool(HERE), reason="torch finds a GPU here")
@pytest.mark.parametrize("name", ["cuda", "cuda:3", "mps"])
def test_a_device_that_is_not_there_is_refused_by_name(name: str) -> None:
    with pytest.raises(FedhftError, match=f"--device = '{name}': ") as refused:
        usable_device(name)
    assert refused.value.code is ErrorCode.INVALID_ARGUMENT
    assert usable_device("auto") == CPU


def test_a_number_beyond_the_devices_is_refused_with_their_names(
    pretend: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert usable_device("pretend") == pretend
    with pytest.raises(FedhftError, match="this machine has 1, pretend:0; name one of them"):
        usable_device("pretend:1")
    monkeypatch.setattr(Module, "fails_after", 0)
    with pytest.raises(FedhftError, match="cannot be used: CUDA error: unspecified launch failure; see that"):
        usable_device("pretend")


def test_auto_passes_over_a_device_that_does_not_work(pretend: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedhft.training.device.choice._ACCELERATORS", ("pretend",))
    assert usable_device("auto") == pretend
    monkeypatch.setattr(Module, "fails_after", 0)
    assert usable_device("auto") == CPU


def test_a_device_that_vanishes_in_training_is_a_refusal_of_its_own(
    tmp_path: Path, pretend: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny_model(tmp_path / "model")
    monkeypatch.setattr(Module, "fails_after", Module.operations + 3000)
    with pytest.raises(FedhftError) as failed, device_failures(pretend):
        one_round(path, pretend)
    assert failed.value.code is ErrorCode.DEVICE_FAILED
    assert failed.value.message.startswith("pretend:0: failed in the middle of work: CUDA error: unspecified launch")


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("MPS backend out of memory"),
    ],
)
def test_a_full_device_is_a_plan_that_is_too_large(pretend: torch.device, error: Exception) -> None:
    with (
        pytest.raises(FedhftError, match=r"its memory is full; lower training\.batch_size") as full,
        device_failures(pretend),
    ):
        raise error
    assert full.value.code is ErrorCode.PLAN_TOO_LARGE


@pytest.mark.parametrize("device", [CPU, torch.device("meta")])
def test_other_errors_stay_what_they_are(device: torch.device) -> None:
    with pytest.raises(RuntimeError, match="shapes"), device_failures(device):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    with pytest.raises(RuntimeError, match="CUDA"), device_failures(CPU):
        raise RuntimeError("CUDA error: what the CPU never says")


def test_the_cpu_says_nothing_of_a_devices_memory(tmp_path: Path) -> None:
    forget_peak(CPU)
    assert (peak_bytes(CPU), device_memory(CPU)) == (0, None)
    assert one_round(tiny_model(tmp_path / "model"), CPU).draft.measurements.peak_device_bytes == 0


# -- a real one


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_round_on_a_gpu_is_the_round_on_the_cpu_to_rounding(tmp_path: Path, architecture: str) -> None:
    path = tiny_model(tmp_path / "model", architecture)
    device = usable_device(HERE[0])
    there, again, here = (one_round(path, where, architecture, method="fedit") for where in (device, device, CPU))
    assert there.draft.digest == again.draft.digest  # repeats bit for bit
    losses = [[score.loss for score in found.draft.scores] for found in (there, here)]
    np.testing.assert_allclose(*losses, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(there.signature, here.signature, atol=1e-3)
    assert 0 < there.draft.measurements.peak_device_bytes < 1 << 30


@pytest.mark.gpu
@needs_gpu
def test_a_gpu_trains_on_a_base_in_16_bits_with_kept_rows(tmp_path: Path) -> None:
    device = usable_device(HERE[0])
    if not computes_bf16(device):
        pytest.skip(f"{device} does not compute in bf16")
    path = tiny_model(tmp_path / "model")
    sections = {"training": {"precision": "bf16"}, "method": "fedit"}
    plain, kept = (one_round(path, device, cache=cache, **sections) for cache in (None, tmp_path / "cache"))
    losses = [[score.loss for score in found.draft.scores] for found in (plain, kept)]
    np.testing.assert_allclose(*losses, rtol=2e-2)
