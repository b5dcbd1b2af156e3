"""For tests that run a program in their own process: it sets logs up, and later tests read theirs."""

from __future__ import annotations

import logging
from collections.abc import Iterator


def root_logger_as_before() -> Iterator[None]:
    """Make it a fixture: handlers and level of the root logger are those of before."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
