"""Addresses are parsed at every door; the same spelling works at each of them."""

from __future__ import annotations

import pytest
from fedhft_agent.settings import AgentSettings
from fedhft_aggregator.settings import AggregatorSettings
from fedhft_clusterer.settings import ClustererSettings
from hypothesis import given
from hypothesis import strategies as st

from fedhft.errors import ErrorCode, FedhftError
from fedhft.process.options import read_settings
from fedhft.rpc.address import is_loopback, parse_address, parse_host
from fedhft.store.open import open_store
from tests.cli_runner import run_cli

MALFORMED = (
    "", "host", ":1", "host:", "host:x", "host:65536", "host:-1", "host:+1", "host:1 ", "host:٣", "::1:5", "[::1]",
    "[::1", "[host]:1", "http://host:1", "host/path:1", "a b:1", "host:1:2", "[::1]x:1", "-host:1",
    "host:" + "1" * 5000,
)  # fmt: skip


@pytest.mark.parametrize("text", MALFORMED)
def test_what_is_not_an_address_is_refused_by_the_name_of_its_field(text: str) -> None:
    with pytest.raises(FedhftError, match=r"^--some = ") as caught:
        parse_address(text, "--some")
    assert caught.value.code is ErrorCode.INVALID_ARGUMENT
    assert "host:port" in caught.value.message


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("127.0.0.1:50051", ("127.0.0.1", 50051)),
        ("[::1]:0", ("[::1]", 0)),
        ("[fe80::1%eth0]:5", ("[fe80::1%eth0]", 5)),
        ("fedhft_aggregator:50051", ("fedhft_aggregator", 50051)),
        ("agg.clinic.example.:1", ("agg.clinic.example.", 1)),
    ],
)
def test_an_address_is_a_host_and_a_port(text: str, parts: tuple[str, int]) -> None:
    assert parse_address(text, "listen") == parts


@given(st.text())
def test_any_text_is_an_address_or_refused(text: str) -> None:
    try:
        host, port = parse_address(text, "listen")
    except FedhftError:
        return
    assert f"{host}:{port:d}" == text or text.endswith(f"0{port}")
    assert 0 <= port <= 65535


def test_a_host_may_have_brackets_and_must_not_have_a_port() -> None:
    assert [parse_host(text, "--h") for text in ("::1", "[::1]", "0.0.0.0", "box")] == ["::1", "::1", "0.0.0.0", "box"]  # noqa: S104
    for text in ("", "[box]", "box:1", "[::1]:1", "a b"):
        with pytest.raises(FedhftError, match=r"^--h = .*without a port"):
            parse_host(text, "--h")


def test_only_loopback_addresses_count_as_this_machine() -> None:
    inside = ("localhost", "127.0.0.1", "127.8.9.1", "::1", "[::1]", "LOCALHOST")
    outside = ("0.0.0.0", "[::]", "10.0.0.1", "box", "localhost.evil.example", "127.0.0.1.evil.example", "[fe80::1]")  # noqa: S104
    assert [is_loopback(host) for host in inside] == [True] * len(inside)
    assert [is_loopback(host) for host in outside] == [False] * len(outside)


@pytest.mark.parametrize(
    ("kind", "flag"),
    [
        (AggregatorSettings, "--listen"),
        (AggregatorSettings, "--admin-listen"),
        (AggregatorSettings, "--clusterer"),
        (AggregatorSettings, "--metrics-host"),
        (ClustererSettings, "--listen"),
        (ClustererSettings, "--metrics-host"),
        (AgentSettings, "--server"),
        (AgentSettings, "--metrics-host"),
    ],
)
def test_every_option_that_takes_an_address_checks_it(kind: type, flag: str) -> None:
    rest = ["--server", "h:1", "--client", "ash", "--data", "x.jsonl"] if kind is AgentSettings else []
    with pytest.raises(FedhftError, match=rf"^{flag} = 'no where'") as caught:
        read_settings(kind, [*rest, flag, "no where"])
    assert caught.value.code is ErrorCode.INVALID_ARGUMENT


def test_the_command_line_checks_the_address_of_the_server() -> None:
    done = run_cli("job", "list", "--server", "http://host:1")
    assert (done.returncode, "--server = 'http://host:1'" in done.stderr) == (14, True)


@pytest.mark.parametrize("url", ["redis://[::1", "redis://host:port", "redis://host:99999999", "http://host:1"])
def test_a_malformed_redis_url_is_refused_by_name(url: str) -> None:
    with pytest.raises(FedhftError, match="store url") as caught:
        open_store(url, "redis")
    assert caught.value.code is ErrorCode.INVALID_ARGUMENT


def test_a_bracketed_metrics_host_is_the_same_host() -> None:
    assert ClustererSettings(metrics_host="[::1]").metrics_host == "::1"


def test_a_port_of_thousands_of_digits_is_refused_like_any_other() -> None:
    for port in ("0" * 5003, "9" * 5003):
        with pytest.raises(FedhftError, match="is not an address"):
            parse_address(f"host:{port}", "server")
