"""Trouble that lasts, in a log: said when it begins, and seldom while it goes on."""

from __future__ import annotations

import time

REMIND_S = 300.0
"""How often the log repeats a reason that stays."""
NEWS_S = 30.0
"""How soon after the last line it says another reason."""


class Reminders:
    """When to say again why something does not work."""

    def __init__(self, remind_s: float = REMIND_S, news_s: float = NEWS_S) -> None:
        self._remind_s = remind_s
        self._news_s = news_s
        self._said: tuple[float, str] | None = None

    def due(self, reason: str) -> bool:
        """Whether to say it now; whoever asks and is told yes says it."""
        now = time.monotonic()
        if self._said is not None:
            at, said = self._said
            if now - at < (self._remind_s if reason == said else self._news_s):
                return False
        self._said = now, reason
        return True

    def over(self) -> None:
        """It works: the next trouble is a new one."""
        self._said = None
