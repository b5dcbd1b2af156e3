"""The Tab key offers names of jobs and clients that a server knows, and is quick and silent where none answers."""

from __future__ import annotations

import asyncio
import inspect
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from fedhft.cli.completion import ASK_S, JobArgument
from fedhft.cli.job import app
from fedhft.rpc.server import ServerSettings, start_server
from fedhft.v1 import jobs_pb2_grpc
from tests.aggregator import serving
from tests.certificates import Certificates
from tests.documented import shell_blocks
from tests.light import light_job

PAGE = "docs/cli.md"
PROGRAM = "import sys; sys.argv[0] = 'fedhft'; from fedhft.cli.main import main; main()"


def pressed(words: str, home: Path, shell: str = "bash", **variables: str) -> subprocess.CompletedProcess[str]:
    """What the shell is told when somebody presses Tab after these words."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("FEDHFT_")}
    asked = {
        "bash": {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)},
        "fish": {"_TYPER_COMPLETE_ARGS": words, "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
    }[shell]
    return subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**inherited, "XDG_CONFIG_HOME": str(home), "_FEDHFT_COMPLETE": f"complete_{shell}", **asked, **variables},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


async def offered(words: str, home: Path, **variables: str) -> list[str]:
    done = await asyncio.to_thread(pressed, words, home, **variables)
    assert done.stderr == ""
    return done.stdout.split()


def test_the_documented_command_makes_bash_complete(tmp_path: Path) -> None:
    (block,) = shell_blocks(PAGE, "Completion")
    own = {"HOME": str(tmp_path), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    def typed(*shell: str, text: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            shell, input=text, env={**os.environ, **own}, capture_output=True, text=True, timeout=60, check=False
        )

    installed = typed("bash", text=block.text)
    assert installed.returncode == 0, installed.stderr
    asked = typed("bash", "--rcfile", str(tmp_path / ".bashrc"), "-ic", "complete -p fedhft")
    assert asked.stdout.startswith("complete "), asked.stderr


async def test_names_of_jobs_and_clients_come_from_the_server(fresh_redis_url: str, tmp_path: Path) -> None:
    async with serving(fresh_redis_url) as aggregator:
        for name in ("tickets", "triage", "notes"):
            await aggregator.submit(light_job(name))
        for name in ("ash", "aspen", "birch"):
            await aggregator.client(name, light_job("notes")).enter()
        there = {"FEDHFT_ADMIN_SERVER": aggregator.address}
        assert await offered("fedhft job get ", tmp_path, **there) == ["tickets", "triage", "notes"]
        assert await offered("fedhft job export t", tmp_path, **there) == ["tickets", "triage"]
        assert await offered(f"fedhft job get --server {aggregator.address} n", tmp_path) == ["notes"]
        assert await offered("fedhft client remove as", tmp_path, **there) == ["ash", "aspen"]
        assert await offered("fedhft job export notes --client b", tmp_path, **there) == ["birch"]
        assert await offered("fedhft job export gone --client b", tmp_path, **there) == []
        fish = await asyncio.to_thread(pressed, "fedhft job get tr", tmp_path, "fish", **there)
        assert fish.stdout.split() == ["triage", "waiting"], "shells that show a word on each get one"


def test_every_command_about_a_job_completes_its_name() -> None:
    about = {
        str(command.name or command.callback.__name__): inspect.signature(command.callback).parameters["job"].annotation
        for command in app.registered_commands
        if command.callback is not None and "job" in inspect.signature(command.callback).parameters
    }
    assert {"get", "watch", "events", "clusters", "clients", "cancel", "delete", "export", "plan"} <= set(about)
    assert {name for name, annotation in about.items() if annotation != JobArgument} == set()


async def test_the_context_in_use_and_its_certificate_are_those_of_the_command(
    fresh_redis_url: str, tmp_path: Path
) -> None:
    from fedhft_aggregator.jobs_service import Jobs
    from fedhft_aggregator.loops import JobLoops

    from fedhft.coordination.job_cache import JobCache
    from fedhft.store.open import open_store
    from tests.cli_runner import run_cli

    certificates = Certificates(tmp_path)
    store = open_store(fresh_redis_url, "redis")
    await store.create_job(light_job("secret").name, light_job("secret").canonical())  # type: ignore[arg-type]
    jobs = Jobs(store, JobLoops(store, JobCache(store), None, lambda point: None))
    settings = ServerSettings("127.0.0.1:0", tls=certificates.of("aggregator"))
    server = await start_server(settings, lambda one: jobs_pb2_grpc.add_JobsServicer_to_server(jobs, one), [])
    try:
        ops = certificates.of("operator/ops")
        made = run_cli(
            "config", "set", "clinics", "--admin-server", server.address, "--tls-authority", str(ops.authority),
            "--tls-certificate", str(ops.certificate), "--tls-key", str(ops.key), XDG_CONFIG_HOME=str(tmp_path),
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
        assert await offered("fedhft job get ", tmp_path) == ["secret"]
        plain = tmp_path / "plain"
        assert await offered("fedhft job get ", plain, FEDHFT_ADMIN_SERVER=server.address) == []
    finally:
        await server.stop(0)
        await store.close()


def test_a_server_that_is_away_or_silent_costs_no_more_than_a_second_and_no_word(tmp_path: Path) -> None:
    def seconds(**variables: str) -> float:
        begun = time.monotonic()
        done = pressed("fedhft job get ", tmp_path, **variables)
        assert (done.stdout.strip(), done.stderr) == ("", "")
        return time.monotonic() - begun

    # An option that cannot work is found before anything is asked: what the command itself costs on this machine.
    alone = min(seconds(FEDHFT_ADMIN_SERVER="nonsense") for _ in range(2))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        held: list[socket.socket] = []
        threading.Thread(target=lambda: held.append(silent.accept()[0]), daemon=True).start()
        waited = seconds(FEDHFT_ADMIN_SERVER=f"127.0.0.1:{silent.getsockname()[1]}")
    assert ASK_S <= 1.0
    assert waited < 2 * alone + ASK_S + 1.0
    with socket.create_server(("127.0.0.1", 0)) as free:
        nobody = f"127.0.0.1:{free.getsockname()[1]}"
    assert seconds(FEDHFT_ADMIN_SERVER=nobody) < 2 * alone + ASK_S + 1.0
