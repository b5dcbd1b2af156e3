"""Digests of a base model and of its tokenizer, computed from their files only (no torch).

Two agents may train together only when both digests agree: the base digest covers every weight and the keys of the
configuration that shape the network, the tokenizer digest covers how text becomes numbers. Keys that say nothing
about the network (the library's version, label names, paths) are left out, so that a copy saved by another release
still matches.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from fedhft.documents import read_json
from fedhft.errors import ErrorCode, FedhftError

WEIGHTS = "model.safetensors"
WEIGHT_INDEX = "model.safetensors.index.json"

_NOT_ARCHITECTURE = frozenset(
    {
        "_attn_implementation_autoset", "_commit_hash", "_name_or_path", "architectures",
        "attn_implementation", "dtype", "finetuning_task", "gradient_checkpointing", "id2label", "label2id",
        "name_or_path", "num_labels", "output_attentions", "output_hidden_states", "problem_type",
        "return_dict", "task_specific_params", "torch_dtype", "torchscript", "transformers_version",
        "use_cache",
    }
)  # fmt: skip

_TOKENIZER_FILES = (
    ("tokenizer.json",),
    ("vocab.txt",),
    ("vocab.json", "merges.txt"),
    ("spiece.model",),
    ("sentencepiece.bpe.model",),
    ("tokenizer.model",),
)
"""Alternatives, best first: the digest covers the first whose files all exist."""

_BLOCK = 1 << 20
_MOST_CONFIG_BYTES = 16 << 20


def base_digest(path: Path) -> str:
    """SHA-256, hex, over the sorted (name, SHA-256) of the weight files and the architecture keys of config.json.

    Raises FedhftError(INVALID_MODEL) when `path` is not a model directory.
    """
    config = read_config(path)
    architecture = {key: value for key, value in config.items() if key not in _NOT_ARCHITECTURE}
    files = sorted((file.name, _file_digest(file)) for file in weight_files(path))
    text = json.dumps({"architecture": architecture, "weights": files}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def tokenizer_digest(path: Path) -> str:
    """SHA-256, hex, over the tokenizer's vocabulary files. Raises FedhftError(INVALID_MODEL) when there are none."""
    for names in _TOKENIZER_FILES:
        files = [path / name for name in names]
        if all(file.is_file() for file in files):
            text = json.dumps(sorted((file.name, _file_digest(file)) for file in files), separators=(",", ":"))
            return hashlib.sha256(text.encode()).hexdigest()
    raise FedhftError(
        ErrorCode.INVALID_MODEL,
        f"model {path}: no tokenizer files (tokenizer.json, vocab.txt, ...); save the tokenizer beside the model",
    )


def read_config(path: Path) -> dict[str, Any]:
    """config.json of a model directory. Raises FedhftError(INVALID_MODEL)."""
    file = path / "config.json"
    if not file.is_file():
        raise FedhftError(
            ErrorCode.INVALID_MODEL,
            f"model {path}: is not a model directory (no config.json); "
            "give a folder written by save_pretrained, or a hub id",
        )
    config = read_json(file, f"model {file}", ErrorCode.INVALID_MODEL, most_bytes=_MOST_CONFIG_BYTES, strict=False)
    if not isinstance(config, dict) or "model_type" not in config:
        raise FedhftError(
            ErrorCode.INVALID_MODEL, f"model {file}: does not name a model_type; give a Hugging Face transformers model"
        )
    return config


def weight_map(path: Path) -> dict[str, str]:
    """Name of each tensor's file in a model directory with an index; empty for one without.

    Raises FedhftError(INVALID_MODEL) for an index that is none.
    """
    index = path / WEIGHT_INDEX
    if not index.is_file():
        return {}
    raw = read_json(index, f"model {index}", ErrorCode.INVALID_MODEL, most_bytes=_MOST_CONFIG_BYTES, strict=False)
    listed = raw.get("weight_map") if isinstance(raw, dict) else None
    if not isinstance(listed, dict) or not listed or not all(isinstance(name, str) for name in listed.values()):
        raise FedhftError(
            ErrorCode.INVALID_MODEL, f"model {index}: has no weight_map of file names; save the model again"
        )
    return listed


def weight_files(path: Path) -> list[Path]:
    """The safetensors files of a model directory. Raises FedhftError(INVALID_MODEL) when there are none."""
    names = sorted(set(weight_map(path).values())) or [WEIGHTS]
    files = [path / Path(name).name for name in names]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise FedhftError(
            ErrorCode.INVALID_MODEL,
            f"model {path}: weights missing ({', '.join(missing)}); only safetensors are read, "
            "so convert other formats with save_pretrained(safe_serialization=True)",
        )
    return files


def _file_digest(file: Path) -> str:
    digest = hashlib.sha256()
    try:
        with file.open("rb") as stream:
            while block := stream.read(_BLOCK):
                digest.update(block)
    except OSError as error:
        raise FedhftError(ErrorCode.INVALID_MODEL, f"model {file}: cannot be read: {error.strerror}") from error
    return digest.hexdigest()
