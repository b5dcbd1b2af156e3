"""Training from the cache equals training without it, for every family, at every boundary."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from fedhft.adapter import Slot
from fedhft.telemetry import metrics
from fedhft.training.batches import EncodedRows
from fedhft.training.lora.attached import attach, layer_of
from fedhft.training.prefix.cache import Arithmetic, PrefixCache
from fedhft.training.prefix.folder import PrefixFolder
from fedhft.training.prefix.stack import Inputs, Stack
from fedhft.training.tasks.interface import Tokens
from tests.families import FAMILIES, WORDS, family_model, targets_of

torch.set_num_threads(1)

LAYERS, RANK, STEPS, BATCH = 4, 4, 20, 6


def some_rows(count: int = 24) -> EncodedRows:
    generator = np.random.default_rng(1)
    rows = tuple(Tokens(generator.integers(4, WORDS, n).astype(np.int32)) for n in generator.integers(3, 30, count))
    return EncodedRows(rows, generator.integers(0, 3, count), 0)


def slots_of(model: torch.nn.Module, family: str, lowest: int) -> list[Slot]:
    found = []
    for name, module in model.named_modules():
        numbers = [int(part) for part in name.split(".") if part.isdecimal()]
        if name.endswith(targets_of(family)) and numbers and numbers[0] >= lowest:
            weight = module.get_parameter("weight")
            out, within = weight.shape if isinstance(module, torch.nn.Linear) else weight.T.shape
            found.append(Slot(name, numbers[0], within, out, RANK))
    assert len(found) >= LAYERS - lowest
    return found


class Trainee:
    """A model with adapters above a boundary, trained with the cache or without."""

    def __init__(
        self,
        family: str,
        boundary: int,
        folder: PrefixFolder | None,
        kept_as: torch.dtype = torch.float32,
        **changes: int,
    ) -> None:
        self.model = family_model(family, **changes)
        slots = slots_of(self.model, family, boundary)
        attach(self.model, slots, lambda _: 8.0)
        generator = torch.Generator().manual_seed(4)
        self.parameters = []
        for slot in slots:
            for factor in (layer_of(self.model, slot).lora_A, layer_of(self.model, slot).lora_B):
                with torch.no_grad():
                    factor.weight.copy_(0.2 * torch.randn(factor.weight.shape, generator=generator))
                self.parameters.append(factor.weight.requires_grad_(True))
        self.boundary = boundary
        self.rows = some_rows()
        stack = Stack.of(self.model, LAYERS, self.logits)
        assert stack is not None
        self.stack = stack
        self.cache = None
        if folder is not None:
            arithmetic = Arithmetic(self.logits, torch.device("cpu"), torch.float32)
            self.cache = PrefixCache(folder, stack, arithmetic, {"base": family}, kept_as)

    def logits(self, inputs: Inputs) -> torch.Tensor:
        found: torch.Tensor = self.model(**inputs).logits
        return found

    def step(self, index: np.ndarray) -> torch.Tensor:
        inputs = self.rows.inputs(index)
        hidden = None if self.cache is None else self.cache.hidden(self.rows, index, inputs, self.boundary)
        targets = torch.from_numpy(self.rows.targets[index])
        if hidden is None:
            assert self.cache is None, "the cache was refused"
            logits = self.logits(inputs)
        else:
            with self.stack.skipping(self.boundary, hidden):
                logits = self.logits(inputs)
        return torch.nn.functional.cross_entropy(logits, targets)

    def train(self, steps: int) -> list[torch.Tensor]:
        self.stack.train_from(self.boundary)
        torch.manual_seed(3)
        optimiser = torch.optim.AdamW(self.parameters, lr=1e-3)
        order = np.random.default_rng(2)
        for _ in range(steps):
            optimiser.zero_grad()
            self.step(order.permutation(len(self.rows))[:BATCH]).backward()
            optimiser.step()
        return [parameter.detach().clone() for parameter in self.parameters]

    def gradients(self) -> list[torch.Tensor]:
        torch.manual_seed(3)
        self.step(np.arange(10)).backward()
        return [parameter.grad for parameter in self.parameters if parameter.grad is not None]


@contextmanager
def expecting(**counts: int) -> Iterator[None]:
    """Check how far the counters of rows by source, or of faults, move."""

    def now(name: str) -> float:
        rows = name in ("cache", "computed")
        series = metrics.AGENT_PREFIX_ROWS if rows else metrics.AGENT_PREFIX_FAULTS
        return series.labels(name)._value.get()  # type: ignore[no-any-return]

    before = {name: now(name) for name in counts}
    yield
    assert {name: now(name) - before[name] for name in counts} == counts


def folder_in(path: Path) -> PrefixFolder:
    folder = PrefixFolder.open(path, 1 << 30)
    assert folder is not None
    return folder


BOUNDARIES = [(family, boundary) for family in FAMILIES for boundary in (1, 2, 3)]


@pytest.mark.parametrize(("family", "boundary"), BOUNDARIES)
def test_gradients_and_weights_are_those_of_training_without_the_cache(
    tmp_path: Path, family: str, boundary: int
) -> None:
    plain, folder = Trainee(family, boundary, None), folder_in(tmp_path)
    Trainee(family, boundary, folder).train(24)  # rows are then read in other batches than they were computed in
    cached = Trainee(family, boundary, folder)
    with expecting(cache=10):
        for wanted, got in zip(plain.gradients(), cached.gradients(), strict=True):
            assert float((wanted - got).abs().max()) <= 1e-5 * float(wanted.abs().max())
    for wanted, got in zip(plain.train(STEPS), cached.train(STEPS), strict=True):
        assert float((wanted - got).abs().max()) <= 1e-6


def test_a_layer_that_mixes_in_what_came_before_is_noticed_and_run_whole(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """DeBERTa's convolution beside the first layer would run twice at boundary 1."""
    folder = folder_in(tmp_path)
    trainee = Trainee("deberta-v2", 1, folder, conv_kernel_size=3)
    inputs = trainee.rows.inputs(np.arange(4))
    assert trainee.cache is not None
    assert trainee.cache.hidden(trainee.rows, np.arange(4), inputs, 1) is None
    assert "with the cache it computes something else" in caplog.text
    for boundary in (2, 3):
        assert trainee.cache.hidden(trainee.rows, np.arange(4), inputs, boundary) is not None


