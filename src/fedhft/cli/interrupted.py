"""What a command says when it is interrupted: what it leaves behind, and how to go on."""

from __future__ import annotations

import sys
from types import TracebackType


class if_interrupted:  # noqa: N801 - used as a statement, like contextlib's
    """`with if_interrupted("..."):` says these words on standard error when Ctrl-C ends the block."""

    def __init__(self, words: str) -> None:
        self._words = words

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, KeyboardInterrupt):
            print(f"fedhft: interrupted; {self._words}", file=sys.stderr, flush=True)
