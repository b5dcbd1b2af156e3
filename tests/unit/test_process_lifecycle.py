from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path

import pytest

from fedhft.errors import FedhftError
from fedhft.process.lifecycle import OptionParser, ServiceOptions, announce, service_parser, wait_for_signal


def options(*arguments: str) -> ServiceOptions:
    return ServiceOptions.of(service_parser("x", "y", "127.0.0.1:1", metrics_port=2).parse_args(arguments))


def test_an_option_comes_from_the_command_line_then_the_environment_then_its_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("FEDHFT_METRICS_PORT", raising=False)
    assert options().metrics_port == 2
    monkeypatch.setenv("FEDHFT_METRICS_PORT", "3")
    assert options().metrics_port == 3
    assert options("--metrics-port", "4").metrics_port == 4
    monkeypatch.setenv("FEDHFT_METRICS_PORT", "")
    assert options().metrics_port == 2


def test_values_of_the_environment_are_checked_like_arguments(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FEDHFT_METRICS_PORT", "many")
    with pytest.raises(SystemExit):
        options()
    assert "many" in capsys.readouterr().err
    monkeypatch.delenv("FEDHFT_METRICS_PORT")
    monkeypatch.setenv("FEDHFT_LOG_FORMAT", "xml")
    with pytest.raises(SystemExit):
        options()
    assert "FEDHFT_LOG_FORMAT = 'xml': choose one of json, console" in capsys.readouterr().err


def test_help_names_the_variable_of_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    parser = OptionParser("x", "y", environment={})
    parser.option("state-dir", "50%", "where state is kept")
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    assert "FEDHFT_STATE_DIR" in capsys.readouterr().out


def test_tls_files_make_tls_settings_and_half_a_pair_is_refused() -> None:
    assert options().tls is None
    tls = options("--tls-certificate", "c.pem", "--tls-key", "k.pem").tls
    assert tls is not None
    assert (tls.certificate, tls.key, tls.authority) == (Path("c.pem"), Path("k.pem"), None)
    with pytest.raises(FedhftError, match="give both files or neither"):
        options("--tls-certificate", "c.pem")


def test_the_listening_line_is_one_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    announce(grpc="127.0.0.1:5", metrics="127.0.0.1:6")
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line) == {"event": "listening", "grpc": "127.0.0.1:5", "metrics": "127.0.0.1:6"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_the_wait_and_the_next_one_is_not_swallowed(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    waiting = asyncio.create_task(wait_for_signal())
    await asyncio.sleep(0)
    os.kill(os.getpid(), number)
    assert await asyncio.wait_for(waiting, 5) is number
    after = signal.getsignal(number)
    signal.signal(number, before)
    assert after in (signal.SIG_DFL, signal.default_int_handler)
