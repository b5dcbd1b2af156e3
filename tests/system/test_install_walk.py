"""A newcomer's walk: exactly the commands of docs/install.md, in their order, on a fresh clone.

Minutes: it installs everything into an environment of its own. `make test-system` runs it.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.documented import ROOT, shell_blocks
from tests.system.terminals import Staying, Terminal, own_network, taken

PAGE = "docs/install.md"
PORTS = (6379, 50051, 50052, 50053, 9101, 9102)
INSTALL_S, BLOCK_S, START_S = 2400.0, 900.0, 180.0
pytestmark = pytest.mark.timeout(2 * INSTALL_S)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A fresh clone of what is committed."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("this is not a git checkout, so there is nothing to clone")
    folder = tmp_path / "fedhft"
    subprocess.run(["git", "clone", "--quiet", ROOT, folder], check=True, timeout=120)
    return folder


@pytest.fixture
def before() -> Iterator[tuple[str, ...]]:
    with own_network() as prefix:
        if not prefix and (used := taken(PORTS)):
            pytest.skip(f"ports of the walk are in use here: {used}")
        yield prefix


def test_the_lines_of_the_page_lead_from_a_clone_to_an_adapter(
    clone: Path, before: tuple[str, ...], tmp_path: Path
) -> None:
    blocks = shell_blocks(PAGE)
    assert (clone / PAGE).read_text(encoding="utf-8") == (ROOT / PAGE).read_text(encoding="utf-8"), "commit the page"
    assert all("not-run" not in block.marks for block in blocks)
    walk = clone / "walk"
    stays: list[Staying] = []
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
            for line in block.lines:
                log = tmp_path / f"terminal-{len(stays)}.log"
                stays.append(Staying(line, walk, before, log))
                stays[-1].wait_listening(START_S)
        assert "127.0.0.1:9101 is ready" in said
        assert "0 failed" in said
        agents = [one for one in stays if one.line.startswith("fedhft agent ")]
        assert len(agents) == 3
        assert [one.process.wait(60) for one in agents] == [0, 0, 0], [one.said for one in agents]
        for adapter in ("cluster-0", "client-firm-01"):
            assert (walk / "adapters" / adapter / "adapter_model.safetensors").stat().st_size > 1000
        assert [one.interrupt() for one in reversed(stays)] == [0] * len(stays)
    finally:
        people.close()
        for one in stays:
            if one.process.poll() is None:
                one.process.kill()
                one.process.wait()
