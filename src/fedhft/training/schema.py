"""What a job trains on a given base model: slots, head and weights, by name and shape."""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch
from transformers.pytorch_utils import Conv1D

from fedhft.adapter import AdapterSchema, Parameter, Slot
from fedhft.errors import ErrorCode, FedhftError
from fedhft.job import JobSpec
from fedhft.training.base import LoadedBase
from fedhft.training.targets import chosen

_LAYER = re.compile(r"\.(\d+)\.")


def build_schema(base: LoadedBase, spec: JobSpec) -> AdapterSchema:
    """The schema of `spec` on `base`, to which no adapters are attached yet.

    Slots (LoRA targets) are the linear modules that adapter.targets chooses (see `targets`), in the adapter.depth
    layers nearest the output. The task determines the head.
    Raises FedhftError(INVALID_MODEL) when no module matches a target, or the model has no head for the task.
    """
    model = base.model
    parameters = {name: Parameter(name, tuple(tensor.shape)) for name, tensor in model.named_parameters()}
    head = tuple(parameters.pop(name) for name in base.task.head(model, base.new_parameters))
    layers = _layers(model)
    uses_adapters = spec.method.uses_adapters
    return AdapterSchema(
        base_digest=base.digest,
        tokenizer_digest=base.tokenizer_digest,
        architecture=type(model).__name__,
        labels=spec.task.labels,
        layers=layers,
        slots=tuple(_slots(model, spec, layers)) if uses_adapters else (),
        head=head,
        weights=() if uses_adapters else tuple(parameters.values()),
    )


def _slots(model: torch.nn.Module, spec: JobSpec, layers: int) -> Iterator[Slot]:
    linear = {
        name: (int(layer[1]), *shape)
        for name, module in model.named_modules()
        if (shape := _features(module)) is not None and (layer := _LAYER.search(name)) is not None
    }
    try:
        ranks = spec.adapter.ranks_of(layers)
    except ValueError as error:
        raise FedhftError(ErrorCode.INVALID_MODEL, str(error)) from error
    lowest = max(0, layers - spec.adapter.depth) if spec.adapter.depth else 0
    for name in chosen(spec.adapter.targets, str(getattr(model.config, "model_type", "")), tuple(linear)):
        number, in_features, out_features = linear[name]
        if number >= lowest:
            yield Slot(name, number, in_features, out_features, ranks[number])


def _features(module: torch.nn.Module) -> tuple[int, int] | None:
    """(in, out) of a linear module; GPT-2's Conv1D holds its weight as (in x out)."""
    if isinstance(module, torch.nn.Linear):
        return module.in_features, module.out_features
    if isinstance(module, Conv1D):
        return int(module.weight.shape[0]), int(module.weight.shape[1])
    return None


def _layers(model: torch.nn.Module) -> int:
    indices = [int(match[1]) for name, _ in model.named_parameters() if (match := _LAYER.search(name))]
    if not indices:
        raise FedhftError(
            ErrorCode.INVALID_MODEL,
            f"{type(model).__name__}: no numbered layers found; fedhft trains transformers with a stack of layers",
        )
    return max(indices) + 1
