"""Paths as people write them."""

from __future__ import annotations

from pathlib import Path


def expanded(path: str | Path) -> Path:
    """The path with the user's folder in place of a leading ~; unchanged where there is no such user.

    pathlib raises RuntimeError then, of which nobody who wrote the path would make anything; that the path is not there
    is said by whoever opens it.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)
