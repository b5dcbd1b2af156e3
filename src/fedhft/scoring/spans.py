"""Entities in BIO tags: `B-PER I-PER O` is one entity of type PER over two words (Ramshaw and Marcus 1995).

An `I-X` that does not continue an entity of type X begins one, as in the scorer of CoNLL 2003.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedhft.scoring.confusion import Confusion

OUTSIDE = "O"


def entity_types(tags: Sequence[str]) -> tuple[str, ...]:
    """Types in the order in which the tags name them. A tag without prefix, other than O, is a type of its own."""
    return tuple(dict.fromkeys(_type(tag) for tag in tags if tag != OUTSIDE))


def entities(tags: Sequence[str]) -> set[tuple[int, int, str]]:
    """(first word, word after the last, type) of every entity of one row."""
    found: set[tuple[int, int, str]] = set()
    start, current = 0, ""
    for place, tag in enumerate((*tags, OUTSIDE)):
        kind = "" if tag == OUTSIDE else _type(tag)
        if current and (kind != current or tag.startswith("B-")):
            found.add((start, place, current))
            current = ""
        if kind and not current:
            start, current = place, kind
    return found


def count_entities(
    answers: NDArray[np.int64], actual: NDArray[np.int64], sizes: NDArray[np.int64], tags: Sequence[str]
) -> Confusion:
    """Entities per type that were found, and words that were tagged right.

    answers, actual: tag indices of all words, (m,), row after row. sizes: words of each row, sum m.
    """
    types = {name: index for index, name in enumerate(entity_types(tags))}
    counts = np.zeros((3, len(types)))
    edges = np.cumsum(sizes)[:-1]
    for given, wanted in zip(np.split(answers, edges), np.split(actual, edges), strict=True):
        found, true = (entities([tags[index] for index in row]) for row in (given, wanted))
        for place, spans in enumerate((found & true, found, true)):
            for _, _, name in spans:
                counts[place, types[name]] += 1
    return Confusion(float(len(actual)), float((answers == actual).sum()), *counts)


def _type(tag: str) -> str:
    return tag[2:] if tag[:2] in ("B-", "I-") else tag
