"""One child process: started with a log file, waited for with a bound, ended by its id."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedhft.errors import OUTCOMES, ErrorCode, FedhftError

_POLL_S = 0.05


class ServiceProcess:
    """`python -m <module>` in a process group of its own: Ctrl-C reaches only us, and we end the children in order."""

    def __init__(
        self, name: str, module: str, arguments: Sequence[str], log: Path, environment: Mapping[str, str]
    ) -> None:
        self.name = name
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as stream:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
                process_group=0,
            )

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def wait_listening(self, timeout_s: float) -> dict[str, Any]:
        """The addresses in its `listening` line. Raises FedhftError with the end of its log when none comes in time."""
        deadline = time.monotonic() + timeout_s
        while True:
            ended = self.exit_code is not None  # read before the log, so that nothing it wrote is missed
            found = _listening(self.log)
            if found is not None:
                return found
            if ended:
                raise self.failure()
            if time.monotonic() > deadline:
                raise FedhftError(
                    ErrorCode.SERVER_UNAVAILABLE,
                    f"{self.name} did not listen within {timeout_s:g} s\n{self.describe_log()}",
                )
            time.sleep(_POLL_S)

    def failure(self) -> FedhftError:
        """Why it ended, under the code its exit code stands for, with the end of its log."""
        exit_code = self.exit_code
        code = next((code for code, outcome in OUTCOMES.items() if outcome.exit_code == exit_code), ErrorCode.INTERNAL)
        return FedhftError(code, f"{self.name} ended with exit code {exit_code}\n{self.describe_log()}")

    def describe_log(self, lines: int = 20) -> str:
        """Where the log is, and its last lines."""
        try:
            tail = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]
        except OSError as error:
            return f"its log {self.log} cannot be read: {error.strerror}"
        return "\n".join([f"the end of {self.log}:", *(f"  {line}" for line in tail)])

    def wait(self, timeout_s: float) -> bool:
        """Whether it ended by itself in time."""
        try:
            self._process.wait(max(0.0, timeout_s))
        except subprocess.TimeoutExpired:
            return False
        return True

    def terminate(self) -> None:
        """Ask it to stop."""
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()

    def kill(self) -> None:
        """End it at once and reap it."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def deaf_to_interrupts() -> Iterator[None]:
    """Ignore Ctrl-C while children are being ended, so that none is left behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def stop_all(processes: Sequence[ServiceProcess], patience_s: float, grace_s: float) -> None:
    """Wait for processes to end by themselves, then ask the rest to stop, then kill what is left."""
    deadline = time.monotonic() + patience_s
    for process in processes:
        process.wait(deadline - time.monotonic())
    running = [process for process in processes if process.exit_code is None]
    for process in running:
        process.terminate()
    deadline = time.monotonic() + grace_s
    for process in running:
        if not process.wait(deadline - time.monotonic()):
            process.kill()


def _listening(log: Path) -> dict[str, Any] | None:
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    for line in text.split("\n")[:-1]:  # what follows the last line break is not a whole line yet
        if '"listening"' in line:
            try:
                found = json.loads(line)
            except ValueError:
                continue
            if isinstance(found, dict) and found.get("event") == "listening":
                return found
    return None
