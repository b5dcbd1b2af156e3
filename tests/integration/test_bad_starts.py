"""Processes that are started with something wrong around them: real ones, as a supervisor starts them.

What cannot work ends at once with one message and its exit code; what may come back (a store, a volume) is waited for,
and said once. A secret is never in what a process says.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from fedhft.errors import ErrorCode
from fedhft.local.redis import EmbeddedRedis, find_server
from fedhft.rpc.tls import TlsSettings
from tests.agents import Site, running_site
from tests.sealed import AS_ROOT, HOMELESS, sealed
from tests.started import Started
from tests.tls_causes import Parties, files, make_parties

SERVICES = {
    "aggregator": ("fedhft_aggregator", ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]),
    "clusterer": ("fedhft_clusterer", ["--listen", "127.0.0.1:0"]),
}
NOBODY = "redis://127.0.0.1:9/0"
"""A store that is away: what is wrong besides must be told without waiting for it."""


Start = Callable[..., Started]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a service: its name, its options, and what is put before the interpreter."""
    running: list[Started] = []

    def run(
        service: str, *options: str, before: tuple[str, ...] = (), environment: Mapping[str, str | None] | None = None
    ) -> Started:
        module, defaults = SERVICES.get(service, (service, []))
        command = [*before, sys.executable, "-m", module, *defaults, "--metrics-port", "0", *options]
        started = Started(tmp_path / f"{service}-{len(running)}.log", command, environment)
        running.append(started)
        return started

    yield run
    for one in running:
        one.stop()


def listening(said: str) -> bool:
    return '"listening"' in said


@pytest.fixture(scope="module")
def parties(tmp_path_factory: pytest.TempPathFactory) -> Parties:
    return make_parties(tmp_path_factory.mktemp("parties"))


# -- secrets and files


@pytest.mark.parametrize("service", SERVICES)
def test_a_secret_that_is_not_mounted_is_named(start: Start, parties: Parties, service: str, tmp_path: Path) -> None:
    nowhere = tmp_path / "secrets"
    own = parties.own.of(service)
    started = [
        (start(service, "--secrets-dir", str(nowhere)), ErrorCode.INVALID_ARGUMENT, "is not a folder; check the path"),
        (
            start(service, "--redis", NOBODY, *files(TlsSettings(own.certificate, nowhere / "tls.key", own.authority))),
            ErrorCode.INVALID_ARGUMENT,
            f"TLS file {nowhere / 'tls.key'}: cannot be read (No such file or directory); check the path",
        ),
        (
            start(service, "--redis", NOBODY, *files(_swapped(parties, own))),
            ErrorCode.TLS_KEY_MISMATCH,
            "give the pair that was issued together",
        ),
    ]
    for one, code, words in started:
        assert words in one.exits(code)


def _swapped(parties: Parties, own: TlsSettings) -> TlsSettings:
    return TlsSettings(own.certificate, parties.client.key, own.authority)


@pytest.fixture
def guarded_redis(tmp_path: Path) -> Iterator[str]:
    """host:port of a Redis that asks for a password."""
    server = find_server()
    assert server is not None
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = [
        "--bind",
        "127.0.0.1",
        "--port",
        str(port),
        "--requirepass",
        "right",
        "--save",
        "",
        "--dir",
        str(tmp_path),
    ]
    with (tmp_path / "redis.log").open("wb") as log:
        process = subprocess.Popen([server, *options], stdout=log, stderr=subprocess.STDOUT)
    yield f"127.0.0.1:{port}"
    process.terminate()
    process.wait(15)


@pytest.mark.parametrize("service", SERVICES)
def test_a_wrong_password_of_redis_is_said_and_never_shown(start: Start, guarded_redis: str, service: str) -> None:
    waiting = start(service, "--redis", f"redis://:S3cr3t%23Pa%2F55@{guarded_redis}/0")
    unreadable = [start(service, "--redis", f"redis://:S3cr3t{character}Pa55@{guarded_redis}/0") for character in "#/"]
    for one in unreadable:
        assert "percent-encode" in one.exits(ErrorCode.INVALID_ARGUMENT)
    said = waiting.says(lambda said: '"not ready"' in said)
    reasons = [json.loads(line)["reason"] for line in said.splitlines() if '"not ready"' in line]
    assert len(reasons) == 1
    assert "password" in reasons[0]
    for text in (said, *(one.said for one in unreadable)):
        assert "S3cr3t" not in text
        assert "Pa55" not in text
        assert "55@" not in text


