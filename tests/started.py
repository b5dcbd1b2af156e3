"""A real process, as a supervisor starts it, and what it says and how it ends."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fedhft.errors import OUTCOMES, ErrorCode
from tests.agents import ENVIRONMENT


class Started:
    """A process; what it says goes to a file."""

    def __init__(self, log: Path, command: list[str], environment: Mapping[str, str | None] | None = None) -> None:
        self.log = log
        variables: dict[str, str | None] = {**os.environ, **ENVIRONMENT, **(environment or {})}
        with log.open("wb") as stream:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env={name: value for name, value in variables.items() if value is not None},
            )

    @property
    def said(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def exits(self, code: ErrorCode, timeout_s: float = 60.0) -> str:
        """Its only words: one message, and no traceback before or after it."""
        assert self.process.wait(timeout_s) == OUTCOMES[code].exit_code, self.said
        (line,) = [line for line in self.said.splitlines() if not line.startswith("{")]
        assert "Traceback" not in self.said
        return line

    def says(self, wanted: Callable[[str], bool], timeout_s: float = 60.0) -> str:
        """Everything so far, once it is as wanted."""
        deadline = time.monotonic() + timeout_s
        while not wanted(self.said):
            assert self.process.poll() is None, self.said
            assert time.monotonic() < deadline, self.said
            time.sleep(0.1)
        return self.said

    def listening(self, timeout_s: float = 60.0) -> dict[str, Any]:
        """The addresses of a service, once it listens."""
        said = self.says(lambda said: '"listening"' in said.rpartition("\n")[0], timeout_s)
        return dict(json.loads(next(line for line in said.splitlines() if '"listening"' in line)))

    def ends(self, timeout_s: float) -> int:
        """Its exit code, when it ends by itself."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still runs after {timeout_s:g} s\n{self.said[-4000:]}") from None

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
