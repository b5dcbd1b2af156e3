"""The section on TLS of the documents, done line by line with real processes."""

from __future__ import annotations

import json
import re
import shlex
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedhft.errors import OUTCOMES, ErrorCode
from fedhft.local.processes import ServiceProcess, stop_all
from tests.cli_runner import run_cli

ROOT = Path(__file__).resolve().parent.parent.parent
FREE = ["--listen", "127.0.0.1:0", "--metrics-port", "0"]


def blocks() -> list[list[list[str]]]:
    """The words of every line of every block of commands in the section."""
    section = (ROOT / "docs/operations.md").read_text(encoding="utf-8").partition("\n## TLS\n")[2].partition("\n## ")[0]
    found = re.findall(r"^```sh\n(.*?)^```", section, re.M | re.S)
    return [[shlex.split(line) for line in block.splitlines()] for block in found]


@pytest.fixture
def started() -> Iterator[list[ServiceProcess]]:
    processes: list[ServiceProcess] = []
    yield processes
    stop_all(processes, 0.0, 15.0)


def ready(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{address}/readyz", timeout=5) as answer:
            return bool(json.loads(answer.read())["ready"])
    except urllib.error.HTTPError:
        return False


def test_the_documented_lines_make_a_federation_over_tls_and_revoke_one_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_redis_url: str, started: list[ServiceProcess]
) -> None:
    monkeypatch.chdir(tmp_path)
    issuing, running, revoking = blocks()
    for words in issuing:
        done = run_cli(*words[1:])
        assert done.returncode == 0, f"{words}: {done.stderr}"
    assert "agent/firm-01" in done.stdout  # the last line lists them

    lines = {words[1]: words[2:] for words in running}
    assert list(lines) == ["clusterer", "aggregator", "agent", "job"]

    def start(name: str, *more: str) -> dict[str, str]:
        log = tmp_path / f"{name}.log"
        process = ServiceProcess(name, f"fedhft_{name}", [*lines[name], *more], log, {})
        started.append(process)
        return process.wait_listening(60)

    store = ["--redis", fresh_redis_url]
    clusterer = start("clusterer", *FREE, *store)
    aggregator = start("aggregator", *FREE, *store, "--clusterer", clusterer["grpc"], "--admin-listen", "127.0.0.1:0")
    listed = run_cli("job", *lines["job"], "--server", aggregator["admin"], "--format", "json")
    assert (listed.returncode, json.loads(listed.stdout)) == (0, {"jobs": []}), listed.stderr
    agent = start("agent", "--server", aggregator["grpc"], "--metrics-port", "0", "--state-dir", str(tmp_path / "s"))
    deadline = time.monotonic() + 60
    while not ready(agent["metrics"]):
        assert time.monotonic() < deadline, started[-1].describe_log()
        time.sleep(0.1)

    # Agents cannot reach the service of people, and say where it is.
    wrong = run_cli("job", *lines["job"], "--server", aggregator["grpc"])
    assert (wrong.returncode, "--admin-listen" in wrong.stderr) == (17, True), wrong.stderr
    plain = run_cli("job", "list", "--server", aggregator["admin"])
    assert (plain.returncode, "this side does not; give --tls-authority" in plain.stderr) == (58, True), plain.stderr

    (words,) = revoking
    done = run_cli(*words[1:], "--server", aggregator["admin"])
    assert done.returncode == 0, done.stderr
    assert started[-1].wait(30.0), started[-1].describe_log()
    assert started[-1].exit_code == OUTCOMES[ErrorCode.CERTIFICATE_REVOKED].exit_code
    assert ready(aggregator["metrics"])
