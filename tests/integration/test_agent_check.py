"""`fedhft agent check` before an agent runs: it finds what would keep the agent from working, and changes nothing."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from fedhft_agent.__main__ import main
from fedhft_agent.check.files import check_memory, check_model
from fedhft_agent.check.findings import Finding, Status, ok
from fedhft_agent.check.scene import Check, Scene, run_check
from fedhft_agent.check.server import _clock
from fedhft_agent.check.settings import CheckSettings
from fedhft_agent.connection import Connection, Peer
from fedhft_agent.state_directory import StateDirectory

from fedhft.errors import OUTCOMES, ErrorCode
from fedhft.ids import ClientId
from fedhft.jobs.client import JobsClient
from fedhft.local.processes import ServiceProcess, stop_all
from fedhft.process.free_memory import FreeMemory
from fedhft.process.signals import StopSignal
from fedhft.rpc.server import ServerSettings, start_server
from fedhft.rpc.tls import TlsSettings
from fedhft.training.stored_weights import stored_values
from tests.agents import ENVIRONMENT, Site, free_address, running_site
from tests.certificates import Certificates
from tests.documented import shell_blocks
from tests.models import tiny_model

Found = dict[str, list[dict[str, str]]]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[Site]:
    with running_site(tmp_path_factory.mktemp("check"), redis_url) as running:
        yield running


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def guarded_port(tmp_path_factory: pytest.TempPathFactory, redis_url: str, certificates: Certificates) -> Iterator[str]:
    """Port of a server with TLS on every address of this machine; its certificate is for localhost and 127.0.0.1."""
    folder = tmp_path_factory.mktemp("guarded")
    arguments = ["--redis", redis_url, "--listen", "0.0.0.0:0", "--admin-listen", "127.0.0.1:0", "--metrics-port", "0"]
    arguments += flags(certificates.of("aggregator"))
    server = ServiceProcess("aggregator", "fedhft_aggregator", arguments, folder / "aggregator.log", ENVIRONMENT)
    try:
        yield server.wait_listening(60)["grpc"].rpartition(":")[2]
    finally:
        stop_all([server], 0.0, 15.0)


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("FEDHFT_") or name == "COLUMNS"]:
        monkeypatch.delenv(name)


def flags(tls: TlsSettings) -> list[str]:
    given = {"--tls-certificate": tls.certificate, "--tls-key": tls.key, "--tls-authority": tls.authority}
    return [word for flag, path in given.items() if path is not None for word in (flag, str(path))]


class Looking:
    """The check with what an agent of this site needs; later arguments win."""

    def __init__(self, site: Site, state: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.site, self.state, self._capsys = site, state, capsys

    def arguments(self, *more: str) -> list[str]:
        given = ["--server", self.site.server, "--client", "ash", "--data", str(self.site.data("ash"))]
        given += ["--model", str(self.site.model), "--state-dir", str(self.state)]
        return ["check", *given, *more]

    def __call__(self, *more: str) -> tuple[int, Found]:
        self._capsys.readouterr()
        code = main(self.arguments("--format", "json", *more))
        found: Found = {}
        for finding in json.loads(self._capsys.readouterr().out):
            assert finding.keys() == {"check", "status", "detail", "fix"}
            found.setdefault(finding["check"], []).append(finding)
        return code, found

    def lines(self, *more: str) -> list[str]:
        self._capsys.readouterr()
        main(self.arguments(*more))
        return self._capsys.readouterr().out.splitlines()


@pytest.fixture
def look(site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Looking:
    return Looking(site, tmp_path / "state", capsys)


@pytest.fixture
def job(site: Site) -> Iterator[str]:
    """A job on offer, which waits for two clients."""
    name = f"open-{time.monotonic_ns()}"
    site.submit(name, rounds={"min_clients": 2})
    time.sleep(1.1)  # the server reads which jobs there are once a second
    yield name
    with JobsClient(site.admin) as jobs:
        jobs.cancel(name, "the test is over")


def failures(found: Found) -> list[str]:
    return [one["check"] for listed in found.values() for one in listed if one["status"] == "failed"]


def only_failure(code: int, found: Found, check: str, expected: ErrorCode, *said: str) -> None:
    """Exactly this check failed, with the code that the agent would end with, in these words, and with a fix."""
    assert failures(found) == [check], found
    finding = next(one for one in found[check] if one["status"] == "failed")
    for words in said:
        assert words in finding["detail"], finding
    assert finding["fix"], finding
    assert code == OUTCOMES[expected].exit_code


def test_where_all_is_well_every_check_says_so_and_an_agent_that_runs_keeps_its_lease(look: Looking, job: str) -> None:
    with Connection(Peer(look.site.server, ClientId("ash")), StopSignal()) as running:
        running.enroll()
        code, found = look("--job", job)
        running.enroll()  # LEASE_SUPERSEDED, had another enrolled
    assert code == 0
    assert list(found) == [
        "address", "certificate", "server", "clock", "jobs", "rules", "data", "model", "memory", "disk",
    ]  # fmt: skip
    assert {one["status"] for listed in found.values() for one in listed} == {"ok"}, found
    assert "32 training rows, 8 held out" in found["data"][0]["detail"]
    assert "training labels: good 50%, bad 50%" in found["data"][0]["detail"]
    assert f"fits job {job}" in found["model"][0]["detail"]
    assert [path.name for path in look.state.iterdir()] == ["lock"]
    with JobsClient(look.site.admin) as jobs:
        assert not jobs.get(job).clients


def test_without_a_job_data_and_model_are_checked_for_themselves(look: Looking) -> None:
    code, found = look()
    assert code == 0
    assert "none on offer" in found["jobs"][0]["detail"]
    assert "train: 40 rows (0 50%, 1 50%)" in found["data"][0]["detail"]
    assert "all files whole" in found["model"][0]["detail"]


def test_a_server_that_is_away_is_found_and_hides_nothing_else(look: Looking, tmp_path: Path) -> None:
    code, found = look("--server", free_address(), "--model", str(tmp_path))
    assert code == OUTCOMES[ErrorCode.SERVER_UNAVAILABLE].exit_code
    assert failures(found) == ["address", "model"]
    assert "connection refused" in found["address"][0]["detail"]
    assert (found["server"][0]["status"], found["data"][0]["status"]) == ("warning", "ok")


def test_a_name_that_is_not_known_is_found(look: Looking) -> None:
    only_failure(
        *look("--server", "no-such-host.invalid:1"),
        "address",
        ErrorCode.SERVER_UNAVAILABLE,
        "the name no-such-host.invalid of no-such-host.invalid:1 is not known",
    )


def test_with_sound_certificates_the_server_takes_the_client(
    look: Looking, certificates: Certificates, guarded_port: str
) -> None:
    code, found = look("--server", f"localhost:{guarded_port}", *flags(certificates.of("agent/ash")))
    assert (code, failures(found)) == (0, [])
    assert "spiffe://clinics.example/agent/ash expires in 9" in found["certificate"][0]["detail"]
    assert "would take ash" in found["server"][0]["detail"]


def test_a_wrong_name_is_found_and_the_right_ones_are_told(
    look: Looking, certificates: Certificates, guarded_port: str
) -> None:
    code, found = look("--server", f"127.0.0.2:{guarded_port}", *flags(certificates.of("agent/ash")))
    assert (code, failures(found)) == (OUTCOMES[ErrorCode.SERVER_NAME_MISMATCH].exit_code, ["tls"])
    assert "is for localhost, 127.0.0.1, not for 127.0.0.2" in found["tls"][0]["detail"]


def test_a_certificate_that_ends_soon_is_a_warning(
    look: Looking, certificates: Certificates, guarded_port: str
) -> None:
    code, found = look("--server", f"127.0.0.1:{guarded_port}", *flags(certificates.ending("agent/ash", 7200)))
    assert code == 0
    assert (found["certificate"][0]["status"], "expires in 2 hours" in found["certificate"][0]["detail"]) == (
        "warning",
        True,
    )


@pytest.mark.parametrize("holder", ["agent/elm", "operator/olga"])
def test_a_certificate_of_somebody_else_is_found(
    look: Looking, certificates: Certificates, guarded_port: str, holder: str
) -> None:
    code, found = look("--server", f"127.0.0.1:{guarded_port}", *flags(certificates.of(holder)))
    assert (code, failures(found)[0]) == (OUTCOMES[ErrorCode.IDENTITY_MISMATCH].exit_code, "certificate")
    assert f"the certificate is for spiffe://clinics.example/{holder}" in found["certificate"][0]["detail"]


def test_a_missing_model_is_found(look: Looking, job: str, tmp_path: Path) -> None:
    nowhere = str(tmp_path / "no-model")
    only_failure(*look("--job", job, "--model", nowhere), "model", ErrorCode.INVALID_MODEL, nowhere, "no such folder")


def test_a_torn_model_is_found_and_the_file_named(look: Looking, tmp_path: Path) -> None:
    torn = tiny_model(tmp_path / "torn", layers=2)
    weights = torn / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    code, found = look("--model", str(torn))
    only_failure(code, found, "model", ErrorCode.INVALID_MODEL, str(weights), "but its header describes")


def test_data_that_cannot_be_read_is_found_by_line(look: Looking, tmp_path: Path) -> None:
    data = tmp_path / "bad.jsonl"
    data.write_text('{"text": "fine", "label": 1}\n{"text": "fi')
    only_failure(*look("--data", str(data)), "data", ErrorCode.INVALID_DATA, "bad.jsonl, line 2")
    empty = tmp_path / "empty.csv"
    empty.write_text("text,label\n")
    only_failure(*look("--holdout", str(empty)), "data", ErrorCode.INVALID_DATA, "empty.csv", "has no rows")


def test_labels_that_do_not_fit_the_job_are_found(look: Looking, job: str, tmp_path: Path) -> None:
    data = tmp_path / "three.jsonl"
    data.write_text("".join(json.dumps({"text": "fine", "label": label}) + "\n" for label in (0, 1, 2)))
    assert look("--data", str(data))[1]["data"][0]["status"] == "failed"  # the one job on offer cannot be served
    code, found = look("--data", str(data), "--job", job)
    only_failure(code, found, "data", ErrorCode.INVALID_DATA, f"job {job}: ", "three.jsonl, line 3", "'label' = 2")


def test_a_job_file_takes_the_place_of_a_server(look: Looking, tmp_path: Path) -> None:
    file = tmp_path / "job.toml"
    text = '[model]\nname = "m"\nmax_length = 32\n[task]\nlabels = [{}]\n[adapter]\nrank = 4\n'
    file.write_text('name = "planned"\n' + text.format('"bad", "good"'))
    code, found = look("--job-file", str(file), "--server", free_address())
    assert failures(found) == ["address"]
    assert "fits job planned" in found["model"][0]["detail"]
    file.write_text('name = "planned"\n' + text.format('"bad", "good", "ugly"'))
    code, found = look("--job-file", str(file))
    assert (code, found["data"][0]["status"]) == (0, "warning")
    assert "no row of ugly" in found["data"][0]["detail"]
    file.write_text("name = 5")
    only_failure(*look("--job-file", str(file)), "jobs", ErrorCode.INVALID_JOB, "name")


def test_one_unfit_job_among_several_is_a_warning_unless_the_agent_is_for_it(look: Looking, job: str) -> None:
    other = f"other-{job}"
    look.site.submit(other, task={"labels": ["zero", "one"], "text": "title"})
    try:
        time.sleep(1.1)  # offers are read once a second
        code, found = look()
        assert code == 0
        assert sorted(one["status"] for one in found["data"]) == ["ok", "warning"]
        code, found = look("--job", other)
        only_failure(code, found, "data", ErrorCode.INVALID_DATA, "no column 'title'")
    finally:
        with JobsClient(look.site.admin) as jobs:
            jobs.cancel(other, "the test is over")


def test_a_job_that_is_closed_to_the_client_or_not_there_yet_is_told(look: Looking) -> None:
    look.site.submit("not-for-ash", clients=["elm"])
    only_failure(*look("--job", "not-for-ash"), "jobs", ErrorCode.NOT_AUTHORISED)
    code, found = look("--job", "never-submitted")
    assert (code, found["jobs"][0]["status"]) == (0, "warning")
    assert "there is no job never-submitted yet" in found["jobs"][0]["detail"]


def test_too_little_memory_is_found(look: Looking, job: str) -> None:
    only_failure(*look("--job", job, "--memory", "1KiB"), "memory", ErrorCode.PLAN_TOO_LARGE, "weights alone take")
    weights = 4 * stored_values(look.site.model)
    code, found = look("--job", job, "--memory", str(weights + 100))  # but no interpreter
    only_failure(code, found, "memory", ErrorCode.PLAN_TOO_LARGE, "needs at least", "no tier of the job is smaller")
    code, found = look("--job", job, "--memory", "8000GiB")
    assert (code, found["memory"][0]["status"]) == (0, "warning")
    assert "more than the" in found["memory"][0]["detail"]


def test_a_model_larger_than_what_is_free_is_found_without_being_loaded(look: Looking) -> None:
    settings = CheckSettings(server="h:1", client=ClientId("ash"), data="d", model=str(look.site.model))
    scene = Scene(settings, free=FreeMemory(1000, "/sys/fs/cgroup/memory.max"))
    (model,) = check_model(scene)
    assert (model.status, "so it was not loaded" in model.detail) == (Status.WARNING, True)
    findings, _ = run_check(Check("memory", check_memory, ErrorCode.PLAN_TOO_LARGE), scene, 5.0)
    assert [(one.code, "1000 B free (by /sys/fs/cgroup/memory.max)" in one.detail) for one in findings] == [
        (ErrorCode.PLAN_TOO_LARGE, True)
    ]


def test_a_state_directory_that_cannot_be_written_is_found(look: Looking, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, found = look("--state-dir", str(tmp_path / "file" / "state"))
    only_failure(code, found, "disk", ErrorCode.INVALID_ARGUMENT, "cannot be used (Not a directory)")
    read_only = "/proc/fedhft"
    assert failures(look("--state-dir", read_only)[1]) == ["disk"]


def test_a_state_directory_in_use_is_a_warning(look: Looking) -> None:
    with StateDirectory(look.state):
        code, found = look()
    assert code == 0
    assert [one["status"] for one in found["disk"]] == ["warning", "ok"]
    assert "an agent is running with it" in found["disk"][0]["detail"]


def test_a_full_disk_is_found(look: Looking, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("only root may mount a file system")
    try:
        code, found = look("--state-dir", str(disk))
        assert (code, found["disk"][0]["status"]) == (0, "warning")  # room for something, but not for 64 MiB
        with suppress(OSError), (disk / "filler").open("wb", buffering=0) as stream:
            while stream.write(bytes(4096)):
                pass
        code, found = look("--state-dir", str(disk))
        only_failure(code, found, "disk", ErrorCode.STORE_FULL, "cannot be written (No space left on device)")
        assert sorted(path.name for path in disk.iterdir()) == ["filler", "lock"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_the_owners_rules_are_held_against_the_job(look: Looking, job: str, tmp_path: Path) -> None:
    settings = tmp_path / "owner.toml"
    settings.write_text('allow_jobs = ["nothing-*"]\nmost_rounds = 5\n')
    code, found = look("--config", str(settings))
    assert (code, found["rules"][0]["status"]) == (0, "warning")
    code, found = look("--config", str(settings), "--job", job)
    only_failure(code, found, "rules", ErrorCode.DECLINED, "is not in allow_jobs")
    settings.write_text("most_rounds = -1\n")
    code, found = look("--config", str(settings))
    only_failure(code, found, "settings", ErrorCode.INVALID_ARGUMENT, "--most-rounds = -1")


@pytest.mark.parametrize("width", [60, 80, 120])
def test_lines_keep_to_the_width_of_the_terminal(look: Looking, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    lines = look.lines("--model", "/a/model/that/is/nowhere", "--server", free_address())
    assert max(map(len, lines)) <= width
    assert any(line.startswith("failed   model        model /a/model/") for line in lines)
    assert sum(line.lstrip().startswith("fix: ") for line in lines) >= 2
    assert lines[-1] == "2 failed, 1 warning, 5 ok"


def test_a_journal_gets_one_line_for_each_finding(look: Looking) -> None:
    lines = look.lines("--model", "/a/model/that/is/nowhere")
    assert [line.split()[1] for line in lines[:-1]] == [
        "address", "certificate", "server", "clock", "jobs", "rules", "data", "model", "memory", "disk",
    ]  # fmt: skip
    assert "; fix: give a model folder or a hub id" in lines[7]


def test_a_check_that_hangs_is_left_behind_and_one_with_a_defect_is_told(look: Looking) -> None:
    scene = Scene(CheckSettings(server="h:1", client=ClientId("ash"), data="d"))

    def hangs(scene: Scene) -> Iterator[Finding]:
        yield ok("data", "something")
        time.sleep(30)

    def breaks(scene: Scene) -> Iterator[Finding]:
        raise ZeroDivisionError("by chance")

    begun = time.monotonic()
    findings, late = run_check(Check("data", hangs, ErrorCode.INVALID_DATA), scene, 0.2)
    assert time.monotonic() - begun < 5.0
    assert late
    assert [(one.status, one.code) for one in findings] == [(Status.OK, None), (Status.FAILED, ErrorCode.INVALID_DATA)]
    findings, late = run_check(Check("data", breaks, ErrorCode.INVALID_DATA), scene, 5.0)
    assert [(one.code, late) for one in findings] == [(ErrorCode.INTERNAL, False)]


@pytest.mark.parametrize(("ahead", "status"), [(0.0, "ok"), (29.0, "ok"), (31.0, "warning"), (-3600.0, "warning")])
def test_a_clock_that_is_off_is_a_warning(ahead: float, status: str) -> None:
    found = _clock(1000.0, 1000.0 + ahead, 1000.2 + ahead)
    assert found.status == status
    assert ("ahead of" if ahead >= 0 else "behind") in found.detail


async def test_a_server_of_an_earlier_release_is_told_from_one_that_is_no_aggregator(look: Looking) -> None:
    for name, expected in (("fedhft.v1.Federation", "warning"), ("other.Service", "failed")):
        server = await start_server(ServerSettings("127.0.0.1:0"), lambda server: None, [name])
        await server.set_ready(True)
        _, found = await asyncio.to_thread(look, "--server", server.address)
        assert found["server"][0]["status"] == expected, found
        await server.stop(0)


def test_the_command_ends_with_the_code_of_the_first_failure(look: Looking, tmp_path: Path) -> None:
    def run(*more: str) -> Any:
        command = [sys.executable, "-m", "fedhft.cli", "agent", *look.arguments(*more)]
        environment = {**os.environ, **ENVIRONMENT, "FEDHFT_CLIENT": "ignored"}
        return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)

    done = run()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "0 failed, 0 warnings, 10 ok"
    done = run("--data", str(tmp_path / "none.jsonl"), "--model", str(tmp_path))
    assert done.returncode == OUTCOMES[ErrorCode.INVALID_DATA].exit_code
    assert done.stdout.splitlines()[-1].startswith("2 failed")


def test_the_documented_command_is_one_that_works(look: Looking, job: str, capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = shell_blocks("docs/operations.md", "Before an agent starts")
    (line,) = block.lines
    here = {"--server": look.site.server, "--job": job, "--data": str(look.site.data("ash"))}
    here["--holdout"] = here["--data"]
    program, agent, check, *given = shlex.split(line)
    assert (program, agent, check) == ("fedhft", "agent", "check")
    options = {flag: here.get(flag, value) for flag, value in zip(given[::2], given[1::2], strict=True)}
    capsys.readouterr()
    words = [word for pair in options.items() for word in pair]
    assert main(["check", *words, "--model", str(look.site.model), "--state-dir", str(look.state)]) == 0
    assert "0 failed" in capsys.readouterr().out
