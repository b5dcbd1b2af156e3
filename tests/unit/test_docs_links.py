"""Links in documents lead somewhere, every page can be reached, and none names a machine."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.unit.test_docs import DOCS, EXAMPLE, PAGES
from tests.unit.test_house import ROOT


def anchors(path: Path) -> set[str]:
    text = re.sub(r"^ *```.*?^ *```", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        found = (path.parent / name).resolve() if name else path
        assert found.exists(), f"{path.name}: {target}"
        assert not anchor or anchor in anchors(found), f"{path.name}: no heading for {target}"


def test_every_page_can_be_reached_from_the_index() -> None:
    text = (DOCS / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in DOCS.glob("*.md") if path.name != "README.md" and f"({path.name})" not in text] == []


def test_the_architecture_names_every_room_and_every_file_of_the_rounds() -> None:
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    rooms = {path.parent.relative_to(ROOT) for path in (ROOT / "src/fedhft").glob("*/__init__.py")}
    rooms -= {Path("src/fedhft/v1")}  # generated
    assert [room.as_posix() for room in sorted(rooms) if f"](../{room.as_posix()}/)" not in text] == []
    files = (ROOT / "src/fedhft/rounds").glob("[a-z]*.py")
    assert [path.name for path in files if f"[{path.name}](" not in text] == []


@pytest.mark.parametrize("path", [*PAGES, EXAMPLE], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_documents_name_no_machine_and_promise_nothing(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"(?<![\w.:/])/(?:work|home|root|Users|tmp)\b", text)
    assert not re.search(r"\b(?:TODO|FIXME|TBD)\b", text)
