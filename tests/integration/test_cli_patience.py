"""What a person sees while a server does not answer, and when they interrupt a command."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

FEDHFT = [sys.executable, "-m", "fedhft.cli"]
JOB = 'name = "patient"\n[model]\nname = "some/model"\n[task]\nlabels = ["no", "yes"]\n'


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held: list[socket.socket] = []

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    held.append(server.accept()[0])

        threading.Thread(target=accept, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        for connection in held:
            connection.close()


def environment(tmp_path: Path) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("FEDHFT_")}
    return {**inherited, "XDG_CONFIG_HOME": str(tmp_path), "COLUMNS": "200", "TERM": "xterm"}


def started(tmp_path: Path, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*FEDHFT, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(tmp_path)
    )


def seconds_to_line(process: subprocess.Popen[bytes], begun: float) -> tuple[str, float]:
    """The first line on standard error and when it came."""
    assert process.stderr is not None
    line = process.stderr.readline().decode()
    return line, time.monotonic() - begun


def ready_line(tmp_path: Path) -> float:
    """Seconds that the command itself takes to start here, which a loaded machine makes long."""
    begun = time.monotonic()
    subprocess.run(
        [*FEDHFT, "job", "list", "--server", "nonsense"], capture_output=True, env=environment(tmp_path), check=False
    )
    return time.monotonic() - begun


def test_words_come_within_two_seconds_of_a_call_that_is_not_answered(silent: str, tmp_path: Path) -> None:
    start_s = ready_line(tmp_path)
    process = started(tmp_path, "job", "list", "--server", silent)
    try:
        line, seconds = seconds_to_line(process, time.monotonic())
        assert line.startswith(f"fedhft: waiting for {silent}: ")
        assert seconds < 2.0 + 3 * start_s
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    finally:
        process.kill()
        process.communicate()


def test_a_terminal_gets_a_spinner_on_standard_error_and_nothing_on_standard_output(
    silent: str, tmp_path: Path
) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*FEDHFT, "job", "list", "-o", "json", "--server", silent],
        stdout=subprocess.PIPE, stderr=theirs, env=environment(tmp_path),
    )  # fmt: skip
    os.close(theirs)
    try:
        seen = b""
        deadline = time.monotonic() + 30
        while seen.count(b"waiting for") < 3 and time.monotonic() < deadline:
            seen += os.read(ours, 4096)
        assert seen.count(b"waiting for") >= 3, seen  # it moves
        process.send_signal(signal.SIGINT)
        assert (process.communicate(timeout=20)[0], process.returncode) == (b"", 130)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def test_the_cause_is_told_where_nothing_listens(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        free = f"127.0.0.1:{server.getsockname()[1]}"
    begun = time.monotonic()
    done = subprocess.run(
        [*FEDHFT, "job", "list", "--server", free], capture_output=True, text=True, timeout=60, check=False,
        env=environment(tmp_path),
    )  # fmt: skip
    lines = done.stderr.splitlines()
    assert done.returncode == 40, time.monotonic() - begun
    assert lines[0].startswith(f"fedhft: waiting for {free}: ")
    assert "does not answer" in lines[0]
    assert lines[-1].startswith("fedhft: ")
    assert "does not answer" in lines[-1]


def test_an_interrupted_submission_says_that_its_outcome_is_not_known(silent: str, tmp_path: Path) -> None:
    file = tmp_path / "job.toml"
    file.write_text(JOB)
    process = started(tmp_path, "job", "submit", str(file), "--server", silent)
    try:
        seconds_to_line(process, time.monotonic())
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 130
    assert b"interrupted; whether the job was submitted is not known; `fedhft job get patient` tells" in err
    assert out == b""
    assert b"Traceback" not in err
