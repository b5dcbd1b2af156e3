"""Processes held to shares of a core, and links of given rates: real processes and real sockets."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from fedhft.errors import ErrorCode, FedhftError
from fedhft.local.cpu_quota import CpuQuotas, cpu_quotas
from fedhft.local.cpu_share import CpuShares, cpu_seconds
from fedhft.local.devices import read_devices
from fedhft.local.link import Links

BUSY = "while True: pass"


@pytest.fixture
def start() -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []

    def begin(code: str) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen([sys.executable, "-c", code]))
        return started[-1]

    yield begin
    for process in started:
        process.send_signal(signal.SIGKILL)
        process.wait()


@pytest.fixture(params=["quotas", "budgets"])
def shares(request: pytest.FixtureRequest) -> Iterator[CpuShares]:
    """Held by the kernel, and by stopping and continuing."""
    quotas = cpu_quotas()
    if request.param == "quotas" and quotas is None:
        pytest.skip("no quotas of CPU time can be set here: that takes root, or a control group of this user's")
    shares = CpuShares(quotas if request.param == "quotas" else None)
    yield shares
    shares.close()
    assert not groups()


def groups() -> list[Path]:
    """Control groups that this process has made."""
    return list(Path("/sys/fs/cgroup").rglob(f"fedhft-{os.getpid()}-*"))


@pytest.fixture
def links() -> Iterator[Links]:
    links = Links()
    yield links
    links.close()


def used_in(pid: int, seconds: float) -> float:
    before, began = cpu_seconds(pid), time.monotonic()
    time.sleep(seconds)
    return (cpu_seconds(pid) - before) / (time.monotonic() - began)


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_busy_process_gets_no_more_than_its_share_and_a_new_one_when_that_changes(
    start: Callable[[str], subprocess.Popen[bytes]], shares: CpuShares
) -> None:
    process = start(BUSY)
    shares.hold(process.pid, 0.2)
    time.sleep(0.3)
    assert used_in(process.pid, 1.5) < 0.24
    shares.hold(process.pid, 0.04)
    time.sleep(0.3)
    assert used_in(process.pid, 1.5) < 0.07


def test_what_is_free_is_used_before_a_process_is_held(
    start: Callable[[str], subprocess.Popen[bytes]], shares: CpuShares
) -> None:
    process = start(BUSY)
    shares.hold(process.pid, 0.05, free=1.0)
    deadline = time.monotonic() + 20
    while cpu_seconds(process.pid) < 1.0 and time.monotonic() < deadline:
        assert state_of(process.pid) != "T"
        time.sleep(0.02)
    time.sleep(0.5)
    assert used_in(process.pid, 1.0) < 0.08


def test_what_is_free_ends_when_a_process_is_through_with_it(
    start: Callable[[str], subprocess.Popen[bytes]], shares: CpuShares
) -> None:
    process, through = start(BUSY), threading.Event()
    shares.hold(process.pid, 0.05, free=1000.0, until=through.is_set)
    time.sleep(0.5)
    assert state_of(process.pid) != "T"
    through.set()
    time.sleep(0.5)
    assert used_in(process.pid, 1.0) < 0.08


def test_all_threads_of_a_process_share_its_budget(
    start: Callable[[str], subprocess.Popen[bytes]], shares: CpuShares
) -> None:
    hashing = "import hashlib, threading; data = bytes(1 << 22)\ndef work():\n while True: hashlib.sha256(data)\n"
    process = start(hashing + "for _ in range(3): threading.Thread(target=work).start()")
    shares.hold(process.pid, 0.3)
    time.sleep(0.5)
    assert used_in(process.pid, 1.5) < 0.36


def test_a_process_without_much_to_do_is_not_stopped(
    start: Callable[[str], subprocess.Popen[bytes]], shares: CpuShares
) -> None:
    process = start("import time; time.sleep(60)")
    time.sleep(0.3)
    shares.hold(process.pid, 0.05)
    time.sleep(0.3)
    assert state_of(process.pid) == "S"


def test_who_was_held_runs_as_before_when_nobody_is_held_any_more(
    start: Callable[[str], subprocess.Popen[bytes]], shares: CpuShares
) -> None:
    process = start(BUSY)
    shares.hold(process.pid, 0.05)
    time.sleep(0.5)
    shares.close()
    assert used_in(process.pid, 1.0) > 0.1


def test_who_was_stopped_runs_again_when_nobody_is_held_any_more(
    start: Callable[[str], subprocess.Popen[bytes]],
) -> None:
    process, shares = start(BUSY), CpuShares()
    shares.hold(process.pid, 0.01)
    deadline = time.monotonic() + 10
    while state_of(process.pid) != "T" and time.monotonic() < deadline:
        time.sleep(0.01)
    assert state_of(process.pid) == "T"
    shares.close()
    assert state_of(process.pid) == "R"


def test_where_the_kernel_refuses_processes_are_stopped_and_continued(
    start: Callable[[str], subprocess.Popen[bytes]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(group: Path, quota: int, period: int) -> None:
        raise PermissionError(f"{group}: {quota} in {period}")

    (tmp_path / "cgroup.procs").touch()
    process, shares = start(BUSY), CpuShares(CpuQuotas(tmp_path, tmp_path, refused))
    shares.hold(process.pid, 0.05)
    time.sleep(0.5)
    assert used_in(process.pid, 1.5) < 0.09
    shares.close()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert [file.name for file in tmp_path.iterdir()] == ["cgroup.procs"]


def test_a_process_that_has_ended_is_let_go(start: Callable[[str], subprocess.Popen[bytes]], shares: CpuShares) -> None:
    process, other = start("pass"), start(BUSY)
    process.wait()
    shares.hold(process.pid, 0.5)
    shares.hold(other.pid, 0.1)
    time.sleep(0.3)
    assert used_in(other.pid, 1.0) < 0.15


def echoing() -> socket.socket:
    """A server that sends back what it gets."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=echo, args=(connection,), daemon=True).start()

    def echo(connection: socket.socket) -> None:
        with connection:
            while data := connection.recv(65536):
                connection.sendall(data)

    threading.Thread(target=serve, daemon=True).start()
    return server


