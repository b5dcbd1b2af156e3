"""Several rows in one sequence, so that no step computes padding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedhft.training.tasks.interface import Tokens


def pack(
    rows: Sequence[Tokens], targets: Sequence[NDArray[np.int32]], max_length: int
) -> tuple[list[Tokens], list[NDArray[np.int32]]]:
    """Rows one after another, a new sequence where the next row does not fit in `max_length` tokens.

    The last token of a row predicts nothing, because its place is none of `places`; that a row does not see those
    before it is up to the position ids (see `EncodedRows.inputs`).
    """
    groups: list[list[int]] = []
    room = 0
    for index, row in enumerate(rows):
        if len(row.ids) > room:
            groups.append([])
            room = max_length
        groups[-1].append(index)
        room -= len(row.ids)
    return (
        [_joined([rows[index] for index in group]) for group in groups],
        [np.concatenate([targets[index] for index in group]) for group in groups],
    )


def _joined(rows: Sequence[Tokens]) -> Tokens:
    lengths = tuple(len(row.ids) for row in rows)
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int32)
    places = [start + row.places for start, row in zip(starts, rows, strict=True) if row.places is not None]
    return Tokens(
        np.concatenate([row.ids for row in rows]), None, np.concatenate(places).astype(np.int32), segments=lengths
    )
