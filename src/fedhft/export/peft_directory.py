"""PEFT directories: a federation's result, which `PeftModel.from_pretrained` loads without fedhft.

Written with numpy and safetensors alone, so that a server or a laptop without torch can export. Forms:

    factors    lora_A = (A_start + dA)^T,  lora_B = dB                                     rank r, alpha as in the job
    products   lora_B lora_A = U S V^T of LEFT RIGHT^T + PRODUCT, which includes alpha/r     rank k per slot, alpha = k

The head goes into `modules_to_save`. A `full` job has no adapter: see `training.full_model`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import save_file

from fedhft.adapter import AdapterSchema, Float32, Float64, Part, Slot, TensorKey
from fedhft.errors import ErrorCode, FedhftError
from fedhft.job import JobSpec
from fedhft.methods import Combine
from fedhft.paths import expanded
from fedhft.training.stored_weights import stored_values_of
from fedhft.training.tasks import task_of

WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"

_PREFIX = "base_model.model."
_NEGLIGIBLE = 1e-7
"""Singular values below this share of the largest are rounding errors of float32."""


class LoraPair(NamedTuple):
    """One slot as PEFT stores it: a (rank x in), b (out x rank), scaled by alpha / rank."""

    a: Float32
    b: Float32
    alpha: float

    @property
    def rank(self) -> int:
        """Inner dimension."""
        return int(self.a.shape[0])


@contextmanager
def writing(directory: Path) -> Iterator[None]:
    """Make `directory` and write into it. Raises FedhftError(INVALID_ARGUMENT) when that cannot be."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, "out", str(directory), f"cannot be written: {error.strerror or error}",
            "give a folder that can be created",
        ) from error  # fmt: skip


