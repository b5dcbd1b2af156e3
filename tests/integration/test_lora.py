"""Our LoRA layers against PEFT's: equal bits; and an agent's modules without PEFT."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from transformers.pytorch_utils import Conv1D

from fedhft.adapter import Slot
from fedhft.training.base import LoadedBase, load_base
from fedhft.training.lora.attached import attach, layer_of
from fedhft.training.lora.layer import LoraLayer
from fedhft.training.schema import build_schema
from tests.models import tiny_model
from tests.workers import job_for

ALPHA, RANK = 8.0, 4


def inputs(base: LoadedBase) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(4, len(base.tokenizer), (5, 12), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def gradients(model: torch.nn.Module, base: LoadedBase, autocast: bool) -> dict[str, torch.Tensor]:
    """Logits, and the gradients of every trained factor by its name in PEFT."""
    torch.manual_seed(17)  # dropout
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        logits = model(**inputs(base)).logits
    logits.float().square().sum().backward()
    found = {
        name.replace(".default", ""): parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and parameter.grad is not None
    }
    return {"logits": logits.detach(), **found}


def fill(model: torch.nn.Module, slots: tuple[Slot, ...], peft: bool) -> None:
    """The same random factors in both kinds of layer."""
    generator = torch.Generator().manual_seed(5)
    model.requires_grad_(False)
    for slot in slots:
        for side in ("lora_A", "lora_B"):
            weight = model.get_parameter(f"{slot.name}.{side}{'.default' if peft else ''}.weight")
            with torch.no_grad():
                weight.copy_(0.3 * torch.randn(weight.shape, generator=generator))
            weight.requires_grad_(True)


@pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("dropout", [0.0, 0.25])
@pytest.mark.parametrize("architecture", ["bert", "distilbert", "llama", "gpt2", "modernbert"])
def test_logits_and_gradients_have_the_bits_of_pefts(
    tmp_path: Path, architecture: str, dropout: float, autocast: bool
) -> None:
    spec = job_for(tiny_model(tmp_path, architecture), architecture)
    own, theirs = load_base(spec), load_base(spec)
    theirs.model.load_state_dict(own.model.state_dict())  # the head is drawn at random
    slots = build_schema(own, spec).slots
    for slot in slots:
        if dropout:
            parent, _, name = slot.name.rpartition(".")
            layer = LoraLayer(own.model.get_submodule(slot.name), RANK, ALPHA, dropout)
            setattr(own.model.get_submodule(parent), name, layer)
    if not dropout:
        attach(own.model, slots, lambda _: ALPHA)
    config = LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,  # type: ignore[arg-type]
        lora_dropout=dropout,
        target_modules=[slot.name for slot in slots],
        fan_in_fan_out=isinstance(theirs.model.get_submodule(slots[0].name), Conv1D),
    )
    inject_adapter_in_model(config, theirs.model)
    found = {}
    for name, base in (("own", own), ("theirs", theirs)):
        fill(base.model, slots, peft=name == "theirs")
        base.model.train()
        found[name] = gradients(base.model, base, autocast)
    assert len(found["own"]) == 1 + 2 * len(slots)
    assert found["own"].keys() == found["theirs"].keys()
    for name, value in found["own"].items():
        assert torch.equal(value, found["theirs"][name]), name
        assert torch.any(value != 0), name


def test_a_layer_that_is_not_active_is_its_base(tmp_path: Path) -> None:
    spec = job_for(tiny_model(tmp_path))
    base = load_base(spec)
    plain = base.model(**inputs(base)).logits
    slots = build_schema(base, spec).slots
    attach(base.model, slots, lambda _: ALPHA)
    fill(base.model, slots, peft=False)
    assert not torch.equal(base.model(**inputs(base)).logits, plain)
    for slot in slots:
        layer_of(base.model, slot).active = False
    assert torch.equal(base.model(**inputs(base)).logits, plain)


def test_a_layer_shows_its_base_to_models_that_look_at_weights(tmp_path: Path) -> None:
    base = torch.nn.Linear(6, 3).to(torch.bfloat16)
    layer = LoraLayer(base, 2, 4.0)
    assert layer.weight is base.weight
    assert layer.bias is base.bias
    assert layer.lora_A.weight.dtype is layer.lora_B.weight.dtype is torch.float32
    assert layer(torch.ones(1, 6, dtype=torch.bfloat16)).dtype is torch.bfloat16
    with pytest.raises(TypeError, match="no adapter is attached"):
        layer_of(torch.nn.ModuleDict({"plain": base}), Slot("plain", 0, 6, 3, 2))


WITHOUT_PEFT = """
import importlib.util, sys
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name in ("peft", "accelerate") else found(name, *a)
import fedhft_agent.agent, fedhft_agent.workplace
print(sorted(set(sys.modules) & {"peft", "accelerate", "torch._dynamo", "torch._inductor", "sympy"}))
from fedhft.training.base import load_base
from fedhft.training.network import Network
from fedhft.job import load_canonical
spec = load_canonical(sys.argv[1])
Network.on(load_base(spec), spec)
print(sorted(set(sys.modules) & {"peft", "accelerate"}))
"""


def test_an_agent_starts_without_peft_and_without_torchs_compiler(tmp_path: Path) -> None:
    """As in an environment of the extra `agent`. (transformers loads the compiler with some models' code.)"""
    spec = job_for(tiny_model(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PEFT, spec.canonical()], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["[]", "[]"]
