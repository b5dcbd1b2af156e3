"""An adapter's values, wherever they come from: a PEFT directory, or a version of a job; and a job that starts there.

    factors     dA = A^T - A_start,  dB = B times its alpha / r over the new job's
    products    LEFT = (alpha / r) B,  RIGHT = A^T
    head        dh = h - h_start

A job begins as differences from its own starting point, which its seed says; so the same adapter becomes other
differences in every job, and the same logits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, deserialize

from fedhft.adapter import SHARED, AdapterSchema, Float32, Part, TensorKey, cluster_scope
from fedhft.aggregation.versions import whole
from fedhft.documents import parse_json
from fedhft.errors import ErrorCode, FedhftError
from fedhft.export.description import FILE, read_description
from fedhft.export.peft_directory import CONFIG_FILE, WEIGHTS_FILE, LoraPair, head_values, kept_head, lora_pair
from fedhft.export.published import PublishedAdapters
from fedhft.job import JobSpec
from fedhft.methods import Combine
from fedhft.training.stored_weights import as_float32
from fedhft.v1 import adapter_pb2
from fedhft.wire.codec import encode

FIELD = "adapter.from"
_PREFIX = "base_model.model."
_MOST_CONFIG_BYTES = 1 << 20
_SIDES = {".lora_A.weight": "a", ".lora_B.weight": "b"}
_SHOWN = 3


@dataclass(frozen=True, eq=False)
class AdapterValues:
    """source: what messages call it. pairs: by slot. head: parameters of the task head by name. labels: of the head,
    where they are known.
    """

    source: str
    pairs: Mapping[str, LoraPair]
    head: Mapping[str, Float32]
    base_digest: str = ""
    """Of the base model, where it is known."""
    labels: tuple[str, ...] | None = None


def read_adapter(directory: Path) -> AdapterValues:
    """The adapter in a PEFT directory. Raises FedhftError(INVALID_ARGUMENT) naming what is wrong with it."""
    config = _config(directory)
    if config.get("peft_type") != "LORA" or config.get("use_dora") or config.get("bias", "none") != "none":
        kind = config.get("peft_type"), "with DoRA" if config.get("use_dora") else f"bias = {config.get('bias')!r}"
        raise _refused(str(directory), f"is not a plain LoRA adapter ({kind[0]}, {kind[1]})", "give a LoRA adapter")
    sides: dict[str, dict[str, Float32]] = {}
    head: dict[str, Float32] = {}
    for name, array in _stored(directory):
        bare = name.removeprefix(_PREFIX)
        side = next((end for end in _SIDES if bare.endswith(end)), None)
        if side is None:
            head[bare.replace(".modules_to_save.default.", ".").replace(".modules_to_save.", ".")] = array
        else:
            sides.setdefault(bare.removesuffix(side), {})[_SIDES[side]] = array
    pairs = {}
    for slot, found in sides.items():
        a, b = found.get("a"), found.get("b")
        if a is None or b is None or a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1] or not a.shape[0]:
            raise _refused(str(directory), f"{slot} does not have two factors that fit", "export the adapter again")
        pairs[slot] = LoraPair(a, b, _alpha_of(directory, config, slot, a.shape[0]))
    if not pairs:
        raise _refused(str(directory), f"{WEIGHTS_FILE} holds no LoRA factors", "give a LoRA adapter")
    digest, labels = _described(directory)
    return AdapterValues(str(directory), pairs, head, digest, labels)


def published_values(adapters: PublishedAdapters, source: str, base_path: str) -> AdapterValues:
    """The adapter of a version of a job. base_path: where its base model is; needed where the job kept a head.

    Raises FedhftError(INVALID_ARGUMENT) where the version has several clusters, or is of a whole model.
    """
    spec, schema, state = adapters.spec, adapters.schema, adapters.state
    if state.clusters > 1:
        raise _refused(
            source, f"has {state.clusters} clusters", "write them with `fedhft job export` and give the folder of one"
        )
    if not schema.slots:
        raise _refused(source, "trained all weights and has no adapter", "give its export as the base model instead")
    tensors = {**state.scope(SHARED), **state.scope(cluster_scope(0))}
    pairs = {slot.name: lora_pair(slot, spec, schema, tensors) for slot in schema.slots}
    head = head_values(spec, schema, tensors, kept_head(spec, schema, base_path))
    return AdapterValues(source, pairs, head, schema.base_digest, schema.labels)


def starting_tensors(
    spec: JobSpec, schema: AdapterSchema, values: AdapterValues, kept: Mapping[str, Float32]
) -> tuple[dict[TensorKey, Float32], str]:
    """The differences with which a job begins as an adapter, and what was left out of it, as words.

    kept: as `kept_head` returns it. A head that is for other labels or shapes is left out, and begins anew.
    Raises FedhftError(INVALID_ARGUMENT) naming the field of the job that does not fit the adapter.
    """
    _check(spec, schema, values)
    tensors: dict[TensorKey, Float32] = {}
    for slot in schema.slots:
        pair = values.pairs[slot.name]
        if spec.method.combine is Combine.PRODUCTS:
            scale = np.float32(pair.alpha / pair.rank)
            tensors[TensorKey(slot.name, Part.LEFT)] = np.ascontiguousarray(scale * pair.b)
            tensors[TensorKey(slot.name, Part.RIGHT)] = np.ascontiguousarray(pair.a.T)
            continue
        a_key = TensorKey(slot.name, Part.A)
        scale = np.float32((pair.alpha / pair.rank) / (spec.adapter.alpha_of(slot.rank) / slot.rank))
        tensors[a_key] = np.ascontiguousarray(pair.a.T) - schema.start_of(spec.seed, a_key)
        tensors[TensorKey(slot.name, Part.B)] = np.ascontiguousarray(scale * pair.b)
    shapes = {parameter.name: parameter.shape for parameter in schema.head}
    if not shapes:
        return tensors, ""
    found = {name: values.head[name].shape for name in shapes if name in values.head}
    if found != shapes or values.labels not in (None, schema.labels):
        return tensors, "its head is for another task, so the job's head begins anew"
    for parameter in schema.head:
        key = TensorKey(parameter.name, Part.HEAD)
        start = kept.get(parameter.name, schema.start_of(spec.seed, key)).reshape(schema.shape(key))
        tensors[key] = values.head[parameter.name].reshape(schema.shape(key)) - start
    return tensors, ""


def starting_blobs(spec: JobSpec, schema: AdapterSchema, tensors: Mapping[TensorKey, Float32]) -> list[bytes]:
    """Version 0 as it is submitted: a snapshot for each scope that has values."""
    scopes: dict[str, dict[TensorKey, Float32]] = {}
    for key, matrix in tensors.items():
        shared = spec.method.share_a and key.part is Part.A
        scopes.setdefault(SHARED if shared else cluster_scope(0), {})[key] = matrix
    return [
        encode(whole(own), schema, kind=adapter_pb2.BLOB_KIND_SNAPSHOT, encoding="fp32", scope=scope, version=0)
        for scope, own in sorted(scopes.items())
    ]


def start_of_job(
    spec: JobSpec, schema: AdapterSchema, values: AdapterValues, base_path: str
) -> tuple[list[bytes], str]:
    """`starting_blobs` of `starting_tensors`, and what was left out. base_path: needed where the job keeps a head."""
    tensors, left_out = starting_tensors(spec, schema, values, kept_head(spec, schema, base_path))
    return starting_blobs(spec, schema, tensors), left_out


def _check(spec: JobSpec, schema: AdapterSchema, values: AdapterValues) -> None:
    if not schema.slots or not spec.method.combine.makes_one_model:
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, FIELD, values.source, f"method {spec.method.preset} shares no whole adapter",
            "use a method that does, or begin without",
        )  # fmt: skip
    if values.base_digest and values.base_digest != schema.base_digest:
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, "model.name", spec.model.name,
            f"its digest is {schema.base_digest[:12]}, the adapter of {values.source} was trained on "
            f"{values.base_digest[:12]}", "use the base model of the adapter",
        )  # fmt: skip
    wanted = {slot.name for slot in schema.slots}
    lacking, beyond = sorted(wanted - set(values.pairs)), sorted(set(values.pairs) - wanted)
    if lacking or beyond:
        has = f"also adapts {_some(beyond)}" if beyond else f"does not adapt {_some(lacking)}"
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, "adapter.targets", spec.adapter.targets_line,
            f"the adapter of {values.source} {has}", "set targets and depth as that adapter has them",
        )  # fmt: skip
    for slot in schema.slots:
        pair = values.pairs[slot.name]
        if spec.method.combine is not Combine.PRODUCTS and pair.rank != slot.rank:
            field = "adapter.rank" if spec.adapter.ranks == "uniform" else "adapter.ranks"
            raise FedhftError.field(
                ErrorCode.INVALID_ARGUMENT, field, slot.rank,
                f"the adapter of {values.source} has rank {pair.rank} at {slot.name}", f"set it to {pair.rank}",
            )  # fmt: skip
        shape = (pair.b.shape[0], pair.a.shape[1])
        if shape != (slot.out_features, slot.in_features):
            raise FedhftError.field(
                ErrorCode.INVALID_ARGUMENT, "model.name", spec.model.name,
                f"{slot.name} is {slot.out_features} x {slot.in_features}, in {values.source} it is "
                f"{shape[0]} x {shape[1]}", "use the base model of the adapter",
            )  # fmt: skip


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _config(directory: Path) -> dict[str, Any]:
    path = directory / CONFIG_FILE
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _refused(
            str(directory),
            f"{CONFIG_FILE} cannot be read: {error}",
            "give the folder of a PEFT adapter, or JOB@VERSION",
        ) from error
    config = parse_json(text, str(path), ErrorCode.INVALID_ARGUMENT, most_bytes=_MOST_CONFIG_BYTES)
    if not isinstance(config, dict):
        raise _refused(str(directory), f"{CONFIG_FILE} is not an object", "give the folder of a PEFT adapter")
    return config


def _stored(directory: Path) -> Iterator[tuple[str, Float32]]:
    """The tensors of the weight file, by name. bf16 is read too, which safetensors' own numpy reader does not."""
    try:
        tensors = deserialize((directory / WEIGHTS_FILE).read_bytes())  # type: ignore[no-untyped-call]
    except (OSError, SafetensorError) as error:
        raise _refused(str(directory), f"{WEIGHTS_FILE} cannot be read: {error}", "export the adapter again") from error
    for name, tensor in tensors:
        values = as_float32(tensor["data"], tensor["dtype"], tensor["shape"])
        if values is None:
            raise _refused(str(directory), f"{name} is {tensor['dtype']}, not floating-point", "give a LoRA adapter")
        if not np.isfinite(values).all():
            raise _refused(str(directory), f"{name} has values that are not finite", "export the adapter again")
        yield name, values


def _alpha_of(directory: Path, config: Mapping[str, Any], slot: str, rank: int) -> float:
    """alpha for which alpha / rank is the scale that PEFT uses."""
    patterns = config.get("alpha_pattern") or {}
    if not isinstance(patterns, dict):
        raise _refused(str(directory), f"{CONFIG_FILE}: alpha_pattern is not an object", "give a LoRA adapter")
    alpha = patterns.get(slot, config.get("lora_alpha", rank))
    if isinstance(alpha, bool) or not isinstance(alpha, int | float):
        raise _refused(str(directory), f"{CONFIG_FILE}: the alpha of {slot} is not a number", "give a LoRA adapter")
    return float(alpha) * math.sqrt(rank) if config.get("use_rslora") else float(alpha)


def _described(directory: Path) -> tuple[str, tuple[str, ...] | None]:
    """Digest of the base and labels, where the directory is one that we wrote."""
    if not (directory / FILE).is_file():
        return "", None
    told = read_description(directory)
    return told.base.digest, tuple(told.task.labels)


def _refused(source: str, problem: str, fix: str) -> FedhftError:
    return FedhftError.field(ErrorCode.INVALID_ARGUMENT, FIELD, source, problem, fix)
