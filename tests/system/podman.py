"""Podman as these tests use it: a settings file of their own, bounded calls, containers and networks that go away.

Needs root and Debian's packages podman, runc, netavark, aardvark-dns and uidmap; `available` skips a test without them.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

T = TypeVar("T")

# Limits that a machine without CAP_SYS_RESOURCE may set, and a runtime that knows both versions of control groups.
_SETTINGS = """[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
[engine]
runtime = "runc"
"""


@functools.cache
def available() -> None:
    """Skip the test where containers cannot run."""
    missing = [name for name in ("podman", "runc") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"containers cannot run: {', '.join(missing)} not installed (apt-get install podman runc)")
    if os.geteuid() != 0:
        pytest.skip("containers on networks of their own need root")
    # A machine may have podman and not let it mount or make networks: tried on its own root, under an overlay.
    for trial in (["info"], ["run", "--rm", "--rootfs", "/:O", "/bin/true"]):
        done = subprocess.run(
            ["podman", *trial], capture_output=True, text=True, timeout=60, check=False, env=environment()
        )
        if done.returncode != 0:
            pytest.skip(f"podman {trial[0]} does not work here: {done.stderr.strip()[-300:]}")


@functools.cache
def _settings_file() -> Path:
    path = Path(tempfile.gettempdir()) / f"fedhft-containers-{os.getuid()}.conf"
    path.write_text(_SETTINGS, encoding="utf-8")
    return path


def environment() -> dict[str, str]:
    """Variables with which podman, and make with it, is called."""
    return {**os.environ, "CONTAINERS_CONF": os.environ.get("CONTAINERS_CONF", str(_settings_file()))}


def podman(*arguments: str | Path, timeout: float = 120, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Call podman. With `check`, a failure fails the test and shows what podman said."""
    command = ["podman", *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, check=False, env=environment(), errors="replace"
    )
    if check and done.returncode != 0:
        pytest.fail(f"{' '.join(command)}: {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return done


def inspect(name: str, kind: str = "container") -> dict[str, Any]:
    """What podman knows of a container, pod, image or volume."""
    found = json.loads(podman(kind, "inspect", name).stdout)
    if isinstance(found, list):  # a pod is an object to podman 4
        (found,) = found
    return dict(found)


def logs(name: str) -> str:
    """Both streams of a container."""
    done = podman("logs", name, check=False)
    return done.stdout + done.stderr


def process_of(name: str) -> int:
    """Process id, on this machine, of a container's first process; 0 while it does not run."""
    return int(inspect(name)["State"]["Pid"])


def has_image(name: str) -> bool:
    return podman("image", "exists", name, check=False).returncode == 0


def until(what: str, ask: Callable[[], T], seconds: float, pause: float = 0.5) -> T:
    """The first answer that is true. Fails the test when there is none in time."""
    deadline = time.monotonic() + seconds
    while True:
        answer = ask()
        if answer:
            return answer
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds:g} s: {what}")
        time.sleep(pause)


@contextmanager
def network(name: str) -> Iterator[str]:
    """A network of its own, with names. What is still on it at the end is removed."""
    podman("network", "rm", "-f", name, check=False)
    podman("network", "create", name)
    try:
        yield name
    finally:
        podman("network", "rm", "-f", name, check=False)


@contextmanager
def container(name: str, *arguments: str | Path) -> Iterator[str]:
    """A container in the background: `podman run -d --name NAME ARGUMENTS`, removed at the end."""
    podman("rm", "-f", "-t", "2", name, check=False)
    podman("run", "-d", "--name", name, *arguments)
    try:
        yield name
    finally:
        podman("rm", "-f", "-t", "2", "-v", name, check=False)
