"""One labelled example: a row of data everywhere in the library."""

from __future__ import annotations

import json
from dataclasses import dataclass


@dataclass(frozen=True)
class Example:
    """One or two texts and their target.

    text_pair: the second text of a pair, else None. label: a class index, or a finite number if there are no classes.
    """

    text: str
    text_pair: str | None
    label: float

    def to_json(self) -> str:
        """A line of a JSONL file; an integral label is written as an integer, as people write class indices."""
        pair = {} if self.text_pair is None else {"text_pair": self.text_pair}
        label = int(self.label) if float(self.label).is_integer() else self.label
        return json.dumps({"text": self.text, **pair, "label": label}, ensure_ascii=False)
