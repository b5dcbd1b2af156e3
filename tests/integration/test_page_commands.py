"""The commands of docs/page.md, with real processes; addresses become those that are free here."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from fedhft.local.processes import ServiceProcess, stop_all
from fedhft.store.open import open_store
from tests.certificates import Certificates
from tests.documented import shell_blocks
from tests.watched_jobs import WatchedJob, names, watched_spec

PAGE = "docs/page.md"


def run(line: str, folder: Path, **environment: str) -> str:
    done = subprocess.run(
        shlex.split(line), cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, f"{line}: {done.stderr}"
    return done.stdout


def beginning(line: str, lines: int) -> list[str]:
    """The first lines that a command prints, which would go on for ever."""
    with subprocess.Popen(shlex.split(line), stdout=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None
        first = [following.stdout.readline() for _ in range(lines)]
        following.kill()
    return first


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
async def test_the_page_starts_and_answers_programs_as_documented(tmp_path: Path, fresh_redis_url: str) -> None:
    store = open_store(fresh_redis_url, "redis")
    job = WatchedJob(store, watched_spec("tickets"), names(3, "firm"))
    await job.start()
    await job.run(3)
    (start,) = shell_blocks(PAGE, "Starting it")[0].lines
    words = shlex.split(start)[2:]
    wanted = {"--redis": fresh_redis_url, "--listen": "127.0.0.1:0", "--page": "127.0.0.1:0"}
    for option, value in wanted.items():
        words[words.index(option) + 1] = value
    words += ["--admin-listen", "127.0.0.1:0", "--metrics-port", "0"]
    aggregator = ServiceProcess("aggregator", "fedhft_aggregator", words, tmp_path / "log", {})
    try:
        address = aggregator.wait_listening(60.0)["page"]
        *asked, stream = (
            line.replace("127.0.0.1:8080", address) for line in shell_blocks(PAGE, "For programs")[0].lines
        )
        answers = [await asyncio.to_thread(run, line, tmp_path) for line in asked]
        assert all('"error"' not in answer for answer in answers), answers
        assert len(answers) == 4
        first = await asyncio.to_thread(beginning, stream, 6)
        assert any(line.startswith("event: job") for line in first), first
    finally:
        stop_all([aggregator], 0.0, 15.0)
        await store.close()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_an_operator_s_certificate_becomes_a_browser_s_file_as_documented(tmp_path: Path) -> None:
    issued = Certificates(tmp_path / "own").of("operator/alice")
    assert issued.certificate is not None
    (tmp_path / "operator").mkdir()
    (tmp_path / "operator" / "alice").symlink_to(issued.certificate.parent)
    (line,) = shell_blocks(PAGE, "Who sees it")[0].lines
    run(f"{line} -passout env:PASSWORD", tmp_path, PASSWORD="secret")
    told = run("openssl pkcs12 -in alice.p12 -nokeys -passin env:PASSWORD", tmp_path, PASSWORD="secret")
    assert "BEGIN CERTIFICATE" in told
