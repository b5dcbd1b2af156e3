"""Keeping out of memory what torch and transformers import and a client never uses.

Code of a model imports torch.distributed.tensor, and with it sympy; where they are installed, also scipy and
accelerate. The first step of an optimiser imports torch's compiler. Measured on BERT: 409 MB resident after the imports
that a client needs, 285 MB without these, and 5 CPU seconds less.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from transformers import utils
from transformers.utils import import_utils

_COMPILER = "torch._dynamo"
_GETTING = "torch._dynamo._trace_wrapped_higher_order_op"
_MODELS = "transformers.core_model_loading"
_DRAWS = frozenset({"normal_", "uniform_", "trunc_normal_", "kaiming_uniform_", "xavier_uniform_", "xavier_normal_"})
_OPTIONAL = ("is_scipy_available", "is_accelerate_available")


@contextmanager
def without_compiler() -> Iterator[None]:
    """Inside, marks for torch's compiler ("do not compile this") say nothing, and the compiler is not imported.

    Nothing here is compiled. Does nothing where the compiler is imported already. Not safe for concurrent use with
    code that compiles.
    """
    if _COMPILER in sys.modules:
        yield
        return
    stand_ins = {_COMPILER: _compiler(), _GETTING: _getting()}
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        _remove_stand_ins()


@contextmanager
def lean_models() -> Iterator[None]:
    """Inside, code of models is imported without what serves other tasks, or several processes at once.

    From the first use on, transformers takes this process for one of a torch that was built without distributed
    training, which it knows how to be. Only where no model has been imported before, and nothing is distributed.
    """
    if _MODELS not in sys.modules and not _is_distributed():
        _not_distributed()
    known = {name: getattr(import_utils, name) for name in _OPTIONAL}
    for name in known:
        _say(name, _no)
    try:
        with without_compiler(), _NothingDrawnOnMeta():
            yield
    finally:
        for name, function in known.items():
            _say(name, function)


class _NothingDrawnOnMeta(TorchFunctionMode):
    """Leaves tensors without values as they are where random values are asked for: drawing none imports sympy."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        drawn = given.get("tensor", args[0] if args else None)
        if getattr(func, "__name__", "") in _DRAWS and isinstance(drawn, torch.Tensor) and drawn.is_meta:
            return drawn
        return func(*args, **given)


def _is_distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _not_distributed() -> None:
    """Have transformers ask, and remember, while torch says no."""
    available = torch.distributed.is_available
    torch.distributed.is_available = _no
    try:
        import_utils.is_torch_distributed_available.cache_clear()
        import_utils.is_torch_distributed_available()
    finally:
        torch.distributed.is_available = available


def _say(name: str, function: Callable[..., bool]) -> None:
    for module in (import_utils, utils):
        setattr(module, name, function)


def _no(*_: object, **__: object) -> bool:
    return False


class _StandIn(ModuleType):
    """In the place of a module that is not imported."""


def _remove_stand_ins() -> None:
    for name in (_COMPILER, _GETTING):
        if isinstance(sys.modules.get(name), _StandIn):
            del sys.modules[name]


def _compiler() -> ModuleType:
    """What stands in for the compiler: its marks hand a function back as it is."""

    def mark(function: Callable[..., Any] | None = None, *_: object, **__: object) -> Any:
        return (lambda given: given) if function is None else function

    module: Any = _StandIn(_COMPILER)
    module.__path__ = []
    module.disable = module.allow_in_graph = module.assume_constant_result = mark
    module.graph_break = lambda *_, **__: None
    module.config = SimpleNamespace(error_on_nested_fx_trace=True)
    return module  # type: ignore[no-any-return]


def _getting() -> ModuleType:
    """What stands in for the one part of the compiler that some masks of attention need: it is imported then."""

    class TransformGetItemToIndex:
        def __enter__(self) -> None:
            _remove_stand_ins()
            from torch._dynamo._trace_wrapped_higher_order_op import TransformGetItemToIndex as Real

            self._real = Real()
            self._real.__enter__()

        def __exit__(self, *raised: Any) -> None:
            self._real.__exit__(*raised)

    module: Any = _StandIn(_GETTING)
    module.TransformGetItemToIndex = TransformGetItemToIndex
    return module  # type: ignore[no-any-return]