# -- ports


@pytest.mark.parametrize(
    ("service", "option"),
    [("aggregator", "--listen"), ("aggregator", "--admin-listen"), ("aggregator", "--metrics-port"),
     ("clusterer", "--listen"), ("clusterer", "--metrics-port")],
)  # fmt: skip
def test_a_port_that_is_taken_is_one_message(start: Start, fresh_redis_url: str, service: str, option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        value = str(port) if option == "--metrics-port" else f"127.0.0.1:{port}"
        line = start(service, "--redis", fresh_redis_url, option, value).exits(ErrorCode.INVALID_ARGUMENT)
    assert f"{option} = '127.0.0.1:{port}': " in line
    assert "cannot be bound" in line
    assert "choose a free port" in line


# -- as containers run them


@AS_ROOT
@pytest.mark.parametrize("service", SERVICES)
def test_a_service_runs_with_a_random_user_no_home_and_a_read_only_root(
    start: Start, fresh_redis_url: str, service: str
) -> None:
    running = start(service, "--redis", fresh_redis_url, before=sealed(), environment=HOMELESS)
    running.says(lambda said: listening(said) and '"ready"' in said)


@AS_ROOT
def test_a_volume_that_cannot_be_written_is_said_and_waited_for(
    start: Start, fresh_redis_url: str, tmp_path: Path
) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    running = start("aggregator", "--redis", fresh_redis_url, "--blobs", f"dir:{volume}", before=sealed())
    said = running.says(lambda said: listening(said) and '"not ready"' in said)
    (reason,) = [json.loads(line)["reason"] for line in said.splitlines() if '"not ready"' in line]
    assert str(volume) in reason
    assert "Read-only file system" in reason or "Permission denied" in reason


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, redis_server: EmbeddedRedis) -> Iterator[Site]:
    with running_site(tmp_path_factory.mktemp("starts"), redis_server.url) as running:
        yield running


@AS_ROOT
def test_an_agent_with_a_random_user_and_no_home_says_where_it_would_keep_its_state(start: Start, site: Site) -> None:
    common = ["--server", site.server, "--client", "ash", "--data", str(site.data("ash"))]
    homeless = start("fedhft_agent", *common, before=sealed(), environment=HOMELESS)
    unwritable = start("fedhft_agent", *common, "--state-dir", "/var/lib/fedhft-none", before=sealed())
    line = homeless.exits(ErrorCode.INVALID_ARGUMENT)
    assert "--state-dir" in line
    line = unwritable.exits(ErrorCode.INVALID_ARGUMENT)
    assert "--state-dir = '/var/lib/fedhft-none': cannot be used (" in line
    assert "name a directory that this user can write to" in line


# -- two agents under one id


def test_two_agents_of_one_id_under_supervisors_take_turns_and_each_says_why_it_ends(
    start: Start, site: Site, tmp_path: Path
) -> None:
    common = ["--server", site.server, "--client", "twin", "--data", str(site.data("twin")), "--job", "not-yet"]
    lives: list[list[Started]] = [[], []]

    def restart(number: int) -> None:
        own = ["--state-dir", str(tmp_path / f"state-{number}")]
        lives[number].append(start("fedhft_agent", *common, *own))

    restart(0)
    lives[0][0].says(lambda said: "waiting for a job" in said)
    restart(1)
    turns = []
    for turn in range(3):  # whoever was there first ends, is restarted, and takes the place of the other
        loser = turn % 2
        turns.append(lives[loser][-1].exits(ErrorCode.LEASE_SUPERSEDED))
        restart(loser)
    for line in turns:
        assert "client = 'twin': another agent enrolled under this name; stop one of the two" in line
        assert "they take turns without end" in line
    # A supervisor that leaves exit code 19 alone, as ours does, ends it after the first turn.
    survivor = lives[1 - (turn % 2)][-1]
    survivor.exits(ErrorCode.LEASE_SUPERSEDED)
    winner = lives[turn % 2][-1]
    time.sleep(3.0)
    assert winner.process.poll() is None, winner.said
