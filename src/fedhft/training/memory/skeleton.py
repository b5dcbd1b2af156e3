"""A model without values: parameters on `meta`, buffers real.

Buffers (rotary tables, position ids) are worked out by the modules' constructors and are in no file, so they must not
be on `meta`. Parameters are small while they are made, or never exist: an allocation above a million values goes to
`meta` at once, since under a limit of data (RLIMIT_DATA) the embedding of a large vocabulary could not even be
reserved.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_SMALL_VALUES = 1 << 20
_FACTORIES = (torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn)


def skeleton(build: Callable[[], torch.nn.Module]) -> torch.nn.Module:
    """The model that `build` makes, in evaluation mode, with every parameter on `meta`. Not safe for concurrent use."""
    with _parameters_on_meta(), _LargeOnMeta():
        model = build()
    model.requires_grad_(False)
    return model.eval()


class _LargeOnMeta(TorchFunctionMode):
    """Makes large tensors on `meta`."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        if func in _FACTORIES and _values(args, given) > _SMALL_VALUES:
            given["device"] = "meta"
        return func(*args, **given)


def _values(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    size = args if args and isinstance(args[0], int) else kwargs.get("size", args[0] if args else ())
    return math.prod(size) if all(isinstance(length, int) for length in size) else 0


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    register = torch.nn.Module.register_parameter

    def to_meta(module: torch.nn.Module, name: str, parameter: torch.nn.Parameter | None) -> None:
        register(module, name, parameter)
        if parameter is not None and parameter.device.type != "meta":
            module._parameters[name] = torch.nn.Parameter(torch.empty_like(parameter, device="meta"), False)

    torch.nn.Module.register_parameter = to_meta  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        torch.nn.Module.register_parameter = register  # type: ignore[method-assign]
