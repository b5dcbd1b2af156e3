"""docs/security.md: every row names code that exists and a test that exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = ROOT / "docs/security.md"
LINK = re.compile(r"\[([^\]]+)\]\(\.\./([^)]+)\)")
NAMED = re.compile(r"(?P<path>[^:]+)::(?P<name>\w+)")


def rows() -> list[list[str]]:
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if row[0] != "attack" and row[0].strip("- ")]


def defined_in(path: Path) -> set[str]:
    """Names of everything defined in a file, methods and constants included."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0][:60])
def test_a_row_names_its_defence_and_the_test_of_it(row: list[str]) -> None:
    attack, defence, test, left = row
    assert attack, "a row without an attack"
    assert left, f"{attack}: say what it can still do, or 'nothing known'"
    assert LINK.search(defence), f"{attack}: link the code, as [file.py: name](../path)"
    assert re.search(r"tests/\S+::test_", test), f"{attack}: link a test, as [path::test_name](../path)"
    for text, target in LINK.findall(f"{defence} {test}"):
        path = ROOT / target
        assert path.is_file(), f"{attack}: {target} does not exist"
        found = NAMED.fullmatch(text) or re.fullmatch(r"(?P<path>[^:]+): (?P<name>\w+)", text)
        if found and path.suffix == ".py":
            assert found["name"] in defined_in(path), f"{attack}: {target} has no {found['name']}"
