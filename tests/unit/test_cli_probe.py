"""`fedhft probe` against real pages."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from fedhft.cli.main import main
from fedhft.errors import OUTCOMES, ErrorCode
from fedhft.process.pages import PagesServer, serve_pages

AWAY = OUTCOMES[ErrorCode.SERVER_UNAVAILABLE].exit_code
WRONG = OUTCOMES[ErrorCode.INVALID_ARGUMENT].exit_code


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FEDHFT_METRICS_HOST", raising=False)
    monkeypatch.delenv("FEDHFT_METRICS_PORT", raising=False)


@pytest.fixture
def state() -> list[tuple[bool, str]]:
    return [(True, "")]


@pytest.fixture
def pages(state: list[tuple[bool, str]]) -> Iterator[PagesServer]:
    server = serve_pages(0, lambda: state[0])
    yield server
    server.stop()


def run(*arguments: str) -> int:
    try:
        return main(["probe", *arguments])
    except SystemExit as end:
        return int(end.code or 0)


def test_a_ready_process_is_told_from_one_that_is_not_with_the_reason(
    pages: PagesServer, state: list[tuple[bool, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(pages.address) == 0
    assert capsys.readouterr().out == f"{pages.address} is ready\n"
    state[0] = (False, "the store does not answer")
    assert run(pages.address) == AWAY
    assert capsys.readouterr().err == f"fedhft: {pages.address} is not ready: the store does not answer\n"
    assert run(pages.address, "--page", "healthy") == 0


def test_the_variables_of_the_process_say_where_it_is(
    pages: PagesServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    port = pages.address.rpartition(":")[2]
    monkeypatch.setenv("FEDHFT_METRICS_PORT", port)
    assert run() == 0
    monkeypatch.setenv("FEDHFT_METRICS_HOST", "0.0.0.0")  # noqa: S104 - asked on loopback
    assert run() == 0
    assert f"127.0.0.1:{port} is ready" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("variable", "value", "named"),
    [
        ("FEDHFT_METRICS_PORT", "tcp://10.96.0.12:9101", "FEDHFT_METRICS_PORT"),
        ("FEDHFT_METRICS_HOST", "http://here", "FEDHFT_METRICS_HOST"),
        ("FEDHFT_METRICS_PORT", "", "FEDHFT_METRICS_PORT"),
    ],
)
def test_what_is_no_address_is_named(
    variable: str, value: str, named: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FEDHFT_METRICS_PORT", "9101")
    monkeypatch.setenv(variable, value)
    assert run() == WRONG
    assert named in capsys.readouterr().err


def test_nobody_there_and_somebody_who_never_answers_are_failures_in_time(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
    assert run(address) == AWAY
    assert f"{address} does not answer" in capsys.readouterr().err
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert run(f"127.0.0.1:{silent.getsockname()[1]}", "--timeout", "0.3") == AWAY
    assert "timed out" in capsys.readouterr().err


def test_the_page_of_another_program_is_not_taken_for_an_answer(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:

        def answer() -> None:
            peer, _ = other.accept()
            with peer:
                peer.recv(1000)
                peer.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\n<html")

        thread = threading.Thread(target=answer)
        thread.start()
        assert run(f"127.0.0.1:{other.getsockname()[1]}") == AWAY
        thread.join(5)
    assert "status 404" in capsys.readouterr().err
