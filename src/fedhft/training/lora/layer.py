"""One linear map with a low-rank correction beside it."""

from __future__ import annotations

import torch
from transformers.pytorch_utils import Conv1D


class LoraLayer(torch.nn.Module):
    """y = W x + bias + (alpha / rank) B A dropout(x)

    base: the map that is adapted, a torch.nn.Linear or GPT-2's Conv1D, which holds its weight as (in x out); its owner
    freezes it. Factors are float32, on `device` or else the base's: A is `lora_A.weight` (rank x in), B is
    `lora_B.weight` (out x rank), PEFT's names and orientation. Both begin at zero. dropout: probability with which an
    input of A is dropped in training mode, in [0, 1).
    After `resize` A and B have other ranks; the scale stays alpha / rank, that of the rank the layer was made with.
    While `active` is false the layer is its base.
    """

    def __init__(
        self,
        base: torch.nn.Module,
        rank: int,
        alpha: float,
        dropout: float = 0.0,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        out_features, in_features = _shape(base)
        device = device or base.get_parameter("weight").device
        self.base = base
        self.lora_A = torch.nn.Linear(in_features, rank, bias=False, device=device, dtype=torch.float32)
        self.lora_B = torch.nn.Linear(rank, out_features, bias=False, device=device, dtype=torch.float32)
        self.dropout = torch.nn.Dropout(dropout) if dropout else torch.nn.Identity()
        self.rank = rank
        self.scaling = alpha / rank
        self.active = True
        with torch.no_grad():
            self.lora_A.weight.zero_()
            self.lora_B.weight.zero_()

    def resize(self, rank: int) -> None:
        """Give A and B this rank. Their values are undefined where it was another."""
        if rank == self.rank:
            return
        for factor, shape in ((self.lora_A, (rank, -1)), (self.lora_B, (-1, rank))):
            before = factor.weight
            rows, cols = (old if new < 0 else new for old, new in zip(before.shape, shape, strict=True))
            factor.weight = torch.nn.Parameter(before.new_empty((rows, cols)), requires_grad=False)
            factor.out_features, factor.in_features = rows, cols
        self.rank = rank

    @property
    def weight(self) -> torch.Tensor:
        """The base's weight: some models look at the dtype of a map's weight."""
        return self.base.get_parameter("weight")

    @property
    def bias(self) -> torch.Tensor | None:
        """The base's bias, if it has one."""
        bias: torch.Tensor | None = getattr(self.base, "bias", None)
        return bias

    @property
    def transposed(self) -> bool:
        """Whether the base holds its weight as (in x out)."""
        return isinstance(self.base, Conv1D)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in) -> (..., out), in the dtype of the base's output; the correction is worked out in float32, or as
        autocast says.
        """
        out: torch.Tensor = self.base(x)
        if not self.active:
            return out
        added: torch.Tensor = self.lora_B(self.lora_A(self.dropout(x.to(torch.float32)))) * self.scaling
        return (out + added).to(out.dtype)


def _shape(base: torch.nn.Module) -> tuple[int, int]:
    """(out, in)."""
    first, second = base.get_parameter("weight").shape
    return (second, first) if isinstance(base, Conv1D) else (first, second)
