"""How much of a job's history is kept, and which rounds of it one answer brings. Imports nothing: settings use it."""

from __future__ import annotations

KEPT_ROUNDS = 10_000
"""Rounds of a job whose figures are kept, unless the aggregator's settings say otherwise."""
HISTORY_PAGE = 256
"""Most rounds of a job's history in one message."""


def page_of(
    published: int,
    kept_from: int = 1,
    *,
    after: int = 0,
    before: int = 0,
    last: int = 0,
    most: int | None = HISTORY_PAGE,
) -> range:
    """The rounds, ascending and at most `most` of them, that answer a request.

    published: rounds there are. kept_from: the first one that is kept. after, before: what the caller wants lies
    between these two; 0 does not bound it. last: of that it wants the newest so many; 0 means the oldest, a page.
    """
    start = max(after + 1, kept_from)
    stop = min(published + 1, before or published + 1)
    if last:
        start = max(start, stop - (last if most is None else min(last, most)))
    elif most is not None:
        stop = min(stop, start + most)
    return range(start, max(start, stop))


def thinned(published: int, kept_from: int = 1, *, recent: int, spread: int) -> list[int]:
    """Rounds that show a whole history, ascending: the last `recent` ones, and at most `spread` of those before them.

    published, kept_from: as for page_of. The older ones are evenly spaced, and keep their places while rounds are added
    (multiples of a step that doubles), so that a line drawn through them does not flicker.
    """
    start = max(kept_from, published - recent + 1)
    older = start - kept_from
    step = 1
    while step * spread < older:
        step *= 2
    first = -(-kept_from // step) * step
    return [*range(first, start, step), *range(start, published + 1)]
