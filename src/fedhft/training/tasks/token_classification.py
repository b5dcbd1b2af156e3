"""A tag per word, as BIO tags mark entities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedhft.adapter import Float32
from fedhft.datasets.examples import Example
from fedhft.datasets.tables import RawRow
from fedhft.errors import ErrorCode, FedhftError
from fedhft.scoring.spans import count_entities
from fedhft.training.tasks.classification import name_labels
from fedhft.training.tasks.interface import Tally, Targets, Tokens, flat, place_targets
from fedhft.training.tasks.labels import class_of
from fedhft.training.tasks.places import PlaceTask
from fedhft.training.tasks.sequence import outside_base

if TYPE_CHECKING:
    import torch

_TOKENIZED_AT_ONCE = 1024


class TokenClassification(PlaceTask):
    """Cross entropy at the first piece of every word; F1 of entities, accuracy of words."""

    auto_class = "AutoModelForTokenClassification"
    pipeline_tag = "token-classification"
    peft_task_type = "TOKEN_CLS"

    @property
    def outputs(self) -> int:
        """A logit per tag."""
        return len(self.spec.labels)

    def parse(self, raw: RawRow) -> Example:
        """Words and as many tags: lists, or texts with spaces between them where a file has no lists."""
        columns = self.spec
        words = _listed(raw, columns.text, "task.text")
        tags = _listed(raw, columns.label, "task.label")
        for word in words:
            if not isinstance(word, str) or not word.strip():
                raise raw.refused(columns.text, "holds something other than words; write a list of strings")
        if len(words) != len(tags) or not words:
            raise raw.refused(
                columns.label, f"has {len(tags)} tags for {len(words)} words; write one for each, and at least one"
            )
        try:
            label = tuple(class_of(tag, columns.labels) for tag in tags)
        except ValueError as problem:
            raise raw.refused(columns.label, str(problem)) from problem
        return Example(" ".join(words), None, label, words=tuple(words))

    def configure(self, config: Any) -> None:
        """Width of the head and names of the tags."""
        config.num_labels = self.outputs
        name_labels(config, self.spec.labels)

    def head(self, model: torch.nn.Module, new_parameters: frozenset[str]) -> tuple[str, ...]:
        """Every parameter outside the base network."""
        return outside_base(model, new_parameters)

    def tokenize(
        self, tokenizer: Any, rows: Sequence[Example], max_length: int, with_types: bool, *, training: bool
    ) -> tuple[list[Tokens], Targets]:
        """Words with spaces between them; a word's tag is wanted at its first piece. Words beyond the cut are left out.

        Raises FedhftError(INVALID_MODEL) for a tokenizer that does not say where its pieces come from.
        """
        if not getattr(tokenizer, "is_fast", False):
            raise FedhftError(
                ErrorCode.INVALID_MODEL,
                f"tokenizer {type(tokenizer).__name__}: does not say which word a piece is from; "
                "use a model with a tokenizer.json",
            )
        tokens: list[Tokens] = []
        targets: list[NDArray[np.int32]] = []
        for start in range(0, len(rows), _TOKENIZED_AT_ONCE):
            part = rows[start : start + _TOKENIZED_AT_ONCE]
            encoded = tokenizer(
                [" ".join(row.words) for row in part],
                truncation=True,
                max_length=max_length,
                padding=False,
                return_token_type_ids=with_types,
                return_offsets_mapping=True,
                split_special_tokens=True,
            )
            for place, row in enumerate(part):
                places, words = _first_pieces(encoded["offset_mapping"][place], row.words)
                types = np.array(encoded["token_type_ids"][place], np.int32) if with_types else None
                tokens.append(Tokens(np.array(encoded["input_ids"][place], np.int32), types, places))
                targets.append(np.array(row.label, np.int32)[words])
        return tokens, place_targets(targets)

    def logits(self, model: torch.nn.Module, inputs: Mapping[str, Any], places: torch.Tensor | None) -> torch.Tensor:
        """Outputs at the first piece of every word, (m x tags)."""
        logits: torch.Tensor = model(**inputs).logits
        return logits if places is None else logits[places]

    def tally(self, logits: Float32, targets: Targets, sizes: NDArray[np.int64]) -> Tally:
        """Entities per type, and words."""
        return count_entities(logits.argmax(1), targets, sizes, self.spec.labels)

    def floor(self, train_targets: Targets, targets: Targets) -> Mapping[str, float]:
        """Of giving every word the most frequent tag of the training rows (ties: the lowest)."""
        labels, counts = np.unique(flat(train_targets), return_counts=True)
        actual = flat(targets)
        always = np.full(len(actual), labels[counts.argmax()] if len(labels) else 0)
        sizes = np.array([len(row) for row in targets], np.int64)
        counted = count_entities(always, actual, sizes, self.spec.labels)
        return {name: counted.metric(name) for name in self.metrics}

    def answers(self, logits: Float32, sizes: NDArray[np.int64]) -> list[dict[str, Any]]:
        """The tags of the words that were not cut off."""
        tags = [self.spec.labels[tag] for tag in logits.argmax(1)]
        ends = np.cumsum(sizes)
        return [{"tags": tags[end - size : end]} for end, size in zip(ends, sizes, strict=True)]

    @property
    def auto_arguments(self) -> Mapping[str, Any]:
        """The width of the head."""
        return {"num_labels": self.outputs}

    def labels_line(self) -> str:
        """The tags, in class order."""
        return ", ".join(self.spec.labels)


def _listed(raw: RawRow, column: str, field: str) -> Sequence[Any]:
    value = raw.value(column, field)
    if isinstance(value, str):
        return value.split()
    if isinstance(value, list | tuple):
        return value
    raise raw.refused(column, "is not a list; write one item per word, or a text with spaces between them")


def _first_pieces(
    offsets: Sequence[tuple[int, int]], words: Sequence[str]
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """(token, word) of the first piece of every word that has one. offsets: characters that each token is from."""
    ends = np.cumsum([len(word) + 1 for word in words])  # a word and the space after it
    places: list[int] = []
    found: list[int] = []
    for token, (start, end) in enumerate(offsets):
        if end <= start:
            continue  # a special token
        # By its last character: a piece may bring the space before its word.
        word = int(np.searchsorted(ends, end - 1, side="right"))
        if word < len(words) and (not found or word > found[-1]):
            places.append(token)
            found.append(word)
    return np.array(places, np.int32), np.array(found, np.int64)
