from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from fedhft.errors import ErrorCode, FedhftError
from fedhft.process.pages import MAX_CONNECTIONS, PagesServer, serve_pages
from fedhft.telemetry import federations, metrics
from fedhft.telemetry.registry import Process


class Switch:
    """A readiness that a test turns."""

    def __init__(self) -> None:
        self.state = (True, "")

    def __call__(self) -> tuple[bool, str]:
        return self.state


@pytest.fixture
def switch() -> Switch:
    return Switch()


@pytest.fixture
def pages(switch: Switch) -> Iterator[PagesServer]:
    server = serve_pages(0, switch)
    yield server
    server.stop()


def get(pages: PagesServer, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{pages.address}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def connect(pages: PagesServer) -> socket.socket:
    host, _, port = pages.address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=5)


def test_readiness_is_told_as_it_is_with_its_reason(pages: PagesServer, switch: Switch) -> None:
    status, body = get(pages, "/readyz")
    assert (status, json.loads(body)) == (200, {"ready": True, "reason": ""})
    switch.state = (False, "the store does not answer")
    status, body = get(pages, "/readyz")
    assert (status, json.loads(body)) == (503, {"ready": False, "reason": "the store does not answer"})


def test_a_process_that_is_not_ready_is_still_healthy(pages: PagesServer, switch: Switch) -> None:
    switch.state = (False, "no")
    assert get(pages, "/healthz")[0] == 200


def test_an_unknown_page_is_not_found_and_names_those_there_are(pages: PagesServer) -> None:
    status, body = get(pages, "/")
    assert status == 404
    assert "/metrics" in body


def test_metrics_are_readable_and_named_as_the_house_does(pages: PagesServer) -> None:
    status, body = get(pages, "/metrics")
    assert status == 200
    families = {family.name for family in text_string_to_metric_families(body)}
    ours = {name for name in families if not name.startswith("process_")}
    assert ours
    assert all(name.startswith("fedhft_") for name in ours)
    assert {"fedhft_refusals", "fedhft_rpc_seconds", "fedhft_process_peak_memory_bytes"} <= ours
    assert "process_resident_memory_bytes" in families


def test_every_refusal_has_a_counter_before_it_first_happens(pages: PagesServer) -> None:
    _, body = get(pages, "/metrics")
    for code in ErrorCode:
        assert f'fedhft_refusals_total{{code="{code.value}"}}' in body


def test_socket_bytes_are_sampled_at_the_scrape(pages: PagesServer) -> None:
    carried = (1, 2)
    metrics.SOCKET_BYTES.measure(lambda: carried)
    carried = (1000, 2000)
    _, body = get(pages, "/metrics")
    assert 'fedhft_socket_bytes_total{direction="sent"} 1000.0' in body
    assert 'fedhft_socket_bytes_total{direction="received"} 2000.0' in body


def test_a_page_has_the_series_of_its_own_process_alone(switch: Switch) -> None:
    pages = serve_pages(0, switch, process=Process.AGENT)
    try:
        _, body = get(pages, "/metrics")
    finally:
        pages.stop()
    assert "fedhft_agent_updates_total" in body
    assert "fedhft_build_info" in body
    assert "fedhft_store_up" not in body
    assert "fedhft_rounds" not in body


def test_no_series_tells_when_it_was_created(pages: PagesServer) -> None:
    metrics.ROUNDS.labels(federation="created", outcome="published").inc()
    _, body = get(pages, "/metrics")
    assert "_created" not in body
    federations.drop("created")


def test_peak_memory_is_of_this_process_alone_and_stays_when_memory_is_freed() -> None:
    # In a child, because the peak of the tests' own process is whatever earlier tests made it.
    program = (
        "from fedhft.telemetry.collectors import peak_memory_bytes as peak\n"
        "before = peak(); block = b'x' * (64 << 20); grown = peak(); del block; print(before, grown, peak())"
    )
    ballast = b"x" * (256 << 20)  # would count for the child if the figure survived exec
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, timeout=60)
    del ballast
    before, grown, after = map(int, run.stdout.split())
    assert before < 200 << 20
    assert grown - before == pytest.approx(64 << 20, rel=0.1)
    assert after > 0.95 * grown  # the kernel adds up batches, so the last few hundred KiB come and go


def test_silent_connections_are_closed_and_one_too_many_takes_the_place_of_the_oldest(switch: Switch) -> None:
    pages = serve_pages(0, switch, idle_s=1.5)
    silent = []
    for _ in range(MAX_CONNECTIONS):
        silent.append(connect(pages))
        time.sleep(0.02)
    assert get(pages, "/healthz")[0] == 200
    silent[0].settimeout(0.5)
    assert silent[0].recv(1) == b""  # made way; the others were silent for less than 1.5 s
    silent[1].settimeout(0.1)
    with pytest.raises(TimeoutError):
        silent[1].recv(1)
    for connection in silent[1:]:
        connection.settimeout(5)
        with connection:
            assert connection.recv(1) == b""  # closed for its silence
    assert get(pages, "/healthz")[0] == 200
    pages.stop()


def test_a_port_that_is_taken_is_refused_by_name(pages: PagesServer, switch: Switch) -> None:
    port = int(pages.address.rpartition(":")[2])
    with pytest.raises(FedhftError, match=r"--metrics-host and --metrics-port = .*cannot be bound") as caught:
        serve_pages(port, switch)
    assert caught.value.code is ErrorCode.INVALID_ARGUMENT


def test_after_a_stop_nobody_listens(switch: Switch) -> None:
    pages = serve_pages(0, switch)
    pages.stop()
    with pytest.raises(OSError, match="refused"):
        connect(pages)
