"""What all tasks with one answer per text share: a transformers model for sequence classification."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fedhft.adapter import Float64
from fedhft.datasets.examples import Example, Label
from fedhft.datasets.tables import RawRow
from fedhft.errors import ErrorCode, FedhftError
from fedhft.training.tasks.interface import Targets, Task, Tokens

if TYPE_CHECKING:
    import torch

_TOKENIZED_AT_ONCE = 1024


class SequenceTask(Task):
    """A task that reads logits (n x outputs) off a whole text, or a pair of texts."""

    auto_class = "AutoModelForSequenceClassification"
    pipeline_tag = "text-classification"
    peft_task_type = "SEQ_CLS"

    @property
    @abstractmethod
    def problem_type(self) -> str:
        """Name of the task in the transformers configuration."""

    @abstractmethod
    def target(self, value: object) -> Label:
        """One row's target, from the value in its label column. Raises ValueError with problem and fix."""

    @abstractmethod
    def encode(self, labels: Sequence[Label]) -> Targets:
        """Labels of rows, as `target` made them, in the form that `loss` and `tally` take."""

    def parse(self, raw: RawRow) -> Example:
        """A text, perhaps a second one, and the value in the label column."""
        columns = self.spec
        text = raw.text(columns.text, "task.text")
        pair = None if columns.text_pair is None else raw.text(columns.text_pair, "task.text_pair")
        value = raw.value(columns.label, "task.label")
        try:
            return Example(text, pair, self.target(value))
        except ValueError as problem:
            raise raw.refused(columns.label, str(problem)) from problem

    def configure(self, config: Any) -> None:
        """Width of the head and kind of problem."""
        config.num_labels = self.outputs
        config.problem_type = self.problem_type

    def head(self, model: torch.nn.Module, new_parameters: frozenset[str]) -> tuple[str, ...]:
        """Every parameter outside the base network, and those inside it that are not in the files (a pooler, say)."""
        return outside_base(model, new_parameters)

    def tokenize(
        self, tokenizer: Any, rows: Sequence[Example], max_length: int, with_types: bool, *, training: bool
    ) -> tuple[list[Tokens], Targets]:
        """Texts or pairs of texts, cut at the end (of pairs, at the end of the longer one)."""
        tokens: list[Tokens] = []
        for start in range(0, len(rows), _TOKENIZED_AT_ONCE):
            part = rows[start : start + _TOKENIZED_AT_ONCE]
            pairs = [row.text_pair or "" for row in part] if part[0].text_pair is not None else None
            encoded = tokenizer(
                [row.text for row in part],
                pairs,
                truncation=True,
                max_length=max_length,
                padding=False,
                return_token_type_ids=with_types,
                split_special_tokens=True,
            )
            types = encoded["token_type_ids"] if with_types else [None] * len(part)
            for ids, kinds in zip(encoded["input_ids"], types, strict=True):
                # A text of nothing still is a row: one token of padding stands for it.
                held = np.array(ids or [tokenizer.pad_token_id], np.int32)
                tokens.append(Tokens(held, np.array(kinds or [0], np.int32) if with_types else None))
        return tokens, self.encode([row.label for row in rows])

    def logits(self, model: torch.nn.Module, inputs: Mapping[str, Any], places: torch.Tensor | None) -> torch.Tensor:
        """The model's own pooled output, (n x outputs)."""
        logits: torch.Tensor = model(**inputs).logits
        return logits

    @property
    def auto_arguments(self) -> Mapping[str, Any]:
        """The width of the head."""
        return {"num_labels": self.outputs}


def outside_base(model: torch.nn.Module, new_parameters: frozenset[str]) -> tuple[str, ...]:
    """Every parameter outside the base network, and those inside it that are not in the files.

    Raises FedhftError(INVALID_MODEL) when there are none.
    """
    prefix = str(getattr(model, "base_model_prefix", "")) + "."
    names = tuple(name for name, _ in model.named_parameters() if not name.startswith(prefix) or name in new_parameters)
    if not names:
        raise FedhftError(ErrorCode.INVALID_MODEL, f"{type(model).__name__}: has no task head to train")
    return names


def contrast(targets: Float64, weights: Float64) -> Float64:
    """Errors e_i = w_i (m - y_i), m = sum_i w_i y_i, with respect to the logits; independent of the logits.

    targets: y, (n x outputs); weights: w, (n,), sum 1.
    """
    weighted: Float64 = weights[:, None] * (weights @ targets - targets)
    return weighted


def class_errors(one_hot: Float64) -> Float64:
    """`contrast` with every class weighing alike. one_hot: (n x classes), at least two of them in use."""
    counts = one_hot.sum(0)
    return contrast(one_hot, 1.0 / (one_hot @ counts * np.count_nonzero(counts)))


def varies(targets: Float64) -> bool:
    """Whether any two of the rows (n x outputs) differ."""
    return bool(np.any(targets != targets[0]))
