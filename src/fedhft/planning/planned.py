"""What one device is to do in a round, and what keeps it from doing more."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Bound(StrEnum):
    """What keeps a device from doing more."""

    NOTHING = "nothing"
    """All layers, all steps."""
    HORIZON = "horizon"
    """More work would take longer than the round."""
    MEMORY = "memory"
    """The next layer does not fit."""
    FILLING = "filling"
    """Rows still have to pass the frozen layers: fewer steps than later, or no scores, for nobody to wait for that."""
    SCORING = "scoring"
    """Even the least plan fits only without scoring."""
    TURN = "turn"
    """Not even the least plan fits, and it has sat out long enough: it trains that all the same."""
    ABSENT = "absent"
    """Not even the least plan fits: it sits out."""


@dataclass(frozen=True)
class Planned:
    """What one device is to do in a round; depth = steps = 0: it sits out.

    seconds: how long that will take it. bound: what keeps it from doing more.
    """

    depth: int
    steps: int
    scores: bool
    seconds: float
    bound: Bound
