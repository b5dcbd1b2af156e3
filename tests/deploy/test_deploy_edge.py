"""The unit of deploy/systemd says what the code knows. A real systemd runs it in tests/system/test_systemd.py."""

from __future__ import annotations

import re

import pytest
from fedhft_agent.settings import AgentSettings

from fedhft.errors import OUTCOMES, ErrorCode
from fedhft.process.settings import variable_of
from tests.unit.test_house import ROOT

FOLDER = ROOT / "deploy/systemd"


def test_no_code_that_waiting_may_change_keeps_the_agent_from_being_restarted() -> None:
    text = (FOLDER / "fedhft-agent@.service").read_text(encoding="utf-8")
    listed, left = (
        re.search(rf"{word}([0-9 |]+)", text) for word in ("\nRestartPreventExitStatus=", "case [$]+code in ")
    )
    assert listed is not None
    assert left is not None
    codes = {int(word) for word in listed[1].split()}
    assert {int(word) for word in left[1].split("|")} < codes, "the check lets pass what the agent is restarted for"
    assert codes & {outcome.exit_code for outcome in OUTCOMES.values() if outcome.retryable} == set()
    assert codes <= {2, *(outcome.exit_code for outcome in OUTCOMES.values())}
    for code in (
        ErrorCode.INVALID_ARGUMENT,
        ErrorCode.LEASE_SUPERSEDED,
        ErrorCode.IDENTITY_MISMATCH,
        ErrorCode.CERTIFICATE_REVOKED,
        ErrorCode.SERVER_UNTRUSTED,
        ErrorCode.SERVER_NAME_MISMATCH,
        ErrorCode.CLIENT_CERTIFICATE_REFUSED,
        ErrorCode.TLS_FILE_NOT_PEM,
        ErrorCode.TLS_KEY_MISMATCH,
    ):
        assert OUTCOMES[code].exit_code in codes, code


@pytest.mark.parametrize("name", ["fedhft-agent@.service", "agent.env.example"])
def test_only_settings_of_the_agent_are_set(name: str) -> None:
    found = re.findall(r"^#?(?:Environment=)?(FEDHFT_\w+)=", (FOLDER / name).read_text(encoding="utf-8"), re.M)
    assert found
    assert set(found) <= {variable_of(setting) for setting in AgentSettings.model_fields}
