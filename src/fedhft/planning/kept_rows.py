"""How many of a client's rows have passed the frozen layers, as far as the server can tell from reports.

A row passes the layers below depth k when it is first drawn or scored. A round that drew s of S batches, of which a
share c had passed before, therefore passes

    f = min(s, S) (1 - c) + d        batches; d: those of rows that are scored there for the first time

and what a report says it passed is believed up to that. A report of more than twice as many says that what was kept is
gone (a full disk, another data set, a new volume): then only what it passed now is kept.
"""

from __future__ import annotations

from dataclasses import replace

from fedhft.planning.devices import SCORED_ONCE
from fedhft.planning.estimates import Capacity, Durations

_GONE = 2.0
_ROUNDING_BATCHES = 1.0


def with_kept_rows(known: Capacity, told: Durations, depth: int, layers: int, steps: int, epoch: int) -> Capacity:
    """What is known after one more report of a round at `depth`, with `steps` of the `epoch` steps of a whole epoch.

    The same where nothing is frozen; nothing is kept where the client says so.
    """
    if not told.keeps:
        return replace(known, kept=(), scored_at=())
    if depth >= layers or epoch < 1:
        return known
    before = known.kept[depth - 1] if depth <= len(known.kept) else 0.0
    scored = 0.0 if depth in known.scored_at else SCORED_ONCE * told.scoring
    passed, drawn = _passed(told) / (layers - depth), min(steps, epoch) * (1.0 - before)
    if passed > _GONE * (drawn + scored) + _ROUNDING_BATCHES:
        before, drawn, scored = 0.0, float(min(steps, epoch)), SCORED_ONCE * told.scoring
    share = min(1.0, before + min(drawn, max(0.0, passed - scored)) / epoch)
    shares = [*known.kept, *[0.0] * (depth - len(known.kept))]
    shares[depth - 1] = share
    scored_at = tuple(sorted({*known.scored_at, depth})) if told.scoring else known.scored_at
    return replace(known, kept=tuple(shares), scored_at=scored_at)


def _passed(told: Durations) -> float:
    """Layer-batches that were passed to be kept: as long as a forward layer-step of the same report takes."""
    if not told.forward_layers or not told.forward:
        return 0.0
    return told.fill * told.forward_layers / told.forward
