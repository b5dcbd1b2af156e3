"""Which columns of a table a terminal has room for."""

from __future__ import annotations

from collections.abc import Sequence


def fitting(least: Sequence[int], ranks: Sequence[int], gap: int, width: int) -> tuple[list[int], int]:
    """Places of the columns that fit, in order, and the width that these need.

    least: what each column needs, in characters. ranks: those with a larger one are left out first, 0: never, even if
    the rest is too wide. gap: characters between two columns.
    """
    shown = list(range(len(least)))
    while True:
        needed = sum(least[index] for index in shown) + gap * (len(shown) - 1)
        spare = [index for index in shown if ranks[index]]
        if needed <= width or not spare:
            return shown, needed
        shown.remove(max(spare, key=lambda index: (ranks[index], index)))


def left_out(heads: Sequence[str], shown: Sequence[int]) -> str:
    """Says which columns are not shown; empty when all are."""
    missing = [head for index, head in enumerate(heads) if index not in shown]
    return f"not shown, for want of room: {', '.join(missing)}" if missing else ""
