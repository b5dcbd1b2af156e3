"""Terminals in which a test types the lines of a document: bash, on a network of its own where that is possible."""

from __future__ import annotations

import os
import queue
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

DONE = "--- done with a block ---"
_LOOPBACK_UP = (
    "import fcntl, socket, struct; s = socket.socket(); "
    "fcntl.ioctl(s, 0x8914, struct.pack('16sh', b'lo', 0x1 | 0x40)); "  # SIOCSIFFLAGS: IFF_UP | IFF_RUNNING
    "print('up', flush=True); import sys; sys.stdin.read()"
)


def environment() -> dict[str, str]:
    """That of somebody who has just logged in: nothing of this test's own environment, and its Python on the PATH."""
    ours = ("PYTHON", "FEDHFT_", "VIRTUAL_", "COLUMNS")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    own = str(Path(sys.executable).parent)
    path = [f"{sys.base_prefix}/bin", *(part for part in kept["PATH"].split(":") if part != own)]
    # Python compiles what it imports; pip would compile all of torch, which takes as long as installing it.
    ways = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "160", "PIP_NO_COMPILE": "1"}
    return {**kept, "PATH": ":".join(path), **ways}


@contextmanager
def own_network() -> Iterator[tuple[str, ...]]:
    """What to put before a command so that it has all ports for itself; nothing where only root could do that."""
    if os.geteuid() != 0 or not (shutil.which("unshare") and shutil.which("nsenter")):
        yield ()
        return
    holder = subprocess.Popen(
        ["unshare", "--net", sys.executable, "-c", _LOOPBACK_UP],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        yield ("nsenter", f"--net=/proc/{holder.pid}/ns/net") if holder.stdout.readline() == "up\n" else ()
    finally:
        holder.stdin.close()
        holder.wait(10)


def taken(ports: tuple[int, ...]) -> list[int]:
    """Those of the ports on which something listens here already."""
    found = []
    for port in ports:
        with socket.socket() as probe:
            probe.settimeout(1.0)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                found.append(port)
    return found


class Terminal:
    """A bash that ends at the first command that fails. Blocks are typed into it one after another."""

    def __init__(self, folder: Path, log: Path, before: tuple[str, ...] = ()) -> None:
        self._stream = log.open("a", encoding="utf-8")
        self._bash = subprocess.Popen(
            [*before, "bash", "-euo", "pipefail"],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment(),
        )
        assert self._bash.stdout is not None
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, args=[self._bash.stdout], daemon=True).start()

    def type(self, block: str, timeout_s: float) -> str:
        """Run a block; what it printed. Fails the test when a command fails or when it takes too long."""
        assert self._bash.stdin is not None
        self._bash.stdin.write(f"{block}\necho '{DONE}'\n")
        self._bash.stdin.flush()
        said: list[str] = []
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                line = self._lines.get(timeout=max(0.1, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no end within {timeout_s:g} s:\n{block}\n{''.join(said)}") from None
            assert line is not None, f"ended with {self._bash.wait(10)}:\n{block}\n{''.join(said)}"
            if line.strip() == DONE:
                return "".join(said)
            said.append(line)

    def close(self) -> None:
        """Log out."""
        if self._bash.stdin is not None:
            self._bash.stdin.close()
        try:
            self._bash.wait(10)
        except subprocess.TimeoutExpired:
            self._bash.kill()
            self._bash.wait()
        self._stream.close()

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            self._stream.write(line)
            self._stream.flush()
            self._lines.put(line)
        self._lines.put(None)


class Staying:
    """A program that stays, in a terminal of its own."""

    def __init__(self, line: str, folder: Path, before: tuple[str, ...], log: Path) -> None:
        self.line, self.log = line, log
        with log.open("wb") as stream:
            self.process = subprocess.Popen(
                [*before, "bash", "-c", f". ../.venv/bin/activate && exec {line}"],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=environment(),
                process_group=0,
            )

    @property
    def said(self) -> str:
        """Everything so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def wait_listening(self, timeout_s: float) -> None:
        """Until it can be called."""
        deadline = time.monotonic() + timeout_s
        while not re.search(r'"listening"|Ready to accept connections', self.said):
            assert self.process.poll() is None, f"{self.line}\n{self.said}"
            assert time.monotonic() < deadline, f"{self.line}\n{self.said}"
            time.sleep(0.2)

    def interrupt(self) -> int:
        """Ctrl-C; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"does not stop: {self.line}\n{self.said}") from None
