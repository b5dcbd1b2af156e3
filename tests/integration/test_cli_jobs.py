"""`fedhft job ...` against a real aggregator over a real Redis."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedhft.errors import OUTCOMES, ErrorCode, FedhftError
from fedhft.export.published import fetch_adapters
from fedhft.jobs.client import JobsClient
from fedhft.local.processes import ServiceProcess, stop_all
from fedhft.local.redis import EmbeddedRedis
from fedhft.v1 import adapter_pb2
from tests.cli_runner import Done, run_cli
from tests.models import tiny_model

JOB = """
name = "{name}"
[model]
name = "some/model"
[task]
labels = ["no", "yes"]
"""


@pytest.fixture(scope="module")
def server(redis_server: EmbeddedRedis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of an aggregator."""
    folder = tmp_path_factory.mktemp("aggregator")
    arguments = [
        "--listen",
        "127.0.0.1:0",
        "--admin-listen",
        "127.0.0.1:0",
        "--metrics-port",
        "0",
        "--redis",
        redis_server.url,
    ]
    process = ServiceProcess("aggregator", "fedhft_aggregator", arguments, folder / "log", {"PYTHONUNBUFFERED": "1"})
    try:
        yield str(process.wait_listening(60)["admin"])
    finally:
        stop_all([process], 0.0, 15.0)


def job(server: str, *arguments: str) -> Done:
    return run_cli("job", *arguments, FEDHFT_ADMIN_SERVER=server)


def write_job(folder: Path, name: str) -> str:
    file = folder / f"{name}.toml"
    file.write_text(JOB.format(name=name))
    return str(file)


def test_a_job_is_submitted_shown_listed_and_cancelled(server: str, tmp_path: Path) -> None:
    file = write_job(tmp_path, "cli-1")
    submitted = json.loads(job(server, "submit", file, "--format", "json").stdout)
    assert (submitted["job"], submitted["status"]) == ("cli-1", "waiting")
    assert submitted["spec"]["model"]["name"] == "some/model"
    assert job(server, "submit", file).returncode == 0  # the identical job again

    listed = json.loads(job(server, "list", "--format", "json").stdout)["jobs"]
    assert [entry["status"] for entry in listed if entry["job"] == "cli-1"] == ["waiting"]
    assert "cli-1" in job(server, "list").stdout
    assert "cli-1: waiting" in job(server, "get", "cli-1").stdout
    clusters = json.loads(job(server, "clusters", "cli-1", "--format", "json").stdout)
    assert clusters["rows"] == []

    cancelled = json.loads(job(server, "cancel", "cli-1", "--reason", "not needed", "--format", "json").stdout)
    assert (cancelled["status"], cancelled["reason"]) == ("cancelled", "not needed")
    watched = job(server, "watch", "cli-1", "--format", "json")
    assert watched.returncode == 42
    assert json.loads(watched.stdout.splitlines()[-1])["status"] == "cancelled"
    assert "not needed" in watched.stderr


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("get", "absent"), 12),
        (("watch", "absent"), 12),
        (("cancel", "absent"), 12),
        (("get", "No Id"), 14),
        (("export", "absent", "--out", "x"), 12),
    ],
)
def test_a_servers_refusal_has_its_own_exit_code(server: str, arguments: tuple[str, ...], code: int) -> None:
    done = job(server, *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith("fedhft: ")


def test_another_job_under_the_same_name_is_refused(server: str, tmp_path: Path) -> None:
    file = write_job(tmp_path, "cli-2")
    assert job(server, "submit", file).returncode == 0
    Path(file).write_text(JOB.format(name="cli-2") + "\n[rounds]\ntotal = 9\n")
    assert job(server, "submit", file).returncode == 11


def test_nothing_can_be_exported_before_the_first_round(server: str, tmp_path: Path) -> None:
    job(server, "submit", write_job(tmp_path, "cli-3"))
    with JobsClient(server) as client, pytest.raises(FedhftError, match="published no adapter") as caught:
        fetch_adapters(client, "cli-3")
    assert caught.value.code is ErrorCode.JOB_NOT_RUNNING
    with JobsClient(server) as client, pytest.raises(FedhftError) as caught:
        client.blob("cli-3", adapter_pb2.BlobRef(digest=bytes(32), size=5))
    assert caught.value.code is ErrorCode.UNKNOWN_BLOB


def test_a_watch_sees_a_cancellation_at_once_and_ends(server: str, tmp_path: Path) -> None:
    job(server, "submit", write_job(tmp_path, "cli-4"))
    seen: list[str] = []
    began = threading.Event()

    def watch() -> None:
        with JobsClient(server) as client:
            for state in client.watch("cli-4"):
                seen.append(state.status)
                began.set()

    watcher = threading.Thread(target=watch)
    watcher.start()
    assert began.wait(30)
    with JobsClient(server) as client:
        client.cancel("cli-4", "enough")
    watcher.join(10)
    assert not watcher.is_alive()
    assert (seen[0], seen[-1]) == ("waiting", "cancelled")


def test_a_watch_whose_client_is_closed_ends(server: str, tmp_path: Path) -> None:
    job(server, "submit", write_job(tmp_path, "cli-5"))
    client = JobsClient(server)
    states = client.watch("cli-5")
    assert next(states).status == "waiting"
    client.close()
    for watch in (states, client.watch("cli-5")):
        with pytest.raises(FedhftError) as caught:
            next(watch)
        assert caught.value.code is ErrorCode.SERVER_UNAVAILABLE


def test_a_model_pins_what_is_trained_exactly_as_an_agent_would_have_it(server: str, tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model")
    file = write_job(tmp_path, "pinned")
    told = job(server, "submit", file, "--model", str(model), "--format", "json")
    assert json.loads(told.stdout)["schema_pinned"] is True
    assert job(server, "submit", file, "--model", str(model)).returncode == 0
    assert job(server, "submit", file).returncode == 0
    assert "schema: pinned at submission" in job(server, "get", "pinned").stdout
    other = tiny_model(tmp_path / "other", layers=2)
    refused = job(server, "submit", file, "--model", str(other))
    assert refused.returncode == OUTCOMES[ErrorCode.JOB_EXISTS].exit_code
    assert "first client" in job(server, "submit", write_job(tmp_path, "unpinned")).stdout
