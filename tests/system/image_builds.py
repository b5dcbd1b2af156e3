"""Images for these tests, built on this machine: a base made by debootstrap, ours, Debian's Redis and Prometheus.

    python -m tests.system.image_builds      builds all of them, as much at once as does not wait for something else

FEDHFT_TEST_CACHE names the folder that keeps the base and the wheels between runs; without it, ~/.cache/fedhft-tests.
Each is made once, whichever test asks first, and whichever process that test runs in.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.system.podman import available, environment, has_image, inspect, podman
from tests.unit.test_house import ROOT

BASE = "localhost/fedhft-test-base:bookworm"
SERVICES = ("aggregator", "clusterer", "agent")
_SUITE, _PYTHON = "bookworm", (3, 11)
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_BUILD_S = 1500


def cache() -> Path:
    given = os.environ.get("FEDHFT_TEST_CACHE")
    folder = Path(given) if given else Path.home() / ".cache/fedhft-tests"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def alone(what: str) -> Iterator[None]:
    """Keep others from making the same: threads, tests in other processes, other runs with this cache."""
    with (cache() / f".{re.sub('[^a-z0-9]+', '-', what)}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def run(*command: str | Path, timeout: float = _BUILD_S) -> str:
    """What a command prints on both streams. Fails the test when it fails."""
    started = time.monotonic()
    done = subprocess.run(
        [*map(str, command)], cwd=ROOT, text=True, timeout=timeout, check=False, env=environment(), errors="replace",
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    said = " ".join(map(str, command))
    if done.returncode != 0:
        pytest.fail(f"{said}: {done.returncode}\n{done.stdout[-6000:]}")
    print(f"{time.monotonic() - started:.0f} s: {said}", flush=True)
    return done.stdout


@functools.cache
def base() -> str:
    """A Debian with Python and nothing else. Skips the test where there is no debootstrap to make it with."""
    available()
    with alone("base"):
        if not has_image(BASE):
            _make_base()
    return BASE


def _make_base() -> None:
    archive = cache() / f"{_SUITE}.tar"
    if not archive.exists():
        if shutil.which("debootstrap") is None:
            pytest.skip("no base image, and debootstrap is not installed to make one")
        with tempfile.TemporaryDirectory(dir=cache()) as folder:
            run(
                "debootstrap", "--variant=minbase", "--include=python3,python3-venv,ca-certificates",
                _SUITE, f"{folder}/root",
            )  # fmt: skip
            run("sh", "-c", f"rm -f {folder}/root/var/cache/apt/archives/*.deb")
            run("tar", "-C", f"{folder}/root", "-cf", f"{folder}/base.tar", ".")
            Path(folder, "base.tar").rename(archive)
    run("podman", "import", "--quiet", "--change", f"ENV {_PATH}", archive, BASE)


@functools.cache
def wheels() -> Path:
    """Every wheel that our images need, collected once for each state of our dependencies."""
    if sys.version_info[:2] != _PYTHON:
        pytest.skip(f"wheels for the base image are collected by Python {'.'.join(map(str, _PYTHON))}")
    folder = cache() / f"wheels-{_dependencies()}"
    with alone("wheels"):
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=cache()) as unfinished:
                make("wheels", f"WHEELS={unfinished}/wheels")
                Path(unfinished, "wheels").rename(folder)
    return folder


def _dependencies() -> str:
    """A digest of what decides which wheels are collected."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    recipe = re.search(r"^wheels:.*?\n\n", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M | re.S)
    assert recipe is not None
    wanted = [project["dependencies"], *(extras[name] for name in ("server", "agent", "data")), recipe[0]]
    constraints = (ROOT / "constraints-cpu.txt").read_text(encoding="utf-8")
    return hashlib.sha256(json.dumps([*wanted, constraints]).encode()).hexdigest()[:12]


def make(target: str, *settings: str) -> str:
    """A target of our Makefile, with the environment that runs this test."""
    stamps = [word for name in (".dev", ".demo") for word in ("-o", f"{sys.prefix}/{name}")]
    return run("make", *stamps, target, f"VENV={sys.prefix}", "BUILDER=podman", *settings)


