"""Who is waited for: clients that join and never deliver delay a job, but cannot stop it.

A client that missed two or more rounds in a row sits out the next ones, twice as many with each further miss, at most
LONGEST; then it is asked again. And a quorum counts only clients that have delivered before. In the first round nobody
has: once it was extended, it can close with the quorum of `rounds.min_clients`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from fedhft.job_sections import RoundsSpec
from fedhft.records import Missed, RoundHead

LONGEST = 16
"""Most rounds that a client sits out at a time."""


def sits_out(missed: Missed, number: int) -> bool:
    """Whether a client with these misses is left out of round `number`."""
    if missed.in_a_row < 2:
        return False
    return number - missed.last <= min(LONGEST, 1 << min(missed.in_a_row - 2, 60))


def attending(live: Sequence[str], missed: Mapping[str, Missed], number: int, min_clients: int) -> tuple[str, ...]:
    """The live clients that may be asked in round `number`, sorted; all of them where too few would be left."""
    present = [client for client in live if client not in missed or not sits_out(missed[client], number)]
    return tuple(sorted(present if len(present) >= min(min_clients, len(live)) else live))


def share(fraction: float, count: int) -> int:
    """ceil(fraction count), at least 1."""
    return max(1, math.ceil(fraction * count - 1e-9))


def quorum_of(rules: RoundsSpec, asked: int, proven: int) -> int:
    """Updates that a round of `asked` clients needs at its deadline, of whom `proven` have delivered before."""
    return max(least_quorum(rules, asked), share(rules.quorum, proven or asked))


def least_quorum(rules: RoundsSpec, asked: int) -> int:
    """The quorum of `rounds.min_clients`: no round of a job closes with fewer updates."""
    return share(rules.quorum, min(rules.min_clients, asked))


def least_of(rules: RoundsSpec, current: RoundHead) -> int:
    """Fewest updates with which the round can close: what clients are told."""
    return min(current.quorum, least_quorum(rules, current.asked)) if current.number == 1 else current.quorum


def needed(rules: RoundsSpec, current: RoundHead) -> int:
    """Updates that the round needs now: in the first, once extended, those who never delivered no longer count."""
    return least_of(rules, current) if current.extensions > 0 else current.quorum
