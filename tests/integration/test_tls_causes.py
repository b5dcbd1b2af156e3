"""Every cause for which a server cannot be talked to, for three programs: the command line, an agent, its check.

One table (tests/tls_causes.py): each program ends with the cause's own exit code, and says it in the same words.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fedhft_agent.__main__ import main

from fedhft.errors import OUTCOMES
from fedhft.rpc.tls import TlsSettings
from tests.integration.scripted_federation import ScriptedFederation, served
from tests.tls_causes import CAUSES, NO_PROXY, Parties, Proxy, files, job_list, make_parties


@pytest.fixture(scope="module")
def parties(tmp_path_factory: pytest.TempPathFactory) -> Parties:
    return make_parties(tmp_path_factory.mktemp("parties"))


@pytest.fixture(scope="module")
def refusing() -> Iterator[Proxy]:
    """A proxy that lets nobody through."""
    proxy = Proxy("407 Proxy Authentication Required")
    yield proxy
    proxy.close()


class Programs:
    """Each tries to reach a server and returns its exit code and what it said."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self._capsys = folder, capsys
        self.failed: list[str] = []
        """Names of the checks that failed."""

    def job_list(self, server: str, tls: TlsSettings | None, environment: dict[str, str]) -> tuple[int, str]:
        return job_list(server, tls, **environment)

    def agent(self, server: str, tls: TlsSettings | None, environment: dict[str, str]) -> tuple[int, str]:
        # It waits for what may be cured elsewhere, unless it is told to give up first.
        code = main([*self._settings(server, tls), "--give-up-after", "1s"])
        return code, self._capsys.readouterr().err

    def check(self, server: str, tls: TlsSettings | None, environment: dict[str, str]) -> tuple[int, str]:
        code = main(["check", *self._settings(server, tls), "--format", "json"])
        found = json.loads(self._capsys.readouterr().out)
        failures = [one for one in found if one["status"] == "failed"]
        self.failed = [one["check"] for one in failures]
        return code, "; ".join([failures[0]["detail"], failures[0]["fix"]])

    def _settings(self, server: str, tls: TlsSettings | None) -> list[str]:
        data = self.folder / "rows.jsonl"
        data.write_text('{"text": "x", "label": 0}\n', encoding="utf-8")
        given = ["--server", server, "--client", "ash", "--data", str(data), "--state-dir", str(self.folder / "state")]
        # No model is loaded: its check fails after those of the server, whose code is the one that counts.
        return [*given, "--model", str(self.folder / "no-model"), *files(tls)]


@pytest.fixture
def programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Programs:
    return Programs(tmp_path, capsys)


@pytest.mark.parametrize("program", ["job_list", "agent", "check"])
@pytest.mark.parametrize("name", CAUSES)
def test_each_cause_has_its_code_and_its_words_in_every_program(
    parties: Parties, refusing: Proxy, programs: Programs, monkeypatch: pytest.MonkeyPatch, name: str, program: str
) -> None:
    cause = CAUSES[name]
    proxied = cause.host == "agg.example"
    environment = {**NO_PROXY, "http_proxy": f"http://{refusing.address}" if proxied else ""}
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    with served(ScriptedFederation(), cause.server(parties)) as server:
        port = server.address.rpartition(":")[2]
        code, said = getattr(programs, program)(f"{cause.host}:{port}", cause.client(parties), environment)
    assert code == OUTCOMES[cause.code].exit_code, said
    assert [word for word in cause.words if word not in said] == [], said
    if program == "job_list":
        assert said.count("\n") == 1, "one message, and gRPC's own lines are not among it"
    elif program == "check":
        assert programs.failed == [cause.check, "model"], "one cause fails one check"


def test_every_cause_has_a_code_of_its_own() -> None:
    by_code: dict[int, set[str]] = {}
    for cause in CAUSES.values():
        by_code.setdefault(OUTCOMES[cause.code].exit_code, set()).add(cause.code)
    assert all(len(codes) == 1 for codes in by_code.values())
    assert len(by_code) == 10, "nine causes, one of which, plain text, may be on either side"
