"""Parametrisations that train some rows of a LoRA factor and freeze the others.

The full factor is rebuilt from a small trainable tensor in every forward pass, so gradients, optimiser state and
weight decay exist for the kept rows only; each of their values goes through the same operations as in a dense factor,
so the bits are equal. The backward pass computes the gradient of the *whole* factor anyway and shows it to an observer:
every row can be scored although few are trained.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn.utils import parametrize

Observer = Callable[[torch.Tensor], None]
"""Takes the gradient of a whole factor, in PEFT's orientation, without keeping it."""


class KeptSlices(torch.nn.Module):
    """Rebuilds a factor whose slices `index` along `axis` are trainable and whose others stay as they were.

    axis 0: rows of lora_B.weight (out x r); axis 1: columns of lora_A.weight (r x in). index: int64, ascending.
    """

    frozen: torch.Tensor
    index: torch.Tensor

    def __init__(self, whole: torch.Tensor, index: torch.Tensor, axis: int, observer: Observer | None) -> None:
        super().__init__()
        self.register_buffer("frozen", whole.detach().clone(), persistent=False)
        self.register_buffer("index", index, persistent=False)
        self.axis = axis
        self.observer = observer

    def forward(self, kept: torch.Tensor) -> torch.Tensor:
        """The whole factor."""
        whole = self.frozen.index_copy(self.axis, self.index, kept)
        if self.observer is not None and whole.requires_grad:
            whole.register_hook(self.observer)
        return whole

    def right_inverse(self, whole: torch.Tensor) -> torch.Tensor:
        """The trainable slices of a whole factor."""
        return whole.index_select(self.axis, self.index)


def keep_slices(module: torch.nn.Module, index: torch.Tensor, axis: int, observer: Observer | None) -> None:
    """Train only the slices `index` of `module.weight`; the parameter becomes `parametrizations.weight.original`."""
    whole = module.get_parameter("weight")
    parametrize.register_parametrization(module, "weight", KeptSlices(whole, index, axis, observer))


def trained_parameter(module: torch.nn.Module) -> torch.nn.Parameter:
    """The parameter that an optimiser is given for `module.weight`, parametrised or not."""
    name = "parametrizations.weight.original" if parametrize.is_parametrized(module, "weight") else "weight"
    return module.get_parameter(name)


def make_whole(module: torch.nn.Module) -> None:
    """Undo `keep_slices`: `module.weight` is a plain parameter again, with the trained values in place."""
    if parametrize.is_parametrized(module, "weight"):
        parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