def write_adapter(
    directory: Path,
    spec: JobSpec,
    schema: AdapterSchema,
    tensors: Mapping[TensorKey, Float32],
    base_name: str,
    base_path: str = "",
) -> None:
    """Write one view of a job (a cluster, a client's mixture) as a PEFT directory.

    tensors: differences from the job's start, as `aggregation.mixture.mix` returns them. base_name: hub id or path by
    which loaders find the base model. base_path: where it is here, if not under that name.
    Raises FedhftError(INVALID_ARGUMENT) when `directory` cannot be written.
    """
    with writing(directory):
        pairs = {slot.name: lora_pair(slot, spec, schema, tensors) for slot in schema.slots}
        head = head_values(spec, schema, tensors, kept_head(spec, schema, base_path or base_name))
        save_file(_named(pairs, head), str(directory / WEIGHTS_FILE), metadata={"format": "pt"})
        config = adapter_config(spec, pairs, modules_to_save(schema), base_name)
        (directory / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def lora_pair(slot: Slot, spec: JobSpec, schema: AdapterSchema, tensors: Mapping[TensorKey, Float32]) -> LoraPair:
    """A slot's adapter. Products are decomposed to their numerical rank in float32, at least 1."""
    if spec.method.combine is Combine.PRODUCTS:
        return _decomposed(slot, tensors)
    a_key, b_key = TensorKey(slot.name, Part.A), TensorKey(slot.name, Part.B)
    a = schema.start_of(spec.seed, a_key)
    if a_key in tensors:
        a = a + tensors[a_key]
    b = tensors.get(b_key, np.zeros((slot.out_features, slot.rank), np.float32))
    return LoraPair(np.ascontiguousarray(a.T), b, spec.adapter.alpha_of(slot.rank))


def kept_head(spec: JobSpec, schema: AdapterSchema, base_path: str) -> dict[str, Float32]:
    """What a head that was kept started from, by name, out of the base model's files; empty for one that was drawn.

    Raises FedhftError(INVALID_MODEL) when the base model is not a folder here, or holds no such head.
    """
    if spec.task.head != "keep":
        return {}
    folder = expanded(base_path)
    if not folder.is_dir():
        raise FedhftError(
            ErrorCode.INVALID_MODEL,
            f"model {base_path}: not a folder here, but the job kept the head that it holds; give it with --base-path",
        )
    return {parameter.name: stored_values_of(folder, parameter.name) for parameter in schema.head}


def head_values(
    spec: JobSpec, schema: AdapterSchema, tensors: Mapping[TensorKey, Float32], kept: Mapping[str, Float32]
) -> dict[str, Float32]:
    """Parameters of the task head by name, in the model's own shapes. kept: as `kept_head` returns it."""
    values: dict[str, Float32] = {}
    for parameter in schema.head:
        key = TensorKey(parameter.name, Part.HEAD)
        value = schema.start_of(spec.seed, key)
        if parameter.name in kept:
            value = kept[parameter.name].reshape(schema.shape(key))
        if key in tensors:
            value = value + tensors[key]
        values[parameter.name] = value.reshape(parameter.shape)
    return values


def modules_to_save(schema: AdapterSchema) -> list[str]:
    """Modules that hold the head: outermost ones beside the base network, the owners of single parameters inside it."""
    inside = {slot.name.split(".", 1)[0] for slot in schema.slots}
    modules: dict[str, None] = {}
    for parameter in schema.head:
        first, _, _ = parameter.name.partition(".")
        modules[parameter.name.rpartition(".")[0] if first in inside else first] = None
    return list(modules)


def adapter_config(spec: JobSpec, pairs: Mapping[str, LoraPair], modules: list[str], base_name: str) -> dict[str, Any]:
    """adapter_config.json. Slots are named in full, because a view need not hold every layer; ranks that differ go
    into patterns.
    """
    rank = max((pair.rank for pair in pairs.values()), default=spec.adapter.rank)
    products = spec.method.combine is Combine.PRODUCTS
    alpha = float(rank) if products else spec.adapter.alpha_of(rank)
    return {
        "peft_type": "LORA",
        "task_type": task_of(spec.task).peft_task_type,
        "base_model_name_or_path": base_name,
        "revision": spec.model.revision,
        "inference_mode": True,
        "bias": "none",
        "lora_dropout": 0.0,
        "r": rank,
        "lora_alpha": _number(alpha),
        "target_modules": list(pairs),
        "rank_pattern": {name: pair.rank for name, pair in pairs.items() if pair.rank != rank},
        "alpha_pattern": {name: _number(pair.alpha) for name, pair in pairs.items() if pair.alpha != alpha},
        "modules_to_save": modules,
    }


def _decomposed(slot: Slot, tensors: Mapping[TensorKey, Float32]) -> LoraPair:
    left, right, dense = (tensors.get(TensorKey(slot.name, part)) for part in (Part.LEFT, Part.RIGHT, Part.PRODUCT))
    if dense is None and left is not None and right is not None:
        # SVD of a product of thin factors through their QR decompositions; the (out x in) matrix is never formed.
        left_q, left_r = np.linalg.qr(left.astype(np.float64))
        right_q, right_r = np.linalg.qr(right.astype(np.float64))
        u, s, vt = np.linalg.svd(left_r @ right_r.T)
        u, vt = left_q @ u[:, : len(s)], vt[: len(s)] @ right_q.T
    else:
        product: Float64 = np.zeros((slot.out_features, slot.in_features))
        if left is not None and right is not None:
            product += left.astype(np.float64) @ right.astype(np.float64).T
        if dense is not None:
            product += dense
        u, s, vt = np.linalg.svd(product, full_matrices=False)
    rank = max(1, int(np.count_nonzero(s > _NEGLIGIBLE * s[0]))) if len(s) else 1
    root = np.sqrt(s[:rank])
    b = np.ascontiguousarray(u[:, :rank] * root, np.float32)
    return LoraPair(np.ascontiguousarray(root[:, None] * vt[:rank], np.float32), b, float(rank))


def _named(pairs: Mapping[str, LoraPair], head: Mapping[str, Float32]) -> dict[str, Float32]:
    named = {_PREFIX + name: np.ascontiguousarray(value) for name, value in head.items()}
    for name, pair in pairs.items():
        named[f"{_PREFIX}{name}.lora_A.weight"] = np.ascontiguousarray(pair.a)
        named[f"{_PREFIX}{name}.lora_B.weight"] = np.ascontiguousarray(pair.b)
    return named


def _number(value: float) -> int | float:
    return int(value) if value == int(value) else value
