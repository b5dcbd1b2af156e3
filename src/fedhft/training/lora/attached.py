"""Putting LoRA layers into a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from fedhft.adapter import Slot
from fedhft.training.lora.layer import LoraLayer


def attach(
    model: torch.nn.Module,
    slots: Iterable[Slot],
    alpha_of: Callable[[int], float],
    dropout: float = 0.0,
    device: torch.device | None = None,
) -> None:
    """Replace each slot's linear map by a LoRA layer around it. Nothing changes in what the model computes.

    device: where the factors are; None: where the map's weight is.
    """
    for slot in slots:
        parent, _, name = slot.name.rpartition(".")
        layer = LoraLayer(model.get_submodule(slot.name), slot.rank, alpha_of(slot.rank), dropout, device)
        setattr(model.get_submodule(parent), name, layer)


def layer_of(model: torch.nn.Module, slot: Slot) -> LoraLayer:
    """The LoRA layer of a slot. Raises TypeError where none is attached."""
    module = model.get_submodule(slot.name)
    if not isinstance(module, LoraLayer):
        raise TypeError(f"{slot.name} is a {type(module).__name__}: no adapter is attached to it")
    return module
