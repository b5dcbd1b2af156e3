"""Names of devices in settings, which are read before any tensor library."""

from __future__ import annotations

import pytest
from fedhft_agent.device_recovery import check_device, come_back
from fedhft_agent.settings import AgentSettings

from fedhft.errors import ErrorCode, FedhftError
from fedhft.process.device_name import parse_device

GIVEN = {"server": "127.0.0.1:1", "client": "ash", "data": "rows.jsonl", "metrics_port": None}


@pytest.mark.parametrize("name", ["auto", "cpu", "cuda", "cuda:0", "cuda:15", "mps"])
def test_devices_are_known_by_name(name: str) -> None:
    assert parse_device(name) == AgentSettings(**GIVEN, device=name).device == name


def test_an_agent_looks_for_a_device_unless_it_is_told() -> None:
    assert AgentSettings(**GIVEN).device == "auto"


@pytest.mark.parametrize("name", ["", "gpu", "CUDA", "cuda:", "cuda:-1", "cuda:1234", "mps:0", "cpu:0", "cuda:0 "])
def test_another_word_is_refused_with_those_there_are(name: str) -> None:
    with pytest.raises(FedhftError, match="is not the name of a device; write auto, cpu, cuda, cuda:N or mps"):
        parse_device(name)


def test_the_cpu_and_auto_need_no_trying(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedhft_agent.device_recovery.try_device", lambda name: pytest.fail(name))
    check_device("cpu")
    check_device("auto")


def test_a_device_that_no_process_can_use_has_not_come_back() -> None:
    with pytest.raises(FedhftError, match="cuda:31: failed, and has not come back: --device = 'cuda:31': ") as failed:
        come_back("cuda:31")
    assert failed.value.code is ErrorCode.DEVICE_FAILED
