"""A Redis that listens on a Unix socket, as the documents say a store may be given."""

from __future__ import annotations

import socket as socket_module
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedhft.local.redis import find_server
from fedhft.records import Topic
from fedhft.store.open import open_store
from tests.contract.federation import ALICE, JOB, open_first_round, token_of, update_record


@pytest.fixture
def socket() -> Iterator[Path]:
    server = find_server()
    assert server is not None
    with tempfile.TemporaryDirectory() as folder:  # short: the kernel takes paths of about a hundred characters
        path = Path(folder) / "redis.sock"
        process = subprocess.Popen(
            [server, "--port", "0", "--unixsocket", str(path), "--dir", folder, "--save", ""],
            stdout=subprocess.DEVNULL,
        )
        try:
            deadline = time.monotonic() + 10
            while not _listens(path) and time.monotonic() < deadline:
                time.sleep(0.02)
            yield path
        finally:
            process.terminate()
            process.wait(10)


def _listens(path: Path) -> bool:
    """Whether connections are taken; the file is there a moment earlier."""
    with socket_module.socket(socket_module.AF_UNIX) as attempt:
        return attempt.connect_ex(str(path)) == 0


async def test_a_round_runs_and_waiters_are_woken_over_a_unix_socket(socket: Path) -> None:
    store = open_store(f"unix://{socket}?db=0", "redis")
    try:
        await store.ping()
        fence = await open_first_round(store, target=1)
        seen = await store.changes(JOB, Topic.ARRIVALS)
        await store.accept(JOB, update_record(ALICE), await token_of(store, ALICE))
        assert await store.wait_change(JOB, Topic.ARRIVALS, seen, 5.0) > seen
        assert await store.begin_fold(JOB, 1, fence) == (ALICE,)
    finally:
        await store.close()
