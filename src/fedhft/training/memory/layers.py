"""A model of which only some layers have values: those that are held, and for a moment the one being run."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch.utils.hooks import RemovableHandle

from fedhft.process.allocator import give_back
from fedhft.training.memory.reading import is_readable, mapped_tensor, read_rows, read_tensor
from fedhft.training.stored_weights import StoredTensor

_LAYER = re.compile(r"\.(\d+)\.")
_CPU = torch.device("cpu")
_LARGE_VALUES = 1 << 22
"""From here on an embedding is not held: only the rows of tokens that occur are read."""
_OLD_NAMES = ((".LayerNorm.weight", ".LayerNorm.gamma"), (".LayerNorm.bias", ".LayerNorm.beta"))


@dataclass(frozen=True)
class _Place:
    """A parameter of the model, and where its values are."""

    owner: torch.nn.Module
    name: str
    stored: StoredTensor


class StreamedLayers:
    """The values of a skeleton's layers, read when they are wanted. Use `of`."""

    def __init__(
        self,
        places: Mapping[int, Collection[_Place]],
        modules: Mapping[int, Collection[torch.nn.Module]],
        dtype: torch.dtype,
        device: torch.device,
        bytes_outside: int,
    ) -> None:
        self._places = places
        self._modules = modules
        self._dtype = dtype
        self._device = device
        self._held: set[int] = set()
        self._run: set[int] = set()
        self._bytes_outside = bytes_outside
        self.bytes_read = 0
        """Of the files, for layers, so far."""

    @classmethod
    def of(
        cls,
        model: torch.nn.Module,
        stored: Mapping[str, StoredTensor],
        prefix: str,
        dtype: torch.dtype,
        device: torch.device = _CPU,
    ) -> tuple[StreamedLayers, frozenset[str]] | None:
        """Fill in what is in no layer, and find the layers' values. prefix: `base_model_prefix` of the model.

        Returns them with the names of parameters that the files do not hold, which are zero. None where layers lack
        values under names that this finds, or hold something else than floating-point values: such a model must be
        loaded by transformers, which knows how each family's files differ from its modules.
        """
        places: dict[int, list[_Place]] = {}
        modules: dict[int, dict[str, torch.nn.Module]] = {}
        owners = _owners(model)
        outside: list[tuple[_Place | None, str]] = []
        for name, parameter in model.named_parameters():
            found = _stored(name, stored, prefix)
            if found is not None and (found.shape != tuple(parameter.shape) or not is_readable(found)):
                found = None
            layer = _LAYER.search(name)
            owner, _, own = name.rpartition(".")
            place = None if found is None else _Place(model.get_submodule(owner), own, found)
            if layer is None:
                outside.append((place, name))
            elif place is None:
                return None
            else:
                number, own_name = int(layer[1]), name[: layer.end() - 1]
                places.setdefault(number, []).append(place)
                modules.setdefault(number, {})[own_name] = model.get_submodule(own_name)
        if not places:
            return None
        missing = set()
        bytes_outside = 0
        for place, name in outside:
            owner, _, own = name.rpartition(".")
            module = model.get_submodule(owner)
            if place is None:
                missing.add(name)
                values = torch.zeros(module.get_parameter(own).shape, dtype=dtype, device=device)
                bytes_outside += values.nbytes
            else:
                mapped = _mapped(place, dtype) if len(owners[name]) == 1 else None  # a tied one is multiplied with
                values = read_tensor(place.stored, dtype).to(device) if mapped is None else mapped
                bytes_outside += 0 if mapped is not None else values.nbytes
            parameter = torch.nn.Parameter(values, requires_grad=False)
            for owner_module, parameter_name in owners[name]:
                owner_module._parameters[parameter_name] = parameter
        inside = {number: tuple(named.values()) for number, named in modules.items()}
        for any_module in model.modules():
            for buffer_name, buffer in any_module.named_buffers(recurse=False):
                any_module._buffers[buffer_name] = buffer.to(device)
        return cls(places, inside, dtype, device, bytes_outside), frozenset(missing)

    def hold(self, layers: Collection[int]) -> None:
        """Have values in these layers, and in no others."""
        for layer in self._held - set(layers):
            self._drop(layer)
        give_back()  # what passes through layers left on the heap
        for layer in sorted(set(layers) - self._held):
            self._read(layer)
        self._held = set(layers)

    @contextmanager
    def none_held(self) -> Iterator[None]:
        """Inside, only layers that are run have values; afterwards those that were held have them again."""
        held = frozenset(self._held)
        self.hold(())
        try:
            yield
        finally:
            self.hold(held)

    @contextmanager
    def running(self, layer: int) -> Iterator[None]:
        """Inside, the layer has values. May be nested."""
        if layer in self._held | self._run:
            yield
            return
        self._read(layer)
        self._run.add(layer)
        try:
            yield
        finally:
            self._run.discard(layer)
            self._drop(layer)

    @contextmanager
    def reading(self, layers: Iterable[int] | None = None) -> Iterator[None]:
        """Inside, a forward pass reads the values of each of these layers (None: of any) that is not in memory, and
        drops them.
        """
        hooks: list[RemovableHandle] = []
        with ExitStack() as left:  # layers of a pass that broke off
            for layer in self._places if layers is None else layers:
                for module in self._modules[layer]:
                    values = left.enter_context(ExitStack())
                    hooks += _read_around(module, values, partial(self.running, layer))
            try:
                yield
            finally:
                for hook in hooks:
                    hook.remove()

    def bytes_at(self, depth: int) -> int:
        """Memory of a model of which the last `depth` layers are in training: theirs, or before that the largest
        other's, and of what is in no layer, without embeddings that are mapped.
        """
        below, held = sorted(self._places)[: len(self._places) - depth], sorted(self._places)[-depth:]
        return self._bytes_outside + max(self._bytes(held), max((self._bytes([layer]) for layer in below), default=0))

    def _bytes(self, layers: Collection[int]) -> int:
        sizes = [place.owner.get_parameter(place.name).numel() for layer in layers for place in self._places[layer]]
        return sum(sizes) * self._dtype.itemsize

    def _read(self, layer: int) -> None:
        for place in self._places[layer]:
            values = read_tensor(place.stored, self._dtype).to(self._device)
            self.bytes_read += place.stored.size
            place.owner._parameters[place.name] = torch.nn.Parameter(values, requires_grad=False)

    def _drop(self, layer: int) -> None:
        for place in self._places[layer]:
            empty = torch.empty_like(place.owner.get_parameter(place.name), device="meta")
            place.owner._parameters[place.name] = torch.nn.Parameter(empty, requires_grad=False)


