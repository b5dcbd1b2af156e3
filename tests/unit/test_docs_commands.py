"""Every command in docs/ is run by a test, or marked as one that cannot be run here."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import documented
from tests.documented import ROOT, Block, shell_blocks

PAGES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md"))
EVERYTHING = ".ci/run"
"""Runs the make targets that tests are."""


def fault(block: Block) -> str | None:
    """What is wrong with the marks of a block."""
    where = f"{block.page}, line {block.line}"
    unknown = [mark for mark in block.marks if mark not in ("terminal", "not-run") and not mark.startswith("run-by=")]
    if unknown:
        return f"{where}: unknown marks {unknown}"
    if ("not-run" in block.marks) == bool(block.run_by):
        return f"{where}: mark it run-by=TEST, or not-run if no test can run it here (tests/documented.py)"
    if not block.run_by:
        return None
    runner = ROOT / block.run_by
    if not runner.is_file():
        return f"{where}: there is no {block.run_by}"
    if block.run_by != EVERYTHING and block.page not in runner.read_text(encoding="utf-8"):
        return f"{where}: {block.run_by} does not read {block.page}"
    return None


@pytest.mark.parametrize("page", PAGES)
def test_every_command_is_run_by_a_test_or_marked_as_not_runnable(page: str) -> None:
    assert [said for block in shell_blocks(page) if (said := fault(block)) is not None] == []


def test_commands_that_run_everything_are_tests() -> None:
    for name in PAGES:
        for block in shell_blocks(name):
            if block.run_by == EVERYTHING:
                assert all(line.startswith("make test") for line in block.lines), f"{name}, line {block.line}"


@pytest.mark.parametrize(
    ("fence", "said"),
    [
        ("```sh", "mark it"),
        ("```sh run-by=tests/system/none.py", "there is no"),
        ("```sh run-by=tests/system/test_wheel.py", "does not read"),
        ("```sh not-run run-by=tests/system/test_wheel.py", "mark it"),
        ("```sh notrun", "unknown marks"),
        ("```sh not-run", None),
    ],
)
def test_a_block_that_nobody_runs_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fence: str, said: str | None
) -> None:
    (tmp_path / "page.md").write_text(f"# Page\n\n{fence}\nmake coffee\n```\n", encoding="utf-8")
    (tmp_path / "tests/system").mkdir(parents=True)
    (tmp_path / "tests/system/test_wheel.py").write_text("")
    monkeypatch.setattr(documented, "ROOT", tmp_path)
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (block,) = shell_blocks("page.md")
    found = fault(block)
    assert (found is None) == (said is None)
    assert said is None or said in str(found)