def address_of(server: socket.socket) -> str:
    host, port = server.getsockname()
    return f"{host}:{port}"


def call(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=20)


def round_trip(connection: socket.socket, count: int) -> float:
    """Seconds until so many bytes have come back."""
    began = time.monotonic()
    threading.Thread(target=connection.sendall, args=(bytes(count),), daemon=True).start()
    left = count
    while left:
        left -= len(connection.recv(65536))
    return time.monotonic() - began


@pytest.mark.parametrize(("up", "down"), [(100e3, 1e9), (1e9, 100e3)])
def test_bytes_pass_a_link_at_the_rate_of_its_slower_direction(links: Links, up: float, down: float) -> None:
    with closing(echoing()) as server:
        link = links.open(address_of(server), up, down)
        with closing(call(link.address)) as connection:
            assert round_trip(connection, 100_000) > 0.85
            link.up.bytes_per_second = link.down.bytes_per_second = 1e9
            assert round_trip(connection, 100_000) < 0.5


def test_connections_of_one_link_share_it(links: Links) -> None:
    with closing(echoing()) as server:
        link = links.open(address_of(server), 200e3, 1e9)
        began = time.monotonic()
        with closing(call(link.address)) as first, closing(call(link.address)) as second:
            threads = [threading.Thread(target=round_trip, args=(one, 100_000)) for one in (first, second)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert time.monotonic() - began > 0.85


def test_a_server_that_is_away_and_an_end_that_hangs_up_are_seen_through_a_link(links: Links) -> None:
    server = echoing()
    link = links.open(address_of(server), 1e9, 1e9)
    with closing(call(link.address)) as connection:
        assert round_trip(connection, 10) < 5
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    with closing(call(link.address)) as connection:
        assert connection.recv(1) == b""


def test_closing_cuts_what_is_connected(links: Links) -> None:
    with closing(echoing()) as server:
        link = links.open(address_of(server), 1e9, 1e9)
        with closing(call(link.address)) as connection:
            assert round_trip(connection, 10) < 5
            links.close()
            assert connection.recv(1) == b""


def test_the_example_gives_every_client_of_the_demo_a_device() -> None:
    names = [f"firm-{number:02}" for number in range(1, 7)]
    found = read_devices(Path(__file__).resolve().parents[2] / "examples" / "local-devices.toml", names)
    assert [found[name].name for name in names] == ["workstation"] * 4 + ["phone"] * 2
    assert [found["firm-05"].share(number) for number in (2, 3)] == [0.1, 0.05]
    assert found["firm-01"].memory == 0


def test_devices_of_processes_are_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "devices.toml"
    path.write_text(
        '[devices.phone]\nclients = ["b"]\ncpu = 0.1\nmemory = "400MiB"\nup = "1 Mbit/s"\n'
        "[[devices.phone.changes]]\nround = 3\nslower = 2.0\n[devices.rest]\ncount = 1\n"
    )
    found = read_devices(path, ["a", "b"])
    assert (found["a"].cpu, found["a"].memory) == (1.0, 0)
    assert (found["b"].memory, found["b"].up) == (400 << 20, 125e3)
    assert [found["b"].share(number) for number in (1, 3)] == [0.1, 0.05]
    path.write_text("[devices.phone]\ncount = 2\nforward = 0.1\n")
    with pytest.raises(FedhftError, match=r"devices.phone.forward") as refused:
        read_devices(path, ["a", "b"])
    assert refused.value.code is ErrorCode.INVALID_ARGUMENT
