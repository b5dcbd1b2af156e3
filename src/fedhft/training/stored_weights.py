"""Whether the weight files of a base model are whole, by their headers alone: no tensor is read, and no torch imported.

A download or a copy that broke off leaves a file that is shorter than its header says, and the library that loads it
does not name it. Format: https://huggingface.co/docs/safetensors (8 bytes, little-endian, with the length of a JSON
header; the header; the tensors' bytes).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedhft.adapter import Float32
from fedhft.documents import parse_json
from fedhft.errors import ErrorCode, FedhftError
from fedhft.training.digest import weight_files, weight_map

_MOST_HEADER_BYTES = 100_000_000
"""The bound of safetensors itself."""
_METADATA = "__metadata__"
_KINDS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
WRAPPERS = ("_orig_mod.", "module.", "_fsdp_wrapped_module.")
"""Prefixes of names that wrappers leave in saved weights, without which the weights are those of the model."""


@dataclass(frozen=True)
class StoredTensor:
    """Where the values of a tensor lie. dtype: as safetensors names it, e.g. "BF16". offset, size: bytes in `file`."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    size: int


def stored_tensors(path: Path) -> dict[str, StoredTensor]:
    """Every tensor of a model directory, by name. Raises what `stored_values` raises."""
    stored_values(path)
    found = {}
    for file in weight_files(path):
        with file.open("rb") as stream:
            start = 8 + int.from_bytes(stream.read(8), "little")
        for name, tensor in _header(file).items():
            first, last = tensor["data_offsets"]
            found[name] = StoredTensor(
                file, str(tensor.get("dtype")), tuple(tensor["shape"]), start + int(first), int(last) - int(first)
            )
    return found


def stored_values(path: Path) -> int:
    """Number of values in all weight files of a model directory.

    Raises FedhftError(INVALID_MODEL) naming the file that is missing, cut off, or lacks a tensor that the index puts
    there.
    """
    values = 0
    placed = weight_map(path)
    for file in weight_files(path):
        tensors = _header(file)
        values += sum(_size(file, name, tensor) for name, tensor in tensors.items())
        absent = [name for name, where in placed.items() if Path(where).name == file.name and name not in tensors]
        if absent:
            raise _torn(file, f"lacks {absent[0]!r}, which the index puts there")
    return values


def stored_names(path: Path) -> frozenset[str]:
    """Names of all tensors in the weight files of a model directory. Raises FedhftError(INVALID_MODEL)."""
    return frozenset(name for file in weight_files(path) for name in _header(file))


def stored_dtype(path: Path) -> str:
    """The dtype that most values of a model directory have, as safetensors names it, e.g. "BF16"."""
    counts: Counter[str] = Counter()
    for tensor in stored_tensors(path).values():
        counts[tensor.dtype] += math.prod(tensor.shape)
    return counts.most_common(1)[0][0] if counts else ""


def stored_values_of(path: Path, name: str) -> Float32:
    """One tensor of a model directory as float32, whatever prefix a wrapper left before its name.

    Raises FedhftError(INVALID_MODEL) when the files do not hold it as floating-point numbers.
    """
    for file in weight_files(path):
        for stored, tensor in _header(file).items():
            if _unwrapped(stored) == name:
                return _read(file, stored, tensor)
    raise FedhftError(ErrorCode.INVALID_MODEL, f"model {path}: holds no {name}; give the model that the agents used")


def as_float32(data: bytes | bytearray, dtype: str, shape: Sequence[int]) -> Float32 | None:
    """Values as they lie in a file, as float32. dtype: as safetensors names it; None for one that is not of floats."""
    kind = _KINDS.get(dtype)
    if kind is None:
        return None
    values = np.frombuffer(data, kind)
    if kind == "<u2":  # bf16: the upper half of a float32
        values = (values.astype(np.uint32) << 16).view(np.float32)
    with np.errstate(over="ignore"):  # a float64 may be beyond float32
        found: Float32 = values.astype(np.float32).reshape(tuple(shape))
    return found


def _unwrapped(name: str) -> str:
    """A stored name without what wrappers put before it."""
    while (bare := next((name.removeprefix(w) for w in WRAPPERS if name.startswith(w)), name)) != name:
        name = bare
    return name


def _read(file: Path, name: str, tensor: Any) -> Float32:
    begin, end = tensor["data_offsets"]
    try:
        with file.open("rb") as stream:
            start = 8 + int.from_bytes(stream.read(8), "little")
            stream.seek(start + begin)
            data = stream.read(end - begin)
    except OSError as error:
        raise FedhftError(
            ErrorCode.INVALID_MODEL, f"model {file}: cannot be read ({error.strerror}); check permissions and disk"
        ) from error
    values = as_float32(data, tensor.get("dtype"), tensor["shape"])
    if values is None:
        raise _torn(file, f"holds {name!r} as {tensor.get('dtype')!r}, which is not a floating-point number")
    return values


def _header(file: Path) -> dict[str, Any]:
    """The header's entries, by tensor, once the file is known to have as many bytes as they say."""
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > min(size - 8, _MOST_HEADER_BYTES):
                raise _torn(file, f"is cut off inside its header (it has {size} bytes)")
            text = stream.read(length)
    except OSError as error:
        raise FedhftError(
            ErrorCode.INVALID_MODEL, f"model {file}: cannot be read ({error.strerror}); check permissions and disk"
        ) from error
    try:
        header = parse_json(text, "header", ErrorCode.INVALID_MODEL, most_bytes=_MOST_HEADER_BYTES, strict=False)
    except FedhftError as error:
        raise _torn(file, "has a header that is not JSON") from error
    if not isinstance(header, dict):
        raise _torn(file, "has a header that is not an object")
    tensors = {name: tensor for name, tensor in header.items() if name != _METADATA}
    end = 8 + length + max((_end(file, name, tensor) for name, tensor in tensors.items()), default=0)
    if size != end:
        raise _torn(file, f"has {size} bytes, but its header describes {end}")
    return tensors


def _end(file: Path, name: str, tensor: Any) -> int:
    offsets = tensor.get("data_offsets") if isinstance(tensor, dict) else None
    if isinstance(offsets, list) and len(offsets) == 2 and all(type(offset) is int for offset in offsets):
        return int(offsets[1])
    raise _torn(file, f"does not say where {name!r} is")


def _size(file: Path, name: str, tensor: Any) -> int:
    shape = tensor.get("shape")
    if isinstance(shape, list) and all(type(length) is int and length >= 0 for length in shape):
        return math.prod(shape)
    raise _torn(file, f"does not say what shape {name!r} has")


def _torn(file: Path, problem: str) -> FedhftError:
    return FedhftError(ErrorCode.INVALID_MODEL, f"model {file}: {problem}; download or copy the model again")
