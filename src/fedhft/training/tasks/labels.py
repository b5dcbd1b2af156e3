"""What a value in a label column means: one rule, whatever the kind of file.

A value is a name if it is one: 3 in JSON lines, "3" in CSV and 3.0 in Parquet are all the label "3" where the job has
it. Otherwise it is an index, but only where it cannot be meant otherwise: in a job whose label names are numbers, a
number that is none of them is refused.
"""

from __future__ import annotations

from collections.abc import Sequence

from fedhft.datasets.tables import NamedIndex

_LONGEST_INDEX = 20
_NAMED = 12
"""Largest number of labels that a refusal lists."""


def class_of(value: object, labels: Sequence[str]) -> int:
    """Index of the label that a value means. Raises ValueError with problem and fix."""
    if isinstance(value, NamedIndex) and value.name in labels:
        return labels.index(value.name)
    text = _written(value)
    for name in (text, text.strip(), _whole(text)) if text else ():
        if name in labels:
            return labels.index(name)
    whole = _whole(text)
    if whole.isdecimal() and len(whole) < _LONGEST_INDEX and int(whole) < len(labels):
        numbers = [label for label in labels if _whole(label).isdecimal()]
        if not numbers:
            return int(whole)
        raise ValueError(
            f"is not a label; the job's labels are numbers ({', '.join(numbers[:_NAMED])}), so an index could be taken "
            "for a label; write the label"
        )
    names = ", ".join(map(repr, labels[:_NAMED])) + (", ..." if len(labels) > _NAMED else "")
    raise ValueError(f"unknown label; use 0..{len(labels) - 1} or one of {names}")


def _written(value: object) -> str:
    """A value as people write it; empty for what is neither text nor number."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(int(value)) if abs(value) < 10**_LONGEST_INDEX else ""
    if isinstance(value, float):
        return repr(value)
    return value if isinstance(value, str) else ""


def _whole(text: str) -> str:
    """The text of a number without a fraction of zeros: 3 for 3.0, as spreadsheets and data frames write indices."""
    number = text.strip()
    head, dot, tail = number.partition(".")
    return head if dot and head.isdecimal() and tail and not tail.strip("0") else number
