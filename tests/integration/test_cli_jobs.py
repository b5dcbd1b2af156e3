"""`fedhft job ...` against a real aggregator over a real Redis."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from benchmarks import scale_job
from fedhft.errors import OUTCOMES, ErrorCode, FedhftError
from fedhft.export.published import fetch_adapters
from fedhft.ids import JobId
from fedhft.jobs.client import JobsClient
from fedhft.local.processes import ServiceProcess, stop_all
from fedhft.local.redis import EmbeddedRedis
from fedhft.records import JobStatus
from fedhft.store.open import open_store
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
    """Address of an aggregator on a Redis without what other tests left there."""
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
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
    assert (clusters["rows"], clusters["reason"]) == ([], "")

    cancelled = json.loads(job(server, "cancel", "cli-1", "--reason", "not needed", "--format", "json").stdout)
    assert (cancelled["status"], cancelled["reason"]) == ("cancelled", "not needed")
    watched = job(server, "watch", "cli-1", "--format", "json")
    assert watched.returncode == 42
    assert json.loads(watched.stdout.splitlines()[-1])["status"] == "cancelled"
    assert "not needed" in watched.stderr


@pytest.fixture(scope="module")
def long_job(server: str, redis_server: EmbeddedRedis) -> str:
    """A job of 50 rounds, of which 45 are kept, that was cancelled."""

    async def write() -> None:
        store, name = open_store(redis_server.url, "redis"), JobId("long-cli")
        await store.create_job(name, scale_job.big_job(name, 1, 100).canonical())
        await store.acquire(name, scale_job.HOLDER, 60_000)  # before the aggregator finds it
        await scale_job.write_history(store, name, 1, 50, kept=45)
        await store.set_status(name, JobStatus.CANCELLED, "long enough", [JobStatus.RUNNING])
        await store.close()

    asyncio.run(write())
    return "long-cli"


def test_people_are_shown_the_last_rounds_and_told_what_they_do_not_see(server: str, long_job: str) -> None:
    gone = "rounds 1 to 5 are no longer kept"
    for arguments, first, said in (
        ((), 31, "rounds 6 to 30 are not shown; `fedhft job get long-cli --rounds 0` shows all that are kept"),
        (("--rounds", "3"), 48, "rounds 6 to 47 are not shown"),
        (("--rounds", "0"), 6, ""),
    ):
        shown = job(server, "get", long_job, *arguments).stdout
        assert gone in shown
        assert said in shown
        assert ("not shown" in shown) is bool(said)
        numbers = [
            int(line.split()[0]) for line in shown.splitlines() if line.split()[:1] and line.split()[0].isdigit()
        ]
        assert numbers == list(range(first, 51))
    watched = job(server, "watch", long_job, "--rounds", "2").stdout.splitlines()
    assert watched[:2] == [
        gone,
        "rounds 6 to 48 are not shown; `fedhft job get long-cli --rounds 0` shows all that are kept",
    ]
    assert [line.split(":")[0] for line in watched[2:]] == ["long-cli round 49", "long-cli round 50"]


def test_programs_get_every_round_that_is_kept(server: str, long_job: str) -> None:
    told = json.loads(job(server, "get", long_job, "--format", "json").stdout)
    assert (told["rounds_done"], told["history_from"]) == (50, 6)
    assert [entry["round"] for entry in told["history"]] == list(range(6, 51))
    few = json.loads(job(server, "get", long_job, "--rounds", "2", "--format", "json").stdout)
    assert [entry["round"] for entry in few["history"]] == [49, 50]
    line = json.loads(job(server, "watch", long_job, "--format", "json").stdout.splitlines()[0])
    assert [entry["round"] for entry in line["history"]] == list(range(31, 51))


def test_a_job_that_is_over_is_written_to_a_tracker_whole(server: str, long_job: str, tmp_path: Path) -> None:
    watched = job(server, "watch", long_job, "--tracker", f"tensorboard={tmp_path}", "-o", "name")
    assert watched.returncode == OUTCOMES[ErrorCode.JOB_FAILED].exit_code
    (file,) = (tmp_path / long_job).iterdir()
    assert file.read_bytes().count(b"personal_before_mean") == 45  # every round that is kept
    refused = job(server, "watch", long_job, "--tracker", "elsewhere", "-o", "name")
    assert "--tracker = 'elsewhere': is not a tracker; write tensorboard=DIR or mlflow=URI" in refused.stderr


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