@functools.cache
def ours() -> None:
    """Our three images, built without a network, unless they are of what is here already."""
    settings, stamp = (f"WHEELS={wheels()}", f"BASE={base()}"), cache() / "images.json"
    with alone("images"):
        wanted = _sources()
        if not stamp.exists() or json.loads(stamp.read_text(encoding="utf-8")) != [wanted, _image_ids()]:
            make("images", *settings)
            stamp.write_text(json.dumps([wanted, _image_ids()]), encoding="utf-8")


def _sources() -> str:
    """A digest of everything that decides what is in our images, and of how they are built."""
    files = [ROOT / name for name in ("pyproject.toml", "constraints-cpu.txt", "README.md", "LICENSE", "Makefile")]
    files += [path for name in ("src", "services") for path in sorted((ROOT / name).rglob("*")) if path.is_file()]
    digest = hashlib.sha256(_dependencies().encode())
    for path in files:
        if "__pycache__" not in path.parts:
            digest.update(f"{path.relative_to(ROOT)} {path.stat().st_size}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def _image_ids() -> list[str]:
    return [str(inspect(f"fedhft-{name}", "image")["Id"]) for name in SERVICES if has_image(f"fedhft-{name}")]


@functools.cache
def redis() -> str:
    """Debian's Redis under the name and with the user that the manifests have. It is 7.0, not 7.2."""
    lines = [
        "apt-get update -qq",
        "apt-get install -qq -y --no-install-recommends redis-server >/dev/null",
        "rm -rf /var/lib/apt/lists/* /etc/redis",
        "usermod -u 999 redis",
        "groupmod -g 999 redis",
        "mkdir -p /data",
        "chown 999:999 /data",
    ]
    return built(
        "localhost/redis:7.2-bookworm", f"FROM {base()}\nRUN {' && '.join(lines)}\nUSER 999:999\nWORKDIR /data\n"
    )


@functools.cache
def prometheus() -> str:
    """Debian's Prometheus, with the entry point and the user of the image that the compose file names."""
    lines = [
        "apt-get update -qq",
        "apt-get install -qq -y --no-install-recommends prometheus >/dev/null",
        "rm -rf /var/lib/apt/lists/* /etc/prometheus/*",
        "install -d -o nobody -g nogroup /prometheus",
    ]
    text = f'FROM {base()}\nRUN {" && ".join(lines)}\nUSER nobody\nENTRYPOINT ["prometheus"]\n'
    return built("localhost/fedhft-test-prometheus", text)


def everything() -> None:
    """All images: the base while wheels are collected, Debian's packages while ours are built."""
    with ThreadPoolExecutor(2) as pool:
        collecting = pool.submit(wheels)
        base()
        packaging = [pool.submit(redis), pool.submit(prometheus)]
        collecting.result()
        ours()
        for one in packaging:
            one.result()


def built(name: str, dockerfile: str) -> str:
    """An image from the text of a Dockerfile, with a network (for Debian's packages)."""
    with tempfile.TemporaryDirectory() as folder, alone(name):
        Path(folder, "Dockerfile").write_text(dockerfile, encoding="utf-8")
        run("podman", "build", "--quiet", "-t", name, folder)
    return name


def size(name: str) -> int:
    """Bytes of an image, its base included."""
    return int(inspect(name, "image")["Size"])


def command_in(name: str, *command: str, options: tuple[str, ...] = ()) -> tuple[int, str]:
    """Exit code and output of one command in a fresh container of an image, without a network."""
    done = podman(
        "run",
        "--rm",
        "--no-healthcheck",
        "--network",
        "none",
        *options,
        "--entrypoint",
        command[0],
        name,
        *command[1:],
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


if __name__ == "__main__":
    started_s = time.monotonic()
    try:
        everything()
    except pytest.skip.Exception as reason:
        print(f"no images: {reason}")
    print(f"{time.monotonic() - started_s:.0f} s: all images")
