"""The commands of docs/page.md, with addresses of this test: an aggregator with its page, and what programs ask it."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from fedhft.job import parse_job
from fedhft.jobs.client import JobsClient
from fedhft.local.processes import ServiceProcess, stop_all
from tests.agents import ENVIRONMENT
from tests.documented import shell_blocks

PAGE = "docs/page.md"
DOCUMENTED = "127.0.0.1:8080"


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_documented_commands_start_a_page_and_read_it(fresh_redis_url: str, tmp_path: Path) -> None:
    starting = next(block for block in shell_blocks(PAGE, "Starting it") if "not-run" not in block.marks)
    (asking,) = shell_blocks(PAGE, "For programs")
    (line,) = starting.lines
    program, service, *words = shlex.split(line)
    assert (program, service, words[-1]) == ("fedhft", "aggregator", DOCUMENTED)
    here = {"--redis": fresh_redis_url, "--clusterer": "", "--listen": "127.0.0.1:0", "--page": "127.0.0.1:0"}
    options = {flag: here.get(flag, value) for flag, value in zip(words[::2], words[1::2], strict=True)}
    given = [word for pair in options.items() for word in pair if pair[1]]
    more = ["--admin-listen", "127.0.0.1:0", "--metrics-port", "0"]
    process = ServiceProcess("aggregator", "fedhft_aggregator", [*given, *more], tmp_path / "log", ENVIRONMENT)
    try:
        told = process.wait_listening(60)
        with JobsClient(told["admin"]) as jobs:
            jobs.submit(parse_job({"name": "tickets", "model": {"name": "m"}, "task": {"labels": ["a", "b"]}}))
        answers = [read(command.replace(DOCUMENTED, told["page"])) for command in asking.lines]
    finally:
        stop_all([process], 0.0, 15.0)
    *objects, events = answers
    assert len(objects) == 4
    assert all(json.loads(text) is not None for text in objects)
    assert "tickets" in objects[0]
    assert "event: " in events


def read(command: str) -> str:
    """What curl printed; of a stream, what it printed within three seconds."""
    words = shlex.split(command)
    assert words[0] == "curl"
    bound = ["--max-time", "3" if "-sN" in words else "20", "--fail"]
    done = subprocess.run([*words, *bound], capture_output=True, text=True, timeout=40, check=False)
    assert done.returncode in ((0, 28) if "-sN" in words else (0,)), (command, done.stderr)
    return done.stdout
