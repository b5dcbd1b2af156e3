"""What passes of a network cost in memory, counted on a few small ones: each tensor from when it is made until it is
freed. Resident memory would tell less: it keeps what the allocator has not given back.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from fedhft.planning.peak import PassCost


class LiveBytes(TorchDispatchMode):
    """Context manager: inside, counts the bytes of tensors that operations make. `peak` is the most at any time."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._live = 0
        self._known: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # the compiler, which is not imported, has nothing to skip

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        for tensor in _tensors((args, kwargs)):
            self._note(tensor, 0)  # of before, or counted already
        out = func(*args, **(kwargs or {}))
        for tensor in _tensors(out):
            self._note(tensor, tensor.untyped_storage().nbytes())
        self.peak = max(self.peak, self._live)
        return out

    def _note(self, tensor: torch.Tensor, size: int) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return

        def freed(_: object) -> None:
            if self._known.pop(key, None) is not None:
                self._live -= size

        self._known[key] = weakref.ref(storage, freed)
        self._live += size


def _tensors(values: object) -> list[torch.Tensor]:
    return [value for value in tree_flatten(values)[0] if isinstance(value, torch.Tensor) and not value.is_meta]


def cost_of(run: Callable[[int, int, int], None], width: int, many_places: int) -> PassCost:
    """The cost of passes that `run(rows, width, places)` makes, from four or five of them. width: at least 2.

    many_places: a number of places above 1 to try; 1 where a row has one output.
    """

    def peak(rows: int, tokens: int, places: int) -> float:
        with LiveBytes() as live:
            run(rows, tokens, places)
        return float(live.peak)

    half = max(1, width // 2)
    small, double = peak(1, half, 1), peak(2, half, 2)
    large = peak(1, width, 1) if width > half else small
    place = max(0.0, peak(1, half, many_places) - small) / (many_places - 1) if many_places > 1 else 0.0
    per_row = max(0.0, double - small - place)
    # With row(w) = token w + pair w^2: row(half) and the growth from half to width give both.
    growth = max(0.0, large - small)
    if width > half:
        slope_half, slope_width = per_row / half, (per_row + growth) / width
        pair = max(0.0, (slope_width - slope_half) / (width - half))
    else:
        pair = 0.0
    token = max(0.0, (per_row + growth) / width - pair * width)
    return PassCost(max(0.0, small - per_row - place), token, pair, place)
