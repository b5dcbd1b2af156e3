"""Writing the model of a job that trains all weights: a plain transformers directory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fedhft.adapter import Float32, TensorKey
from fedhft.job import JobSpec
from fedhft.training.base import load_base
from fedhft.training.network import Network


def write_full_model(directory: Path, spec: JobSpec, tensors: Mapping[TensorKey, Float32], base_name: str) -> None:
    """Base model plus differences, with head, label names and tokenizer, as `save_pretrained` writes them.

    Raises FedhftError(INVALID_MODEL) when `base_name` is not the job's base model.
    """
    base = load_base(spec, base_name)
    network = Network.on(base, spec)
    network.load(tensors, network.schema.layers, 0)
    base.model.save_pretrained(str(directory))  # type: ignore[operator]
    base.tokenizer.save_pretrained(str(directory))
