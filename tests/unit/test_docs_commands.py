"""Every command in docs/ is run by a test, or marked as one that cannot be run here."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import documented
from tests.documented import ROOT, Block, shell_blocks

PAGES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md"))
EVERYTHING = ".ci/run"
"""Runs the make targets that tests are."""
RUNS: dict[tuple[str, str], str] = {
    ("docs/install.md", ""): "tests/system/test_install_walk.py",
    ("docs/runbook.md", ""): "tests/system/test_runbook.py",
    ("docs/runbook.md", "Upgrade"): "tests/system/test_install_walk.py",
    ("docs/edge.md", "Install"): "tests/system/test_systemd.py",
    ("docs/edge.md", "Start"): "tests/system/test_systemd.py",
    ("docs/cli.md", "Contexts"): "tests/integration/test_cli_page.py",
    ("docs/cli.md", "Completion"): "tests/integration/test_cli_completion.py",
    ("docs/kubernetes.md", "Secrets"): "tests/deploy/test_deploy_components.py",
    ("docs/methods.md", "Publishing"): EVERYTHING,
    ("docs/operations.md", "By hand"): "tests/system/test_by_hand.py",
    ("docs/operations.md", "Before an agent starts"): "tests/integration/test_agent_check.py",
    ("docs/operations.md", "TLS"): "tests/integration/test_tls_walkthrough.py",
    ("docs/operations.md", "Health"): "tests/system/test_runbook.py",
    ("docs/page.md", ""): "tests/integration/test_page_commands.py",
    ("docs/operations.md", "When something dies"): EVERYTHING,
}
"""Who runs the blocks of a page and section; without a section, of the whole page."""


def fault(block: Block) -> str | None:
    """What is wrong with a block: nobody runs it, and it does not say that nobody can."""
    where = f"{block.page}, line {block.line}"
    if unknown := set(block.marks) - {"terminal", "not-run"}:
        return f"{where}: unknown marks {sorted(unknown)}"
    if "not-run" in block.marks:
        return None
    runner = RUNS.get((block.page, block.section)) or RUNS.get((block.page, ""))
    if runner is None:
        return f"{where}: nobody runs it; name a test in RUNS, or mark it not-run where none can (tests/documented.py)"
    if not (ROOT / runner).is_file():
        return f"{where}: there is no {runner}"
    if runner == EVERYTHING:
        strange = [line for line in block.lines if not line.startswith("make test")]
        return f"{where}: {runner} does not run {strange}" if strange else None
    if block.page not in (ROOT / runner).read_text(encoding="utf-8"):
        return f"{where}: {runner} does not read {block.page}"
    return None


@pytest.mark.parametrize("page", PAGES)
def test_every_command_is_run_by_a_test_or_marked_as_not_runnable(page: str) -> None:
    assert [said for block in shell_blocks(page) if (said := fault(block)) is not None] == []


def test_every_entry_is_of_a_page_with_commands() -> None:
    for page, section in RUNS:
        assert [block for block in shell_blocks(page, section) if "not-run" not in block.marks], (page, section)


@pytest.mark.parametrize(
    ("fence", "runner", "said"),
    [
        ("```sh", None, "nobody runs it"),
        ("```sh", "tests/none.py", "there is no"),
        ("```sh", "tests/other.py", "does not read"),
        ("```sh", "tests/page.py", None),
        ("```sh terminal", "tests/page.py", None),
        ("```sh", EVERYTHING, "does not run"),
        ("```sh notrun", None, "unknown marks"),
        ("```sh not-run", None, None),
    ],
)
def test_a_block_that_nobody_runs_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fence: str, runner: str | None, said: str | None
) -> None:
    page = f"# Page\n\n```sh not-run\n# no heading\n```\n\n## Kitchen\n\n{fence}\nmake coffee\n```\n"
    for name, text in (("page.md", page), ("tests/page.py", "page.md"), ("tests/other.py", ""), (EVERYTHING, "")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.setattr(documented, "ROOT", tmp_path)
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    if runner is not None:
        monkeypatch.setitem(RUNS, ("page.md", "Kitchen"), runner)
    _, block = shell_blocks("page.md")
    assert block.section == "Kitchen"
    found = fault(block)
    assert (found is None) == (said is None), found
    assert said is None or said in str(found)