def _read_around(
    layer: torch.nn.Module, values: ExitStack, running: Callable[[], AbstractContextManager[None]]
) -> list[RemovableHandle]:
    """Hooks that give a layer its values before it is run, and take them afterwards."""

    def read(*_: object) -> None:
        values.enter_context(running())

    def drop(*_: object) -> None:
        values.close()

    return [layer.register_forward_pre_hook(read), layer.register_forward_hook(drop)]


def _owners(model: torch.nn.Module) -> dict[str, list[tuple[torch.nn.Module, str]]]:
    """Every module that has a parameter, and its name for it, by the parameter's first name."""
    first: dict[int, str] = {}
    found: dict[str, list[tuple[torch.nn.Module, str]]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owner, _, own = name.rpartition(".")
        known = first.setdefault(id(parameter), name)
        found.setdefault(known, []).append((model.get_submodule(owner), own))
    return found


def _stored(name: str, stored: Mapping[str, StoredTensor], prefix: str) -> StoredTensor | None:
    """A parameter's values, under its name, with or without the prefix, or under the name of earlier releases."""
    inner = name.removeprefix(f"{prefix}.")
    for candidate in (name, inner, f"{prefix}.{inner}"):
        for new, old in (("", ""), *_OLD_NAMES):
            spelled = candidate.removesuffix(new) + old if new and candidate.endswith(new) else candidate
            if spelled in stored:
                return stored[spelled]
    return None


def _mapped(place: _Place, dtype: torch.dtype) -> torch.Tensor | None:
    """A large table of embeddings, of which the rows that are looked up are read; None for anything else.

    The parameter is mapped, for its shape and device alone: looking rows up in it would make much more of it resident.
    """
    table = place.owner.get_parameter(place.name)
    if type(place.owner) is not torch.nn.Embedding or table.numel() < _LARGE_VALUES:
        return None
    mapped = mapped_tensor(place.stored)
    if mapped is not None:
        place.owner.forward = lambda input: read_rows(place.stored, input, dtype)  # type: ignore[method-assign]
    return mapped