@pytest.mark.parametrize("kept_as", [torch.float16, torch.bfloat16])
def test_sixteen_bits_train_nearly_the_same(tmp_path: Path, kept_as: torch.dtype) -> None:
    plain, cached = Trainee("bert", 2, None), Trainee("bert", 2, folder_in(tmp_path), kept_as)
    for wanted, got in zip(plain.gradients(), cached.gradients(), strict=True):
        assert float((wanted - got).abs().max()) <= 0.05 * float(wanted.abs().max())
    rows = cached.cache._files[2] if cached.cache else None
    assert rows is not None
    assert rows._end == int(cached.rows.lengths[:10].sum()) * 32 * 2


def test_rows_without_room_are_worked_out_and_change_nothing(tmp_path: Path) -> None:
    plain = Trainee("llama", 3, None).train(10)
    folder = PrefixFolder.open(tmp_path, 20_000)  # of 48,000
    assert folder is not None
    partly = Trainee("llama", 3, folder).train(10)
    for wanted, got in zip(plain, partly, strict=True):
        assert float((wanted - got).abs().max()) <= 1e-6


def test_damaged_rows_are_worked_out_again_and_kept_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = folder_in(tmp_path)
    first = Trainee("gpt2", 2, folder)
    first.train(24)
    assert first.cache is not None
    place = first.cache._files[2].folder / "rows.bin"  # type: ignore[union-attr]
    content = bytearray(place.read_bytes())
    content[100] ^= 1
    content[-100] ^= 1
    place.write_bytes(content)
    folder.close()
    plain = Trainee("gpt2", 2, None).train(24)
    folder = folder_in(tmp_path)
    with expecting(damaged=2):
        repaired = Trainee("gpt2", 2, folder).train(24)
    assert "damaged" in caplog.text
    for wanted, got in zip(plain, repaired, strict=True):
        assert float((wanted - got).abs().max()) <= 1e-6
    with expecting(damaged=0, computed=0):
        Trainee("gpt2", 2, folder).train(24)


def test_a_boundary_is_worked_out_from_a_lower_one_where_that_is_kept(tmp_path: Path) -> None:
    folder = folder_in(tmp_path)
    trainee = Trainee("qwen3", 2, folder)
    everything = np.arange(len(trainee.rows))
    inputs = trainee.rows.inputs(everything)
    assert trainee.cache is not None
    passed = []
    hook = trainee.stack.layers[0].register_forward_hook(lambda *_: passed.append(1))
    lower = trainee.cache.hidden(trainee.rows, everything, inputs, 1)
    assert trainee.cache.hidden(trainee.rows, everything[:6], trainee.rows.inputs(everything[:6]), 3) is not None
    trainee.stack.layers[0].forward  # noqa: B018 - its own again
    before = len(passed)
    deeper = trainee.cache.hidden(trainee.rows, everything, inputs, 2)
    hook.remove()
    whole = trainee.stack.entering(2, lambda: trainee.logits(inputs))
    mask = inputs["attention_mask"].bool()
    assert lower is not None
    assert deeper is not None
    assert float((deeper - whole)[mask].abs().max()) <= 1e-5
    assert len(passed) > before  # the hook sees calls, also those that hand on


def test_encoder_decoders_and_models_of_one_layer_are_run_whole() -> None:
    from transformers import BartConfig, BartForSequenceClassification

    config = BartConfig(
        vocab_size=WORDS, d_model=16, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=64,
    )  # fmt: skip
    model = BartForSequenceClassification(config).eval()
    assert Stack.of(model, 2, lambda inputs: model(**inputs)) is None
    linear = torch.nn.Linear(2, 2)
    assert Stack.of(linear, 1, lambda inputs: linear(inputs["input_ids"])) is None


@pytest.mark.parametrize("family", FAMILIES)
def test_there_is_no_dropout_below_the_boundary_and_there_is_above_it(family: str) -> None:
    model = family_model(family)
    stack = Stack.of(model, LAYERS, lambda inputs: model(**inputs))
    assert stack is not None
    stack.train_from(2)
    below = [m for part in (*stack.before, *stack.layers[:2]) for m in part.modules()]
    above = [m for part in (*stack.layers[2:], *stack.after) for m in part.modules()]
    assert below
    assert not any(module.training for module in below)
    assert all(module.training for module in above)
    dropouts = [m for m in model.modules() if isinstance(m, torch.nn.Dropout) or "Dropout" in type(m).__name__]
    assert {id(m) for m in dropouts} <= {id(m) for m in (*below, *above)}
