"""Commands of the documents: fenced blocks of shell, and the marks on them that say who runs them.

The line that opens a block says it, where readers of the page do not see it:

    ```sh run-by=tests/system/test_install_walk.py
    ```sh terminal run-by=...      every line is a program that stays, each in a terminal of its own
    ```sh not-run                  cannot be run by a test here: it needs a cluster, a registry, hours, or data
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Block:
    """One block of commands."""

    page: str
    """Path in the repository."""
    line: int
    """Of the opening fence, from 1."""
    text: str
    marks: tuple[str, ...]

    @property
    def stays(self) -> bool:
        """Whether every line is a program that runs until it is stopped."""
        return "terminal" in self.marks

    @property
    def run_by(self) -> str:
        """Path of the test that runs it; empty for none."""
        return next((mark.partition("=")[2] for mark in self.marks if mark.startswith("run-by=")), "")

    @property
    def lines(self) -> list[str]:
        """Commands, one a line."""
        return self.text.splitlines()


def shell_blocks(page: str) -> list[Block]:
    """Every block of shell of a page, in order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = re.finditer(r"^ *```sh( [^\n]*)?\n(.*?)^ *```", text, re.M | re.S)
    return [
        Block(page, text.count("\n", 0, match.start()) + 1, match[2], tuple((match[1] or "").split()))
        for match in found
    ]
