"""`fedhft agent check` as a test runs it, and what it found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fedhft_agent.__main__ import main

from fedhft.errors import OUTCOMES, ErrorCode
from fedhft.rpc.tls import TlsSettings
from tests.agents import Site

Found = dict[str, list[dict[str, str]]]


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
