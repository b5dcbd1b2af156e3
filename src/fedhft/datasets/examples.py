"""One labelled example: a row of data everywhere in the library."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Label = float | tuple[int, ...]
"""A class index or a finite number; several indices where a row has several labels, or one per word."""


@dataclass(frozen=True)
class Example:
    """One row as its task reads it.

    text: of a row; its prompt where it has one. text_pair: the second text of a pair, or the completion of a prompt,
    else None. label: what is to be predicted; 0 where the text itself is. words: where labels are of words, the words,
    of which `text` is then the joined form. turns: of a conversation, (role, content) each; `text` is then empty.
    """

    text: str
    text_pair: str | None
    label: Label
    words: tuple[str, ...] = ()
    turns: tuple[tuple[str, str], ...] = ()

    @property
    def class_index(self) -> float:
        """The label of a row that has a single one; 0 for all others."""
        return self.label if not isinstance(self.label, tuple) else 0.0

    def identity(self) -> list[Any]:
        """Everything in it, as plain values; equal only for equal rows."""
        more = [list(self.words), [list(turn) for turn in self.turns]] if self.words or self.turns else []
        return [self.text, self.text_pair, list(self.label) if isinstance(self.label, tuple) else self.label, *more]

    def to_json(self, labels: Sequence[str] = ()) -> str:
        """A line of a JSONL file with the usual names of columns.

        labels: names of the classes; without them class indices are written, as integers.
        """
        row: dict[str, Any]
        if self.turns:
            row = {"messages": [{"role": role, "content": content} for role, content in self.turns]}
        else:
            pair = {} if self.text_pair is None else {"text_pair": self.text_pair}
            row = {"text": list(self.words) or self.text, **pair, "label": _plain(self.label, labels)}
        return json.dumps(row, ensure_ascii=False)


def _plain(label: Label, labels: Sequence[str]) -> Any:
    if isinstance(label, tuple):
        return [labels[index] if labels else index for index in label]
    if labels:
        return labels[int(label)]
    return int(label) if float(label).is_integer() else label
