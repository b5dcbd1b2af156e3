"""Models in other formats, written as agents read them: safetensors, config and tokenizer in a folder.

GGUF files (llama.cpp's; quantised weights become plain ones again) through transformers and the `gguf` package; folders
whose weights are pickled (pytorch_model.bin), which torch reads without running what a pickle may hold.
"""

from __future__ import annotations

import importlib.util
import struct
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from fedhft.errors import ErrorCode, FedhftError
from fedhft.training.exported_model import LOADING_FAILURES, quiet

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def convert(source: Path, out: Path, dtype: str = "float32") -> int:
    """Write the model of a GGUF file, or of a folder, into the folder `out`; returns its number of values.

    Written again, it is compared with what was read. Raises FedhftError: INVALID_MODEL when the source cannot be read,
    or comes back otherwise; INVALID_ARGUMENT for an `out` that holds something or cannot be written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, "--out", str(out), "is there already", "name a new folder, or an empty one"
        )
    model, tokenizer = _read(source)
    plain = type(model)(_plain_config(model.config)).to(DTYPES[dtype])
    values = {name: tensor.to(DTYPES[dtype]) for name, tensor in model.state_dict().items()}
    plain.load_state_dict(values)
    plain.tie_weights()
    try:
        with quiet():
            plain.save_pretrained(str(out))
            tokenizer.save_pretrained(str(out))
            again = type(model).from_pretrained(str(out), dtype=DTYPES[dtype])
    except OSError as error:
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, "--out", str(out), f"cannot be written: {error.strerror or error}",
            "name a folder that can be made",
        ) from error  # fmt: skip
    differing = [name for name, tensor in again.state_dict().items() if not torch.equal(tensor, values[name])]
    if differing:
        raise FedhftError(ErrorCode.INVALID_MODEL, f"model {source}: {differing[0]} came back with other values")
    return sum(parameter.numel() for parameter in plain.parameters())


def _read(source: Path) -> tuple[Any, Any]:
    if source.suffix == ".gguf" and source.is_file():
        if importlib.util.find_spec("gguf") is None:
            raise FedhftError(
                ErrorCode.INVALID_MODEL,
                f"model {source}: GGUF files need the package gguf; pip install fedhft[convert]",
            )
        folder, arguments = source.parent, {"gguf_file": source.name}
    elif source.is_dir():
        folder, arguments = source, {}
    else:
        raise FedhftError.field(
            ErrorCode.INVALID_MODEL, "source", str(source), "is neither a .gguf file nor a folder",
            "name a file or folder that is there",
        )  # fmt: skip
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, **arguments)
            kind = AutoModelForCausalLM if arguments else _kind(folder)
            model, info = kind.from_pretrained(
                str(folder), local_files_only=True, dtype=torch.float32, output_loading_info=True, **arguments
            )
    except (*LOADING_FAILURES, EOFError, AssertionError, LookupError, struct.error) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise FedhftError(ErrorCode.INVALID_MODEL, f"model {source}: cannot be read: {reason}") from error
    missing = sorted({*info["missing_keys"], *(str(one) for one in info["mismatched_keys"])})
    if missing:
        raise FedhftError(
            ErrorCode.INVALID_MODEL,
            f"model {source}: lacks {missing[0]} and {len(missing) - 1} more weights of a {type(model).__name__}",
        )
    return model, tokenizer


def _kind(folder: Path) -> Any:
    """The class that the folder's config names."""
    named = AutoConfig.from_pretrained(str(folder), local_files_only=True).architectures or []
    return next((kind for name in named if (kind := getattr(transformers, name, None))), transformers.AutoModel)


def _plain_config(config: Any) -> Any:
    """The configuration without the mark of a quantised file: its weights are plain numbers now."""
    values = {name: value for name, value in config.to_dict().items() if name != "quantization_config"}
    return type(config).from_dict(values)
