"""Commands of the documents: fenced blocks of shell, and the marks on them.

The line that opens a block has the marks, where readers of the page do not see them:

    ```sh                every line is run by the test that RUNS in tests/unit/test_docs_commands.py names
    ```sh terminal       so too; every line is a program that stays, each in a terminal of its own
    ```sh not-run        cannot be run by a test here: it needs a cluster, a registry, data, or hours
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
    section: str
    """The heading above it, without its marks."""
    line: int
    """Of the opening fence, from 1."""
    text: str
    marks: tuple[str, ...]

    @property
    def stays(self) -> bool:
        """Whether every line is a program that runs until it is stopped."""
        return "terminal" in self.marks

    @property
    def lines(self) -> list[str]:
        """Commands, one a line."""
        return self.text.splitlines()


def shell_blocks(page: str, section: str = "") -> list[Block]:
    """Every block of shell of a page, or of one of its sections, in order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = []
    for match in re.finditer(r"^ *```sh( [^\n]*)?\n(.*?)^ *```", text, re.M | re.S):
        before = text[: match.start()]
        # A heading is looked for outside of blocks: their comments look like headings.
        headings = re.findall(r"^#+ (.*)$", re.sub(r"^ *```.*?^ *```", "", before, flags=re.M | re.S), re.M)
        marks = tuple((match[1] or "").split())
        found.append(Block(page, headings[-1] if headings else "", before.count("\n") + 1, match[2], marks))
    return [block for block in found if section in ("", block.section)]
