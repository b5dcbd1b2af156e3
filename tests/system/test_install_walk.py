"""A newcomer's walk: exactly the commands of docs/install.md, in their order, on a fresh clone. Then the upgrade.

Minutes: it installs everything into an environment of its own. `make test-system` runs it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.documented import ROOT, shell_blocks
from tests.system.terminals import Staying, Terminal, own_network, taken

PAGE, RUNBOOK = "docs/install.md", "docs/runbook.md"
PORTS = (6379, 50051, 50052, 50053, 9101, 9102)
INSTALL_S, BLOCK_S, START_S = 2400.0, 900.0, 180.0
pytestmark = pytest.mark.timeout(2 * INSTALL_S)


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    """A repository with what is committed here, on a branch of its own: whoever clones it can pull from it."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("this is not a git checkout, so there is nothing to clone")
    folder = tmp_path / "origin"
    git("clone", "--quiet", ROOT, folder)
    git("-C", folder, "switch", "--quiet", "--force-create", "released")
    return folder


@pytest.fixture
def clone(origin: Path, tmp_path: Path) -> Path:
    """A fresh clone of it."""
    git("clone", "--quiet", origin, tmp_path / "fedhft")
    return tmp_path / "fedhft"


def git(*arguments: str | Path) -> None:
    subprocess.run(["git", *arguments], check=True, timeout=120)


def release(origin: Path) -> str:
    """The next release, which differs in nothing but its version; returns that."""
    project = origin / "pyproject.toml"
    text = project.read_text(encoding="utf-8")
    (version,) = re.findall(r'^version = "(.*)"$', text, re.M)
    project.write_text(text.replace(f'version = "{version}"', f'version = "{version}.post1"', 1), encoding="utf-8")
    somebody = ["-c", "user.name=Somebody", "-c", "user.email=somebody@example.com"]
    git("-C", origin, *somebody, "commit", "--quiet", "--all", "--message", "The next release")
    return f"{version}.post1"


@pytest.fixture
def before() -> Iterator[tuple[str, ...]]:
    with own_network() as prefix:
        if not prefix and (used := taken(PORTS)):
            pytest.skip(f"ports of the walk are in use here: {used}")
        yield prefix


def start(stays: list[Staying], line: str, walk: Path, before: tuple[str, ...], logs: Path) -> None:
    """Start a program that stays, and wait until it can be called."""
    stays.append(Staying(line, walk, before, logs / f"terminal-{len(stays)}.log"))
    stays[-1].wait_listening(START_S)


def test_the_lines_of_the_page_lead_from_a_clone_to_an_adapter(
    origin: Path, clone: Path, before: tuple[str, ...], tmp_path: Path
) -> None:
    blocks = shell_blocks(PAGE)
    assert (clone / PAGE).read_text(encoding="utf-8") == (ROOT / PAGE).read_text(encoding="utf-8"), "commit the page"
    assert all("not-run" not in block.marks for block in blocks)
    walk = clone / "walk"
    stays: list[Staying] = []
    services: list[str] = []
    people = Terminal(clone, tmp_path / "people.log")
    try:
        said = ""
        for number, block in enumerate(blocks):
            if not block.stays:
                # Its network is the machine's while it installs, and then that of the services.
                said += people.type(block.text, INSTALL_S if number == 0 else BLOCK_S)
                if number == 0 and before:
                    people.close()
                    people = Terminal(clone, tmp_path / "people.log", before)
                    people.type(". .venv/bin/activate", BLOCK_S)
                continue
            services = services or block.lines
            for line in block.lines:
                start(stays, line, walk, before, tmp_path)
        assert "127.0.0.1:9101 is ready" in said
        assert "0 failed" in said
        agents = [one for one in stays if one.line.startswith("fedhft agent ")]
        assert len(agents) == 3
        assert [one.process.wait(60) for one in agents] == [0, 0, 0], [one.said for one in agents]
        for adapter in ("cluster-0", "client-firm-01"):
            assert (walk / "adapters" / adapter / "adapter_model.safetensors").stat().st_size > 1000
        assert [one.interrupt() for one in reversed(stays)] == [0] * len(stays)

        # The upgrade: everything is stopped, and goes on with the next release where it was.
        (upgrade,) = shell_blocks(RUNBOOK, "Upgrade")
        version = release(origin)
        with_network = Terminal(clone, tmp_path / "upgrade.log")
        with_network.type(". .venv/bin/activate", BLOCK_S)
        assert version not in with_network.type("fedhft --version", BLOCK_S)
        with_network.type(upgrade.text, INSTALL_S)
        with_network.close()
        for line in services:
            start(stays, line, walk, before, tmp_path)
        assert version in people.type("fedhft --version", BLOCK_S)
        assert "completed" in people.type("fedhft job list", BLOCK_S)
        assert "client-firm-02" in people.type("fedhft job export first --out again --client firm-02", BLOCK_S)
        assert [one.interrupt() for one in reversed(stays[-len(services) :])] == [0] * len(services)
    finally:
        people.close()
        for one in stays:
            if one.process.poll() is None:
                one.process.kill()
                one.process.wait()
