"""An exported directory as its user has it: loaded with plain transformers and PEFT, asked about rows of data."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from safetensors import SafetensorError
from transformers import AutoTokenizer

from fedhft.errors import ErrorCode, FedhftError
from fedhft.training.base import model_folder
from fedhft.training.batches import EncodedRows
from fedhft.training.device.choice import CPU
from fedhft.training.fit import added_prefix, counts_from_padding
from fedhft.training.scores import PLACES_AT_ONCE, logits_by_batch
from fedhft.training.stored_weights import stored_names
from fedhft.training.tasks import Task

LOADING_FAILURES = (
    OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError, ImportError, SafetensorError,
)  # fmt: skip
"""What transformers, PEFT and safetensors raise for files that do not fit, or are damaged."""


def load_exported(directory: Path, task: Task, base: Path | None, pad_token_id: int | None = None) -> Any:
    """The model in `directory`, in float32 and eval mode, as the program in its card loads it.

    base: the base model's folder, None where the directory holds a whole model. pad_token_id: by which decoders find a
    row's end; None where the model's files say it. What the libraries print meanwhile is not shown.
    """
    kind: Any = getattr(transformers, task.auto_class)
    with quiet():
        if base is None:
            return kind.from_pretrained(str(directory), dtype=torch.float32).eval()
        from peft import PeftModel

        prefix = added_prefix(stored_names(base))
        model = kind.from_pretrained(
            str(base),
            **task.auto_arguments,
            dtype=torch.float32,
            **({"key_mapping": {f"^{prefix.replace('.', '[.]')}": ""}} if prefix else {}),
        )
        if pad_token_id is not None:
            model.config.pad_token_id = pad_token_id
        return PeftModel.from_pretrained(model, str(directory)).eval()


def logits_of(model: Any, rows: EncodedRows, index: NDArray[np.int64]) -> torch.Tensor:
    """Logits that count of the rows `index`, float32, row after row."""
    device = next(model.parameters()).device
    logits: torch.Tensor = model(**{name: tensor.to(device) for name, tensor in rows.inputs(index).items()}).logits
    places = rows.places(index)
    return (logits if places is None else logits[places.to(device)]).float()


class ExportedModel:
    """A directory that `fedhft job export` wrote. Not safe for concurrent use."""

    def __init__(
        self,
        directory: Path,
        task: Task,
        base: str | None,
        revision: str | None = None,
        device: torch.device = CPU,
    ) -> None:
        """base: folder or hub id of the base model, None where the directory holds a whole model.

        Raises FedhftError(INVALID_MODEL) when either cannot be loaded.
        """
        folder = None if base is None else model_folder(base, revision)
        try:
            with quiet():
                own = (directory / "tokenizer_config.json").is_file()
                self.tokenizer = AutoTokenizer.from_pretrained(str(directory if own or folder is None else folder))
            if self.tokenizer.pad_token_id is None:
                self.tokenizer.pad_token = self.tokenizer.eos_token
            self.model = load_exported(directory, task, folder, self.tokenizer.pad_token_id).to(device)
        except LOADING_FAILURES as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise FedhftError(
                ErrorCode.INVALID_MODEL, f"adapter {directory}: cannot be loaded: {reason}; export it again"
            ) from error
        self.task = task
        self._device = device
        inner = self.model if folder is None else self.model.get_base_model()
        taken = signature(inner.forward).parameters
        self.with_types = "token_type_ids" in taken and "token_type_ids" in self.tokenizer.model_input_names
        self.counts_positions = "position_ids" in taken and not counts_from_padding(inner)

    def forward(self, rows: EncodedRows, index: NDArray[np.int64]) -> torch.Tensor:
        """See `logits_of`."""
        return logits_of(self.model, rows, index)

    def answers(self, rows: EncodedRows) -> list[dict[str, Any]]:
        """What the model says of each row, in order, as the task puts it."""
        found: list[dict[str, Any]] = [{} for _ in range(len(rows))]
        for index, logits in logits_by_batch(self.forward, rows, PLACES_AT_ONCE):
            for row, answer in zip(index, self.task.answers(logits.numpy(), rows.sizes[index]), strict=True):
                found[row] = answer
        return found

    def written(self, rows: EncodedRows, most_tokens: int) -> list[dict[str, Any]]:
        """What the model writes on from each row's prompt, at most `most_tokens` tokens, greedily."""
        return [{"text": self._continued(row.ids[: prompt_length(row.places)], most_tokens)} for row in rows.rows]

    def _continued(self, prompt: NDArray[np.int32], most_tokens: int) -> str:
        ids = torch.from_numpy(prompt.astype(np.int64))[None].to(self._device)
        with torch.no_grad(), quiet():
            made = self.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=most_tokens,
                do_sample=False,
                pad_token_id=self.tokenizer.pad_token_id,
                eos_token_id=self.tokenizer.eos_token_id,
            )
        text: str = self.tokenizer.decode(made[0, len(prompt) :], skip_special_tokens=True)
        return text


def prompt_length(places: NDArray[np.int32] | None) -> int:
    """Tokens before the last answer of a row: the output of a place is about the token after it."""
    if places is None or not len(places):
        return 1
    breaks = np.flatnonzero(np.diff(places) > 1)
    return int(places[breaks[-1] + 1 if len(breaks) else 0]) + 1


@contextmanager
def quiet() -> Iterator[None]:
    """Without progress bars, and without the libraries' remarks about a head that is still to be loaded."""
    verbosity = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers.utils.logging.set_verbosity(verbosity)
