"""A server that cannot be talked to: what is found out, how long that takes, who waits, proxies, logs."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fedhft_agent.connection import Connection, Peer
from fedhft_aggregator.clusterer_client import RemoteClusterer

from fedhft.errors import OUTCOMES, ErrorCode, FedhftError
from fedhft.ids import ClientId, JobId
from fedhft.jobs.client import JobsClient
from fedhft.local.processes import ServiceProcess
from fedhft.process.signals import StopSignal
from fedhft.rpc.channel import ChannelSettings
from fedhft.rpc.diagnosis import LONGEST_S, diagnose
from fedhft.rpc.outage import Outage
from fedhft.rpc.retry import Backoff
from fedhft.rpc.status import UnreachableError
from fedhft.rpc.tls import TlsSettings
from fedhft.telemetry.registry import REGISTRY
from tests.agents import ENVIRONMENT
from tests.integration.scripted_federation import ScriptedFederation, served
from tests.tls_causes import CAUSES, NO_PROXY, Parties, Proxy, files, job_list, make_parties

BACKOFF = Backoff(first_s=0.05, longest_s=0.2, seldom_s=0.2)


@pytest.fixture(scope="module")
def parties(tmp_path_factory: pytest.TempPathFactory) -> Parties:
    return make_parties(tmp_path_factory.mktemp("parties"))


def peer(server: str, tls: TlsSettings | None, give_up_after_s: float | None = None) -> Peer:
    return Peer(server, ClientId("ash"), tls=tls, give_up_after_s=give_up_after_s, backoff=BACKOFF)


def test_an_agent_s_failed_attempts_are_counted_by_cause(parties: Parties) -> None:
    cause = CAUSES["another name"]
    counted = failures(cause.code)
    with served(ScriptedFederation(), cause.server(parties)) as server:
        given = peer(server.address, cause.client(parties), 1.0)
        with Connection(given, StopSignal()) as connection, pytest.raises(FedhftError):
            connection.enroll()
    assert failures(cause.code) > counted


def failures(code: ErrorCode) -> float:
    """Attempts of agents that did not reach their server, for this cause."""
    return REGISTRY.get_sample_value("fedhft_agent_connection_failures_total", {"code": code.value}) or 0.0


def test_an_agent_waits_for_a_server_s_certificate_to_be_renewed(parties: Parties) -> None:
    contacts: list[bool] = []
    with served(ScriptedFederation(), parties.own.expired("aggregator")) as server:

        def repair() -> None:
            server.stop()
            server.tls = parties.server
            server.start()

        threading.Timer(1.0, repair).start()
        with Connection(peer(server.address, parties.client), StopSignal(), contacts.append) as connection:
            assert len(connection.enroll()) == 1
    assert (contacts[0], contacts[-1]) == (False, True)


@pytest.mark.parametrize("name", ["another authority", "a client in plain text"])
def test_an_agent_that_was_served_before_outlives_what_it_would_not_begin_with(parties: Parties, name: str) -> None:
    cause = CAUSES[name]
    alien = parties.alien.of("agent/ash")
    secured = cause.client(parties) is not None
    # What the server begins with is what this client can talk to.
    client = TlsSettings(alien.certificate, alien.key, alien.authority) if secured else None
    sound = parties.alien.of("aggregator") if secured else None
    with (
        served(ScriptedFederation(), sound) as server,
        Connection(peer(server.address, client), StopSignal()) as connection,
    ):
        connection.enroll()

        def restart(tls: TlsSettings | None) -> None:
            server.stop()
            server.tls = tls
            server.start()

        restart(cause.server(parties))
        threading.Timer(1.5, restart, [sound]).start()
        started = time.monotonic()
        connection.next_task("job", [], wait_ms=0)
        assert time.monotonic() - started > 1.0


def test_a_server_that_is_only_away_keeps_its_code_and_every_address_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        port = taken.getsockname()[1]
        error = diagnose(f"localhost:{port}", None)
    assert error is not None
    assert error.code is ErrorCode.SERVER_UNAVAILABLE
    assert f"localhost:{port} at 127.0.0.1: connection refused" in error.message


def test_localhost_does_not_hide_what_is_wrong_at_its_other_address(parties: Parties) -> None:
    with served(ScriptedFederation(), parties.server) as server:
        port = server.address.rpartition(":")[2]
        code, said = job_list(f"localhost:{port}")
    assert code == OUTCOMES[ErrorCode.SERVER_NEEDS_TLS].exit_code, said
    assert f"localhost:{port} at 127.0.0.1 uses TLS" in said


def test_a_name_that_nobody_knows_is_named() -> None:
    error = diagnose("nowhere.invalid:50051", None, longest_s=30.0)
    assert error is not None
    assert error.code is ErrorCode.SERVER_UNAVAILABLE
    assert "the name nowhere.invalid of nowhere.invalid:50051 is not known here" in error.message


def test_a_sound_server_is_found_sound(parties: Parties) -> None:
    with served(ScriptedFederation(), parties.server) as server:
        assert diagnose(server.address, parties.client) is None
    with served(ScriptedFederation()) as server:
        assert diagnose(server.address, None) is None


def test_an_outage_is_looked_into_once_and_again_after_the_server_had_answered() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        looks = Counted(silent)
        outage = Outage(f"127.0.0.1:{silent.getsockname()[1]}", None)
        away = UnreachableError(ErrorCode.SERVER_UNAVAILABLE, "away")
        first = outage.explain(away)
        after = looks.seen
        assert after > 0
        assert outage.explain(away) is first
        assert looks.seen == after
        outage.answered()
        outage.explain(away)
        assert looks.seen > after
        again = looks.seen
        refusal = FedhftError(ErrorCode.SERVER_UNAVAILABLE, "at capacity")
        assert outage.explain(refusal) is refusal, "the server said so itself"
        assert looks.seen == again


@pytest.mark.parametrize("secured", [False, True])
def test_a_diagnosis_of_a_server_that_never_says_a_word_takes_a_few_seconds(parties: Parties, secured: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        started = time.monotonic()
        error = diagnose(f"127.0.0.1:{mute.getsockname()[1]}", parties.client if secured else None)
        assert time.monotonic() - started < LONGEST_S + 1.0
    assert error is None or error.code is ErrorCode.SERVER_UNAVAILABLE


def test_a_watch_of_a_server_that_uses_tls_ends_at_once_with_the_cause(parties: Parties) -> None:
    with (
        served(ScriptedFederation(), parties.server) as server,
        JobsClient(server.address, give_up_after_s=30.0) as jobs,
        pytest.raises(FedhftError) as caught,
    ):
        next(jobs.watch("job"))
    assert caught.value.code is ErrorCode.SERVER_NEEDS_TLS


# -- proxies


class Counted:
    """Takes connections and closes them."""

    def __init__(self, listener: socket.socket) -> None:
        self.seen = 0
        self._listener = listener
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.seen += 1
                connection.close()


@pytest.fixture
def refusing() -> Iterator[Proxy]:
    proxy = Proxy("407 Proxy Authentication Required")
    yield proxy
    proxy.close()


@pytest.mark.parametrize("variable", ["grpc_proxy", "https_proxy", "http_proxy"])
def test_a_proxy_that_refuses_is_named_with_its_variable_and_its_answer(refusing: Proxy, variable: str) -> None:
    code, said = job_list("agg.example:50053", **{variable: f"http://user:secret@{refusing.address}"})
    assert code == OUTCOMES[ErrorCode.PROXY_REFUSED].exit_code, said
    assert f"the proxy {refusing.address}, which the variable {variable} names, answers 'HTTP/1.1 407" in said
    assert "put agg.example into no_proxy" in said
    assert "secret" not in said
    assert "CONNECT agg.example:50053 HTTP/1.1" in refusing.asked[-1]


def test_a_proxy_that_is_not_there_is_named() -> None:
    code, said = job_list("agg.example:50053", http_proxy="http://127.0.0.1:9")
    assert code == OUTCOMES[ErrorCode.PROXY_REFUSED].exit_code, said
    assert "the proxy 127.0.0.1:9, which the variable http_proxy names, cannot be reached (connection refused)" in said


def test_what_is_wrong_behind_a_proxy_is_found_through_it(parties: Parties) -> None:
    with served(ScriptedFederation(), parties.server) as server:
        proxy = Proxy("200 OK", behind=server.address)
        try:
            code, said = job_list("agg.example:50053", parties.client, https_proxy=f"http://{proxy.address}")
        finally:
            proxy.close()
    assert code == OUTCOMES[ErrorCode.SERVER_NAME_MISMATCH].exit_code, said
    assert f"agg.example:50053 (through the proxy {proxy.address}) is for localhost, 127.0.0.1" in said


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_server_on_this_machine_is_dialled_without_the_proxy(refusing: Proxy, host: str) -> None:
    with served(ScriptedFederation()) as server:
        port = server.address.rpartition(":")[2]
        code, said = job_list(f"{host}:{port}", http_proxy=f"http://{refusing.address}")
    assert code == OUTCOMES[ErrorCode.PROTOCOL_VERSION].exit_code, said  # it answered: it has no Jobs service
    assert refusing.asked == []


@pytest.mark.parametrize("exception", ["example", ".example", "agg.example,other", "10.0.0.0/8, agg.example"])
def test_a_host_in_no_proxy_is_dialled_directly(
    refusing: Proxy, monkeypatch: pytest.MonkeyPatch, exception: str
) -> None:
    for name, value in {**NO_PROXY, "http_proxy": f"http://{refusing.address}", "no_proxy": exception}.items():
        monkeypatch.setenv(name, value)
    error = diagnose("agg.example:50053", None, longest_s=30.0)
    assert error is None or error.code is ErrorCode.SERVER_UNAVAILABLE
    assert refusing.asked == []


# -- processes


def test_an_agent_s_process_exits_with_the_cause_s_code_and_its_log_is_json(parties: Parties, tmp_path: Path) -> None:
    cause = CAUSES["no certificate of ours"]
    (tmp_path / "rows.jsonl").write_text('{"text": "x", "label": "good"}\n')
    with served(ScriptedFederation(), parties.server) as server:
        arguments = ["--server", server.address, "--client", "ash", "--data", str(tmp_path / "rows.jsonl")]
        arguments += ["--state-dir", str(tmp_path / "state"), *files(cause.client(parties))]
        process = ServiceProcess("ash", "fedhft_agent", arguments, tmp_path / "ash.log", {**ENVIRONMENT, **NO_PROXY})
        try:
            assert process.wait(60), process.describe_log()
        finally:
            process.kill()
    assert process.exit_code == OUTCOMES[cause.code].exit_code, process.describe_log()
    *lines, last = process.log.read_text(encoding="utf-8").splitlines()
    assert cause.words[0] in last
    for line in lines:
        json.loads(line)


def aggregator(folder: Path, *arguments: str) -> ServiceProcess:
    common = ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--metrics-port", "0"]
    log = folder / "aggregator.log"
    return ServiceProcess("aggregator", "fedhft_aggregator", [*common, *arguments], log, ENVIRONMENT)


def lines_of(process: ServiceProcess) -> list[dict[str, object]]:
    """The log; fails on a line that is not JSON."""
    return [json.loads(line) for line in process.log.read_text(encoding="utf-8").splitlines()]


def test_a_server_s_log_stays_json_whoever_calls_it(parties: Parties, fresh_redis_url: str, tmp_path: Path) -> None:
    process = aggregator(tmp_path, "--redis", fresh_redis_url, *files(parties.server))
    try:
        server = process.wait_listening(60)["grpc"]
        for tls in (None, TlsSettings(authority=parties.client.authority)):
            assert diagnose(server, tls) is not None
        time.sleep(0.3)
    finally:
        process.terminate()
        assert process.wait(30), process.describe_log()
    assert any(line.get("message") == "stopping" for line in lines_of(process))


@pytest.mark.parametrize("away", ["redis", "volume"])
def test_a_service_whose_store_is_away_at_its_start_says_so_once(
    fresh_redis_url: str, tmp_path: Path, away: str
) -> None:
    if away == "redis":
        process, reason = aggregator(tmp_path, "--redis", "redis://127.0.0.1:9"), "does not answer"
    else:
        (tmp_path / "file").write_text("where a folder should be")
        process = aggregator(tmp_path, "--redis", fresh_redis_url, "--blobs", f"dir:{tmp_path / 'file' / 'blobs'}")
        reason = "cannot be used"
    try:
        process.wait_listening(60)
        time.sleep(3.0)
    finally:
        process.terminate()
        assert process.wait(30), process.describe_log()
    said = [line for line in lines_of(process) if line.get("message") == "not ready"]
    assert len(said) == 1, said
    assert reason in str(said[0]["reason"])
    assert len(lines_of(process)) <= 6, process.describe_log()


# -- an aggregator and its clusterer


@pytest.mark.parametrize(
    "name", ["another authority", "expired", "another name", "no certificate of ours", "a server in plain text"]
)
async def test_an_aggregator_says_in_the_same_words_why_it_cannot_call_its_clusterer(
    parties: Parties, name: str
) -> None:
    cause = CAUSES[name]
    with served(ScriptedFederation(), cause.server(parties)) as server:
        clusterer = RemoteClusterer(ChannelSettings(server.address, tls=cause.client(parties)))
        with pytest.raises(FedhftError) as caught:
            await clusterer.update_memberships(JobId("job"), 0, 0)
        await clusterer.close()
    assert caught.value.code is cause.code
    assert [word for word in cause.words if word not in caught.value.message] == [], caught.value.message


def test_an_aggregator_that_cannot_reach_its_clusterer_is_ready_and_says_why_in_log_and_page(
    parties: Parties, fresh_redis_url: str, tmp_path: Path
) -> None:
    with served(ScriptedFederation(), parties.own.expired("clusterer")) as server:
        given = ["--redis", fresh_redis_url, "--clusterer", server.address, *files(parties.server)]
        process = aggregator(tmp_path, *given)
        try:
            page = f"http://{process.wait_listening(60)['metrics']}/readyz"
            assert "has expired since 20" in readiness(page, lambda reason: reason != "")
            server.stop()
            server.tls = parties.own.of("clusterer")
            server.start()
            assert readiness(page, lambda reason: reason == "") == ""
        finally:
            process.terminate()
            assert process.wait(30), process.describe_log()
    (said,) = [line for line in lines_of(process) if line.get("message") == "the clusterer cannot be reached"]
    assert (said["code"], "fedhft certs renew" in str(said["reason"])) == ("server_certificate_expired", True)
    assert any(line.get("message") == "the clusterer can be reached again" for line in lines_of(process))


def readiness(page: str, as_wanted: Callable[[str], bool]) -> str:
    """The reason on a page of a process that is ready, once it is as wanted."""
    deadline = time.monotonic() + 30.0
    while True:
        with urllib.request.urlopen(page, timeout=5.0) as answer:  # noqa: S310  (503 raises)
            found = str(json.load(answer)["reason"])
        if as_wanted(found):
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.2)
