"""One labelled example: what every part of the library means by a row of data."""

from __future__ import annotations

import json
from dataclasses import dataclass


@dataclass(frozen=True)
class Example:
    """One or two texts and what they are to be answered with.

    text_pair: the second text of a pair, else None. label: a class index, or a finite number where the task has none.
    """

    text: str
    text_pair: str | None
    label: float

    def to_json(self) -> str:
        """As it stands in a JSONL file; an integral label is written as an integer, as people write class indices."""
        pair = {} if self.text_pair is None else {"text_pair": self.text_pair}
        label = int(self.label) if float(self.label).is_integer() else self.label
        return json.dumps({"text": self.text, **pair, "label": label}, ensure_ascii=False)
