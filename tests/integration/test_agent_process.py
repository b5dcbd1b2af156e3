"""The agent as a process: exit codes, messages, pages, one agent per state directory, several jobs in a row."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from fedhft_agent.connection import Connection, Peer

from fedhft.errors import OUTCOMES, ErrorCode
from fedhft.ids import ClientId
from fedhft.jobs.client import JobsClient
from fedhft.local.processes import ServiceProcess, stop_all
from fedhft.process.signals import StopSignal
from tests.agents import ENVIRONMENT, Site, running_site
from tests.cli_runner import run_cli


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[Site]:
    with running_site(tmp_path_factory.mktemp("process"), redis_url) as running:
        yield running


@pytest.fixture
def started() -> Iterator[list[ServiceProcess]]:
    processes: list[ServiceProcess] = []
    yield processes
    stop_all(processes, 0.0, 15.0)


def exits(process: ServiceProcess, code: ErrorCode | int, timeout_s: float = 90.0) -> str:
    """Wait for the process to end with this code; what it printed."""
    assert process.wait(timeout_s), process.describe_log()
    expected = OUTCOMES[code].exit_code if isinstance(code, ErrorCode) else code
    assert process.exit_code == expected, process.describe_log()
    return process.log.read_text(encoding="utf-8")


def page(address: str, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_help_and_a_connection_need_no_tensor_library() -> None:
    program = (
        "import sys, fedhft_agent.__main__, fedhft_agent.agent\n"
        "assert not {'torch', 'transformers', 'redis', 'sklearn', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--server", ""], "--server = '': is required; give it, or set FEDHFT_SERVER"),
        (["--server", "nowhere"], "--server = 'nowhere': is not an address"),
        (["--client", "Not An Id"], "client = 'Not An Id': is not a valid id"),
        (["--memory", "lots"], "--memory: 'lots' is not a size"),
        (["--threads", "-1"], "--threads = '-1': is not in range"),
        (["--give-up-after", "soon"], "--give-up-after: 'soon' is not a duration"),
        (["--most-epochs", "none"], "--most-epochs = 'none': is not in range; write a number above 0"),
        (["--tls-key", "key.pem"], "TLS: a certificate and its key go together"),
    ],
)
def test_a_wrong_flag_is_named_with_its_fix(site: Site, arguments: list[str], said: str) -> None:
    assert said in exits(site.process("ash", *arguments), ErrorCode.INVALID_ARGUMENT)


def test_flags_can_come_from_the_environment(site: Site) -> None:
    log = site.folder / "environment.log"
    variables = {"FEDHFT_SERVER": site.server, "FEDHFT_CLIENT": "Bad Id", "FEDHFT_DATA": "x.jsonl"}
    process = ServiceProcess("agent", "fedhft_agent", [], log, {**ENVIRONMENT, **variables})
    assert "client = 'Bad Id'" in exits(process, ErrorCode.INVALID_ARGUMENT)


def test_a_server_that_never_answers_is_given_up_with_its_own_code(site: Site, tmp_path: Path) -> None:
    nowhere = Site(tmp_path, "127.0.0.1:9", "127.0.0.1:9", site.model)
    said = exits(nowhere.process("ash", "--give-up-after", "1s"), ErrorCode.SERVER_UNAVAILABLE)
    assert "the server does not answer" in said


def test_a_second_agent_on_one_state_directory_is_refused(site: Site, started: list[ServiceProcess]) -> None:
    first = site.process("idle", "--job", "not-yet", state="shared-state")
    started.append(first)
    first.wait_listening(60)
    second = site.process("idler", "--job", "not-yet", state="shared-state")
    assert "another agent is using it" in exits(second, ErrorCode.INVALID_ARGUMENT)
    first.terminate()
    assert '"message": "stopped"' in exits(first, 0)


def test_an_agent_whose_client_enrolled_elsewhere_ends_and_says_so(site: Site, started: list[ServiceProcess]) -> None:
    site.submit("taken", rounds={"min_clients": 2})
    first = site.process("twin")
    started.append(first)
    wait_for(first, "joined")
    with Connection(Peer(site.server, ClientId("twin")), StopSignal()) as second:
        second.enroll()
    exits(first, ErrorCode.LEASE_SUPERSEDED, timeout_s=45.0)  # although it waits for work
    cancel(site, "taken")


def test_a_named_job_that_is_over_or_closed_to_the_client_ends_the_agent(site: Site) -> None:
    site.submit("over")
    cancel(site, "over")
    exits(site.process("late", "--job", "over"), ErrorCode.JOB_NOT_RUNNING)
    site.submit("closed", clients=["somebody-else"])
    said = exits(site.process("stranger", "--job", "closed"), ErrorCode.NOT_AUTHORISED)
    assert "is not open to client stranger" in said
    cancel(site, "closed")


def test_a_job_that_fails_is_the_exit_code(site: Site) -> None:
    site.submit("hopeless", rounds={"min_clients": 2, "join_timeout": "1s"})
    exits(site.process("ash", "--job", "hopeless"), ErrorCode.JOB_FAILED)


def test_bad_data_and_a_bad_model_end_an_agent_that_was_given_one_job(site: Site, tmp_path: Path) -> None:
    site.submit("bad-input")
    data = tmp_path / "bad.jsonl"
    data.write_text(json.dumps({"text": "fine", "label": "good"}) + "\n" + json.dumps({"text": "no label"}) + "\n")
    said = exits(site.process("ash", "--job", "bad-input", data=data), ErrorCode.INVALID_DATA)
    assert "bad.jsonl" in said
    assert "'label'" in said
    said = exits(site.process("ash", "--job", "bad-input", "--model", str(tmp_path)), ErrorCode.INVALID_MODEL)
    assert str(tmp_path) in said
    cancel(site, "bad-input")


def test_an_agent_with_bad_data_says_so_on_its_pages_until_it_serves_a_job(
    site: Site, tmp_path: Path, started: list[ServiceProcess]
) -> None:
    site.submit("sad", task={"labels": ["sad", "glad"]})
    data = tmp_path / "torn.jsonl"
    data.write_text('{"text": "fine", "label": "good"}\n')
    agent = site.process("torn", "--metrics-port", "0", data=data)
    started.append(agent)
    address = agent.wait_listening(60)["metrics"]
    wait_for(agent, "job left")
    status, said = page(address, "/readyz")
    assert (status, json.loads(said)["reason"].startswith("job sad: data ")) == (503, True), said
    assert "torn.jsonl, line 1, column 'label' = 'good': unknown label" in said
    blocked = page(address, "/metrics")[1]
    assert 'fedhft_agent_jobs_blocked{cause="data"} 1.0' in blocked
    assert 'fedhft_agent_jobs_blocked{cause="model"} 0.0' in blocked

    site.submit("glad", rounds={"min_clients": 2})  # which takes the same data
    wait_for(agent, "joined")
    assert page(address, "/readyz")[0] == 200
    assert 'fedhft_agent_jobs_blocked{cause="data"} 1.0' in page(address, "/metrics")[1]
    cancel(site, "sad")
    cancel(site, "glad")
    deadline = time.monotonic() + 30
    while 'fedhft_agent_jobs_blocked{cause="data"} 0.0' not in page(address, "/metrics")[1]:
        assert time.monotonic() < deadline, agent.describe_log()
        time.sleep(0.1)


def test_an_agent_serves_job_after_job_past_one_it_cannot_serve_and_loads_the_model_once(
    site: Site, started: list[ServiceProcess]
) -> None:
    site.submit("unfit", model={"name": str(site.folder / "no-such-model")})
    site.submit("first")
    agent = site.process("serial", "--metrics-port", "0")
    started.append(agent)
    address = agent.wait_listening(60)["metrics"]
    assert site.ended("first").status == "completed"
    site.submit("second")
    assert site.ended("second").status == "completed"
    said = agent.log.read_text(encoding="utf-8")
    assert said.count('"message": "base model loaded"') == 1
    assert said.count('"message": "job left"') == 1
    assert page(address, "/readyz")[0] == 200
    assert page(address, "/healthz")[0] == 200
    metrics = page(address, "/metrics")[1]
    assert 'fedhft_agent_updates_total{outcome="accepted"} 4.0' in metrics
    assert 'fedhft_agent_refusals_total{code="invalid_model"} 1.0' in metrics
    assert "fedhft_refusals_total" not in metrics, "a service's series on an agent's page"
    start = 'fedhft_agent_socket_bytes_total{direction="sent"}'
    sent = next(line for line in metrics.splitlines() if line.startswith(start))
    assert float(sent.split()[1]) > 4000
    kept = site.folder / "state-serial" / "jobs"
    deadline = time.monotonic() + 10
    while any(kept.iterdir()):  # nothing is kept of jobs that are over, once the agent has heard of their end
        assert time.monotonic() < deadline, sorted(kept.iterdir())
        time.sleep(0.05)
    agent.terminate()
    exits(agent, 0)
    cancel(site, "unfit")


def test_an_agent_declines_what_breaks_its_owners_rules_tells_why_and_serves_the_other_jobs(
    site: Site, started: list[ServiceProcess]
) -> None:
    site.submit("too-long", rounds={"total": 100})
    site.submit("allowed")
    settings = site.folder / "owner.toml"
    settings.write_text('most_rounds = 10\nallow_jobs = ["too-*", "allowed"]\n')
    agent = site.process("owned", "--config", str(settings))
    started.append(agent)
    assert site.ended("allowed").status == "completed"
    with JobsClient(site.admin) as jobs:
        (declined,) = jobs.clients("too-long")
    assert declined.client == "owned"
    assert "rounds.total = 100 is above most_rounds = 10" in declined.reason
    assert agent.log.read_text(encoding="utf-8").count('"message": "job declined", "job": "too-long"') == 1
    told = json.loads(run_cli("job", "clients", "too-long", "--format", "json", FEDHFT_ADMIN_SERVER=site.admin).stdout)
    assert [(one["client"], one["state"], one["tier"]) for one in told["clients"]] == [("owned", "declined", "")]
    table = run_cli("job", "clients", "too-long", FEDHFT_ADMIN_SERVER=site.admin, COLUMNS="200").stdout
    assert "declined" in table
    assert "most_rounds = 10" in table
    cancel(site, "too-long")


def test_a_plan_beyond_the_agents_memory_is_declined_with_the_figures(site: Site) -> None:
    site.submit("large-plan")
    exits(site.process("small", "--job", "large-plan", "--memory", "50000"), ErrorCode.PLAN_TOO_LARGE)
    with JobsClient(site.admin) as jobs:
        (declined,) = jobs.clients("large-plan")
    assert declined.reason.startswith("--memory = 50000: ")
    assert "the plan of tier standard needs at least" in declined.reason
    cancel(site, "large-plan")


def test_an_agent_without_a_server_is_alive_but_not_ready(
    site: Site, tmp_path: Path, started: list[ServiceProcess]
) -> None:
    agent = Site(tmp_path, "127.0.0.1:9", "127.0.0.1:9", site.model).process("ash", "--metrics-port", "0")
    started.append(agent)
    address = agent.wait_listening(60)["metrics"]
    assert page(address, "/healthz")[0] == 200
    status, said = page(address, "/readyz")
    assert (status, json.loads(said)["reason"]) == (503, "not enrolled yet")


def wait_for(process: ServiceProcess, message: str, timeout_s: float = 90.0) -> None:
    deadline = time.monotonic() + timeout_s
    while f'"message": "{message}"' not in process.log.read_text(encoding="utf-8"):
        assert time.monotonic() < deadline, process.describe_log()
        time.sleep(0.05)


def cancel(site: Site, job: str) -> None:
    with JobsClient(site.admin) as jobs:
        jobs.cancel(job, "the test is over")
