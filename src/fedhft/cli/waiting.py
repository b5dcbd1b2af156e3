"""What a person sees while a server does not answer: words within two seconds, and a spinner on a terminal."""

from __future__ import annotations

import sys
import threading
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.status import Status

    from fedhft.rpc.retry import Wait

_QUIET_S = 1.0
"""How long a call may take without a word."""


class Waiting:
    """Told by a JobsClient when a call begins, is tried again, and ends. A context manager; nothing is shown after it.

    Words go to standard error, so that standard output stays what programs read. Without a terminal, a line is printed
    when a wait begins, and another one when its cause changes.
    """

    def __init__(self, server: str) -> None:
        self._server = server
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._status: Status | None = None
        self._cause = ""
        self._said = ""

    def __enter__(self) -> Waiting:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def begin(self) -> None:
        """A call begins, or begins again."""
        with self._lock:
            if self._timer is None and self._status is None:
                self._timer = threading.Timer(_QUIET_S, self._show)
                self._timer.daemon = True
                self._timer.start()

    def retrying(self, wait: Wait) -> None:
        """The call failed and will be made again."""
        with self._lock:
            self._cause = wait.error.message
        if self._status is not None or (self._said and not sys.stderr.isatty()):
            self._show()

    def end(self) -> None:
        """The call was answered, or given up."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            if self._status is not None:
                self._status.stop()
            self._timer = self._status = None
            self._cause = self._said = ""

    def _show(self) -> None:
        with self._lock:
            if self._timer is None and self._status is None:
                return  # it ended meanwhile
            text = f"waiting for {self._server}: {self._cause or 'no answer yet'}"
            if not sys.stderr.isatty():
                if text != self._said:
                    print(f"fedhft: {text}", file=sys.stderr, flush=True)
                self._said = text
                return
            from rich.console import Console
            from rich.markup import escape

            if self._status is None:
                self._status = Console(stderr=True).status(escape(text))
                self._status.start()
            else:
                self._status.update(escape(text))
