"""The stack of layers of a transformers model, cut at a boundary.

No family needs code of its own: layers below the boundary are replaced, for one forward pass, by functions that hand
their input on, and the last of them by one that hands out what is known to enter the boundary. Embeddings, masks,
position ids, rotary tables, kinds of layers and pooling stay the model's own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from fedhft.training.memory.layers import StreamedLayers

Function = Callable[..., Any]
Inputs = Mapping[str, torch.Tensor]
Run = Callable[[Inputs], object]
"""Makes a forward pass of the model."""

_CPU = torch.device("cpu")
_HIDDEN = "hidden_states"
_TRACED_TOKENS = 4


class BoundaryReached(Exception):  # noqa: N818 - the end of a pass, not an error
    """Raised to end a forward pass where the boundary is."""

    def __init__(self, hidden: torch.Tensor) -> None:
        self.hidden = hidden


class Stack:
    """The layers of one model, in order.

    before, after: modules that run before the first layer and after the last; modules around the layers are in neither.
    outputs: length of the tuple that a layer returns, 0 where it returns the hidden states alone. streamed: reads the
    values of layers that are not in memory.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        layers: Sequence[torch.nn.Module],
        before: Sequence[torch.nn.Module],
        after: Sequence[torch.nn.Module],
        outputs: int,
        streamed: StreamedLayers | None = None,
    ) -> None:
        self._model = model
        self.layers = layers
        self.before = before
        self.after = after
        self._outputs = outputs
        self.streamed = streamed

    @classmethod
    def of(
        cls,
        model: torch.nn.Module,
        count: int,
        run: Run,
        streamed: StreamedLayers | None = None,
        device: torch.device = _CPU,
    ) -> Stack | None:
        """The stack of `count` layers of a model in evaluation mode, found by running it on a few tokens.

        run: makes a forward pass on inputs; device: where they are to be. None where there is no single such stack
        (encoder-decoders have two), or layers take something else than hidden states: such models are always run whole.
        """
        layers = _only_list(model, count)
        if layers is None or not isinstance(layers[0], torch.nn.Module):
            return None
        around = {name for name, module in model.named_modules() if any(m is layers for m in module.modules())}
        entered: list[str] = []
        edges: list[int] = []
        outputs: list[int] = []

        def enter(name: str) -> Callable[[object, object, object], None]:
            return lambda *_: entered.append(name)

        def leave_layer(_: object, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: object) -> None:
            if isinstance(_hidden(args, kwargs), torch.Tensor):
                edges.append(len(entered))
                outputs.append(len(out) if isinstance(out, tuple) else 0)

        def hand_on(*args: Any, **kwargs: Any) -> object:
            return _returned(_hidden(args, kwargs), outputs[0])

        hooks = [
            module.register_forward_pre_hook(enter(name), with_kwargs=True) for name, module in model.named_modules()
        ]
        hooks += [layer.register_forward_hook(leave_layer, with_kwargs=True) for layer in layers]
        values: AbstractContextManager[None] = nullcontext() if streamed is None else streamed.running(0)
        try:
            # The first layer shows what layers return; the others need not be run, nor be in memory.
            with torch.no_grad(), values, _in_place_of(layers, dict.fromkeys(range(1, count), hand_on)):
                tokens = torch.zeros((1, _TRACED_TOKENS), dtype=torch.int64, device=device)
                run({"input_ids": tokens, "attention_mask": torch.ones_like(tokens)})
        except (RuntimeError, TypeError, ValueError, IndexError, KeyError, AttributeError):
            return None  # not a model of texts alone; whatever is wrong with it is said where it is used
        finally:
            for hook in hooks:
                hook.remove()
        if len(edges) != count:
            return None
        names = {id(module): name for name, module in model.named_modules()}
        first = entered.index(names[id(layers[0])])
        modules = dict(model.named_modules())

        def outside(part: Collection[str], seen: Collection[str]) -> list[torch.nn.Module]:
            return [modules[name] for name in dict.fromkeys(part) if name not in around and name not in seen]

        early = entered[:first]
        return cls(
            model, list(layers), outside(early, ()), outside(entered[edges[-1] :], set(early)), outputs[0], streamed
        )

    def modules(self) -> Iterator[torch.nn.Module]:
        """All modules of the model."""
        return self._model.modules()

    def holds_below(self, boundary: int, parameters: Collection[torch.nn.Parameter]) -> bool:
        """Whether one of the parameters is used below the boundary (0 < boundary <= layers)."""
        wanted = {id(parameter) for parameter in parameters}
        below = (*self.before, *self.layers[:boundary])
        return any(id(parameter) in wanted for module in below for parameter in module.parameters())

    def train_from(self, boundary: int) -> None:
        """Training mode for what lies above the boundary, evaluation mode for the rest."""
        self._model.eval()
        for module in (*self.layers[boundary:], *self.after):
            module.train()

    @contextmanager
    def skipping(self, boundary: int, hidden: torch.Tensor) -> Iterator[None]:
        """Inside, the model runs from the boundary on, where `hidden` (batch x tokens x width) enters."""

        def hand_on(*args: Any, **kwargs: Any) -> object:
            return _returned(_hidden(args, kwargs), self._outputs)

        def hand_out(*_: Any, **__: Any) -> object:
            return _returned(hidden, self._outputs)

        with _in_place_of(self.layers, {i: hand_on if i < boundary - 1 else hand_out for i in range(boundary)}):
            yield

    def room(self) -> AbstractContextManager[None]:
        """Inside, layers in training are not in memory either, unless all are, but read when they are run."""
        return nullcontext() if self.streamed is None else self.streamed.none_held()

    def values_of(self, layer: int) -> AbstractContextManager[None]:
        """Inside, a layer has its values, in memory or read."""
        return nullcontext() if self.streamed is None else self.streamed.running(layer)

    def reading(self, layers: Iterable[int]) -> AbstractContextManager[None]:
        """Inside, a forward pass reads the values of each of these layers that is not in memory, and drops them."""
        return nullcontext() if self.streamed is None else self.streamed.reading(layers)

    @contextmanager
    def recomputing(self, boundary: int) -> Iterator[None]:
        """Inside, a layer from the boundary on keeps what enters it and nothing else for the backward pass, which runs
        it once more (gradient checkpointing: Chen et al. 2016, arXiv 1604.06174). Gradients are the same, bit for bit:
        dropout is drawn anew from the same state.
        """

        def kept(function: Function) -> Function:
            return lambda *args, **kwargs: checkpoint(function, *args, use_reentrant=False, **kwargs)

        above = range(boundary, len(self.layers))
        with _in_place_of(self.layers, {layer: kept(self.layers[layer].forward) for layer in above}):
            yield

    @contextmanager
    def visiting(self, boundary: int, visit: Callable[[int], None]) -> Iterator[None]:
        """Inside, a forward pass calls `visit(l)` before each layer l below the boundary is run, which has its values
        for both: they are read once. `visit` may run the model.
        """
        visited = [False] * boundary

        def calling(layer: int, function: Function) -> Function:
            def forward(*args: Any, **kwargs: Any) -> object:
                with self.values_of(layer):
                    if not visited[layer]:
                        visited[layer] = True
                        visit(layer)
                    return function(*args, **kwargs)

            return forward

        functions = {layer: calling(layer, self.layers[layer].forward) for layer in range(boundary)}
        with _in_place_of(self.layers, functions):
            yield

    def entering(self, boundary: int, run: Callable[[], object], start: int = 0) -> torch.Tensor:
        """What enters the boundary in a forward pass, which ends there. run: makes the pass, without the layers below
        `start`.
        """

        def stop(*args: Any, **kwargs: Any) -> object:
            raise BoundaryReached(_hidden(args, kwargs))

        try:
            with torch.no_grad(), self.reading(range(start, boundary)), _in_place_of(self.layers, {boundary: stop}):
                run()
        except BoundaryReached as reached:
            return reached.hidden
        raise RuntimeError(f"the forward pass did not come to layer {boundary}")

    def leaving(self, run: Callable[[], object], start: int = 0) -> torch.Tensor:
        """What leaves the last layer in a forward pass. run: makes the pass, without the layers below `start`."""
        found: list[torch.Tensor] = []

        def keep(_: object, __: object, out: Any) -> None:
            found.append(out[0] if isinstance(out, tuple) else out)

        hook = self.layers[-1].register_forward_hook(keep)
        try:
            with torch.no_grad(), self.reading(range(start, len(self.layers))):
                run()
        finally:
            hook.remove()
        return found[-1]


@contextmanager
def _in_place_of(
    layers: Sequence[torch.nn.Module] | torch.nn.ModuleList, functions: Mapping[int, Function]
) -> Iterator[None]:
    """Inside, calling a layer calls its function instead."""
    before = {place: vars(layers[place]).get("forward") for place in functions}
    for place, function in functions.items():
        layers[place].forward = function
    try:
        yield
    finally:
        for place, own in before.items():
            if own is None:
                del layers[place].forward  # the class's own again
            else:
                layers[place].forward = own


def _returned(hidden: Any, outputs: int) -> object:
    """Hidden states in the form in which layers return them."""
    return (hidden,) + (None,) * (outputs - 1) if outputs else hidden


def _only_list(model: torch.nn.Module, count: int) -> torch.nn.ModuleList | None:
    """The one list of `count` modules that does not lie inside another such list (experts do)."""
    found = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.ModuleList) and len(module) == count
    ]
    outer = [item for item in found if not any(item[0].startswith(f"{other}.") for other, _ in found)]
    return outer[0][1] if len(outer) == 1 else None


def _hidden(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    return args[0] if args else kwargs.get(_HIDDEN)
