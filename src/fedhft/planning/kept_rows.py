"""How many of a client's rows have passed the frozen layers, as far as the server can tell from reports.

A row passes the layers below depth k when it is first drawn or scored, so after a round that drew s of S batches, of
which a share c had passed before, all that were drawn are kept, whoever passed them (an earlier job, a deeper plan):

    c <- c + min(s, S) (1 - c) / S

A report of more than twice as many batches passed than that, with those scored for the first time, and of more than
half of those that would pass if nothing were kept, says that what was kept is gone (a full disk, another data set, a
new volume), at all depths, and what it passed now is kept instead. A client that passes all rows at once, however few
are drawn, looks like that, and has them all. How many passed is worked out from seconds, which other programs make
longer: so a few that passed count for nothing, where all would have if what was kept were gone. Layer-steps go by
tokens: how long the rows of the round's batches were follows from its backward passes, which are k s of mean batches.
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
    long = told.backward_layers / (depth * steps) if steps and told.backward_layers else 1.0
    passed, drawn = _passed(told) / (layers - depth), min(steps, epoch) * (1.0 - before)
    would, of_all = long * drawn + scored, long * min(steps, epoch) + SCORED_ONCE * told.scoring
    shares, scored_at, share = list(known.kept), set(known.scored_at), before + drawn / epoch
    if passed > max(_GONE * would + _ROUNDING_BATCHES, (would + of_all) / 2.0):
        shares, scored_at, share = [], set(), (passed - SCORED_ONCE * told.scoring) / long / epoch
    shares += [0.0] * (depth - len(shares))
    shares[depth - 1] = min(1.0, max(share, 0.0))
    if told.scoring:
        scored_at.add(depth)
    return replace(known, kept=tuple(shares), scored_at=tuple(sorted(scored_at)))


def _passed(told: Durations) -> float:
    """Layer-batches that were passed to be kept: as long as a forward layer-step of the same report takes."""
    if not told.forward_layers or not told.forward:
        return 0.0
    return told.fill * told.forward_layers / told.forward
