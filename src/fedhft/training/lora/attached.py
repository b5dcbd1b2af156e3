"""Putting LoRA layers into a model."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from fedhft.adapter import Slot
from fedhft.training.lora.layer import LoraLayer


def attach(model: torch.nn.Module, slots: Iterable[Slot], alpha: float, dropout: float = 0.0) -> None:
    """Replace each slot's linear map by a LoRA layer around it. Nothing changes in what the model computes."""
    for slot in slots:
        parent, _, name = slot.name.rpartition(".")
        layer = LoraLayer(model.get_submodule(slot.name), slot.rank, alpha, dropout)
        setattr(model.get_submodule(parent), name, layer)


def layer_of(model: torch.nn.Module, slot: Slot) -> LoraLayer:
    """The LoRA layer of a slot. Raises TypeError where none is attached."""
    module = model.get_submodule(slot.name)
    if not isinstance(module, LoraLayer):
        raise TypeError(f"{slot.name} is a {type(module).__name__}: no adapter is attached to it")
    return module
