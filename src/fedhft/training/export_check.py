"""Whether an exported directory answers as what was trained: loaded with plain transformers and PEFT, and compared.

A PEFT directory whose names do not match its base loads without an error, as the bare base model. So an export is not
believed, it is tried: the job's own network, with the exported values in it, and the directory as its user would load
it are given the same rows, and their logits must agree. Torch is imported inside.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedhft import seeds
from fedhft.adapter import AdapterSchema, Float32, TensorKey
from fedhft.errors import ErrorCode, FedhftError
from fedhft.job import JobSpec

if TYPE_CHECKING:
    import torch

    from fedhft.training.base import LoadedBase
    from fedhft.training.batches import EncodedRows

ROWS = 16
"""Rows that both models are given, of 2 to LONGEST tokens drawn from the vocabulary."""
LONGEST = 32
TOLERANCE = 1e-4
"""Largest difference of a logit, in units of the largest logit (at least 1): float32 in another order of summing. A
layer that is missing, or at another scale, shows in the first digits."""


@dataclass(frozen=True)
class Checked:
    """An export that was compared. difference: the largest of a logit, in units of the largest (at least 1)."""

    rows: int
    difference: float


def missing_to_check() -> str:
    """Packages without which nothing can be checked here, as words; empty when all are there."""
    wanted = ("torch", "transformers", "peft")
    return ", ".join(name for name in wanted if importlib.util.find_spec(name) is None)


class ExportCheck:
    """The job's own network, beside which exported directories are held. Needs room for two copies of the model."""

    def __init__(self, spec: JobSpec, schema: AdapterSchema, base_name: str) -> None:
        """base_name: where the base model is. Raises FedhftError(INVALID_MODEL) when it is not there."""
        from fedhft.training.base import load_base

        # Values are compared, not the precision in which they were trained.
        spec = spec.model_copy(update={"training": spec.training.model_copy(update={"precision": "fp32"})})
        self._spec = spec
        self._schema = schema
        self._base_name = base_name
        self._base = load_base(spec, base_name)
        if self._base.digest != schema.base_digest:
            raise FedhftError(
                ErrorCode.SCHEMA_MISMATCH,
                f"model {self._base.path}: its digest is {self._base.digest}, but the job was trained on "
                f"{schema.base_digest}; give the model that the agents used with --base-model",
            )
        self._rows = _rows(self._base, spec)

    def compare(self, directory: Path, tensors: Mapping[TensorKey, Float32], *, whole: bool) -> Checked:
        """Compare a directory with what it was written from.

        tensors: differences from the job's start, as for `write_adapter`. whole: whether it holds a whole model.
        Raises FedhftError(EXPORT_DIFFERS) when they answer differently or the directory does not load.
        """
        from fedhft.training.exported_model import LOADING_FAILURES, logits_of
        from fedhft.training.network import Network

        network = Network.on(self._base, self._spec)
        network.load(tensors, self._schema.layers, 0)
        wanted = _logits(self._rows, lambda index: network.forward(self._rows, index))
        try:
            model = self.loaded(directory, whole=whole)
            found = _logits(self._rows, lambda index: logits_of(model, self._rows, index))
        except LOADING_FAILURES as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise FedhftError(
                ErrorCode.EXPORT_DIFFERS, f"export {directory}: plain transformers and PEFT cannot load it: {reason}"
            ) from error
        difference = _difference(wanted, found)
        if not difference <= TOLERANCE:
            raise FedhftError(
                ErrorCode.EXPORT_DIFFERS,
                f"export {directory}: loaded with plain transformers and PEFT, its logits differ from what was trained "
                f"by {difference:.2g} of the largest (at most {TOLERANCE:g} is rounding); do not use it, and report "
                "this with the versions of transformers and peft",
            )
        return Checked(ROWS, difference)

    def loaded(self, directory: Path, *, whole: bool) -> Any:
        """The directory's model as the card's program loads it."""
        from fedhft.training.exported_model import load_exported

        base = None if whole else self._base.path
        return load_exported(directory, self._base.task, base, int(self._base.tokenizer.pad_token_id))

    def write_tokenizer(self, directory: Path) -> None:
        """Write the job's tokenizer beside an adapter. Raises OSError."""
        self._base.tokenizer.save_pretrained(str(directory))

    def merge(self, directory: Path, out: Path) -> None:
        """Write the adapter in `directory` and its base as one model into `out`: labels, tokenizer and all.

        Raises OSError.
        """
        model = self.loaded(directory, whole=False).merge_and_unload()
        self._base.task.configure(model.config)
        model.save_pretrained(str(out))
        self.write_tokenizer(out)


def _rows(base: LoadedBase, spec: JobSpec) -> EncodedRows:
    """Rows of ordinary tokens: no special one, above all none that pads, because decoders find a row's end by it."""
    from fedhft.training.batches import EncodedRows
    from fedhft.training.tasks.interface import Tokens

    special = set(base.tokenizer.all_special_ids)
    vocabulary = min(len(base.tokenizer), int(base.model.config.vocab_size))  # type: ignore[union-attr, arg-type]
    ordinary = np.array([token for token in range(vocabulary) if token not in special] or [0], np.int32)
    longest = min(LONGEST, spec.model.max_length)
    rows = []
    for row in range(ROWS):
        length = 2 + row * (longest - 2) // (ROWS - 1)
        ids = ordinary[seeds.integers(seeds.seed_of("export", row), length) % np.uint64(len(ordinary))]
        ends = base.tokenizer.eos_token_id
        if ends is not None and ends != base.tokenizer.pad_token_id:
            ids[-1] = ends  # encoder-decoders read their answer off it
        rows.append(Tokens(ids, places=np.arange(length, dtype=np.int32) if base.task.counts_places else None))
    return EncodedRows(tuple(rows), np.zeros(ROWS), int(base.tokenizer.pad_token_id))


def _logits(rows: EncodedRows, answers: Callable[[NDArray[np.int64]], torch.Tensor]) -> Float32:
    """All logits, in the order in which the rows are scored."""
    import torch

    from fedhft.training.batches import scoring_batches

    with torch.no_grad():
        parts = [answers(index).float().cpu().numpy() for index in scoring_batches(rows.lengths)]
    logits: Float32 = np.concatenate(parts)
    return logits


def _difference(wanted: Float32, found: Float32) -> float:
    if wanted.shape != found.shape:
        return float("inf")
    return float(np.abs(wanted - found).max() / max(1.0, float(np.abs(wanted).max())))
