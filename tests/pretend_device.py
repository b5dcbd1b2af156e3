"""A device that is not the CPU, for machines that have no other: `pretend:0`, in Python on torch's own interfaces.

Its tensors hold their values in CPU tensors that nothing outside can see. Like a GPU's they cannot be turned into
numpy, and an operation on tensors of both devices raises, except where CUDA allows it too: copies, single numbers, and
indexing by an index on the CPU. So what runs on it moves its tensors as it would have to for a real device; whether a
real one computes the same, this cannot say.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map

NAME = "pretend"
_aten = torch.ops.aten
_CROSSING = {_aten.copy_.default, _aten._to_copy.default, _aten.index.Tensor, _aten.index_put_.default}
"""Operations that take tensors of two devices."""
_RESHAPING = {_aten.set_.source_Tensor}
"""Operations that change what a tensor is, and not only its values."""


class PretendTensor(torch.Tensor):
    """A tensor on the pretend device."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> PretendTensor:
        with torch._C._DisableTorchDispatch():  # type: ignore[attr-defined]
            shell = torch.empty_strided(inner.size(), inner.stride(), dtype=inner.dtype, device="meta")
            out: PretendTensor = torch.Tensor._make_subclass(cls, shell)  # type: ignore[attr-defined]
        out.inner = inner
        return out

    def __init__(self, inner: torch.Tensor) -> None:
        pass

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return torch.device(NAME, 0)

    def __repr__(self, **_: Any) -> str:
        return f"PretendTensor{tuple(self.shape)}"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, dict(kwargs or {}))


class _Pretending(TorchDispatchMode):
    """Sees what makes tensors without having one, too."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, dict(kwargs or {}))


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [value for value in tree_iter((args, kwargs)) if isinstance(value, torch.Tensor)]
    ours = [value for value in tensors if isinstance(value, PretendTensor)]
    wanted = kwargs.get("device")
    wanted = None if wanted is None else torch.device(wanted).type
    here = wanted in (NAME, "meta") if wanted is not None else bool(ours)
    if not (ours or here):
        return func(*args, **kwargs)
    Module.used()
    if func not in _CROSSING and any(v.dim() and not isinstance(v, PretendTensor) for v in tensors) and ours:
        raise RuntimeError(f"Expected all tensors to be on the same device, but {func} got some on cpu, some on {NAME}")
    if wanted is not None:
        kwargs["device"] = torch.device("cpu")
    found = func(*tree_map(_inner, args), **tree_map(_inner, kwargs))
    if _in_place(func):
        if func in _RESHAPING:
            with torch._C._DisableTorchDispatch():  # type: ignore[attr-defined]
                func(*args, **kwargs)
        return args[0]
    if not here:
        return found.clone() if func is _aten._to_copy.default else found
    return tree_map(lambda value: PretendTensor(value) if isinstance(value, torch.Tensor) else value, found)


def _in_place(func: Any) -> bool:
    return str(func._schema.name).endswith("_")


def _inner(value: Any) -> Any:
    return value.inner if isinstance(value, PretendTensor) else value


class Module:
    """torch.pretend: what torch asks of a device's module."""

    operations = 0
    fails_after: int | None = None
    """Operations after which every further one fails as CUDA does when a device is lost."""

    @classmethod
    def used(cls) -> None:
        """Count an operation."""
        cls.operations += 1
        if cls.fails_after is not None and cls.operations > cls.fails_after:
            raise torch.AcceleratorError("CUDA error: unspecified launch failure")

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return True

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return 1

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        """Dropout on this device draws from the CPU's generator, which is seeded by itself."""

    def get_rng_state(self, device: object = None) -> torch.Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: torch.Tensor, device: object = None) -> None:
        torch.set_rng_state(state)

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


@contextmanager
def pretending() -> Iterator[torch.device]:
    """Inside, there is the device."""
    if not hasattr(torch, NAME):
        torch.utils.rename_privateuse1_backend(NAME)
        torch._register_device_module(NAME, Module())  # type: ignore[attr-defined]
    with _Pretending():
        yield torch.device(NAME, 0)
