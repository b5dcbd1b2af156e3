"""What the documents say is what the code does: generated pages, commands, job files, numbers, names, links."""

from __future__ import annotations

import re
import shlex
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from fedhft_agent.check.settings import CheckSettings

from fedhft.cli.main import app
from fedhft.job import JobSpec, parse_job, read_job
from fedhft.job_sections import Tier
from fedhft.job_values import parse_size
from fedhft.planning.tiers import tier_of
from fedhft.process.settings import flag_of
from generated_pages.job_reference import merged
from tests.unit.test_house import ROOT, load

DOCS = ROOT / "docs"
EXAMPLE = ROOT / "examples/job.toml"
GENERATE = load(DOCS / "generate.py")
PAGES = sorted(
    [
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
        *DOCS.glob("*.md"),
        *ROOT.glob("services/*/README.md"),
    ]
)


def page(name: str) -> str:
    return " ".join((ROOT / name).read_text(encoding="utf-8").split())


def blocks(path: Path, language: str) -> list[str]:
    text = path.read_text(encoding="utf-8")
    return re.findall(rf"^ *```{language}(?: [a-z -]+)?\n(.*?)^ *```", text, re.M | re.S)


# -- generated pages


def test_generated_pages_are_fresh() -> None:
    assert GENERATE.stale() == [], "run make docs"


def test_a_changed_page_is_found_stale(tmp_path: Path) -> None:
    shutil.copytree(DOCS, tmp_path, dirs_exist_ok=True)
    for name, old, new in (
        ("job-reference.md", "`learning_rate`", "`lr`"),
        ("exit-codes.md", "| 10 |", "| 9 |"),
        ("methods.md", "| `local` | uniform |", "| `local` | tiers |"),
        ("operations.md", "`127.0.0.1:50051`", "`127.0.0.1:1`"),
    ):
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert old in text
        (tmp_path / name).write_text(text.replace(old, new), encoding="utf-8")
    assert GENERATE.stale(tmp_path) == ["exit-codes.md", "job-reference.md", "methods.md", "operations.md"]


def test_a_page_that_lost_the_marks_of_a_block_is_refused(tmp_path: Path) -> None:
    shutil.copytree(DOCS, tmp_path, dirs_exist_ok=True)
    text = (tmp_path / "methods.md").read_text(encoding="utf-8")
    (tmp_path / "methods.md").write_text(text.replace("<!-- end generated: presets -->", ""), encoding="utf-8")
    with pytest.raises(ValueError, match="marks of block presets"):
        GENERATE.stale(tmp_path)


def test_every_field_of_a_job_is_in_the_reference() -> None:
    text = (DOCS / "job-reference.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", text, re.M | re.S))
    for name in JobSpec.model_fields:
        title = next((title for title in (f"[{name}]", f"[{name}.NAME]") if title in sections), "Top level")
        fields = [name]
        if title != "Top level":
            default = JobSpec.model_fields[name].annotation
            model = Tier if name == "tiers" else default
            fields = [info.alias or own for own, info in model.model_fields.items()]  # type: ignore[union-attr]
        for field in fields:
            assert f"\n| `{field}` |" in sections[title], f"{title} {field}"


# -- job files


def test_the_example_job_is_valid_and_its_comments_are_true() -> None:
    spec = read_job(EXAMPLE)
    assert tier_of(spec, "firm-01", parse_size("1GiB")) == "middle"  # type: ignore[arg-type]
    assert tier_of(spec, "firm-01", parse_size("4GiB")) == "strong"  # type: ignore[arg-type]
    assert tier_of(spec, "firm-05", parse_size("4GiB")) == "small"  # type: ignore[arg-type]
    assert spec.rounds.min_clients == len(spec.clients) == 6


def test_the_example_job_fits_the_data_that_the_demo_leaves(tmp_path: Path) -> None:
    from fedhft.demo.settings import DemoSettings, demo_data

    data = demo_data(DemoSettings(out=tmp_path))
    spec = read_job(EXAMPLE)
    assert spec.task.labels == data.labels
    assert spec.clients == tuple(client.client for client in data.clients)
    files = data.write(tmp_path)
    assert {path.train.relative_to(tmp_path).as_posix() for path in files} >= {"firm-01/train.jsonl"}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_job_fragments_in_documents_are_valid(path: Path) -> None:
    example = tomllib.loads(EXAMPLE.read_text(encoding="utf-8"))
    for text in blocks(path, "toml"):
        fragment = tomllib.loads(text)
        if "kind" in fragment.get("task", {}):  # another task than the example's, not a change of it
            example = {**example, "task": {}}
        parse_job(merged(example, fragment))


def test_there_is_a_job_fragment_to_check() -> None:
    assert blocks(DOCS / "methods.md", "toml")


# -- commands


def commands(path: Path) -> Iterator[list[str]]:
    """Words of every `fedhft ...` and `make ...` in shell blocks and in inline code."""
    text = path.read_text(encoding="utf-8")
    whole = [block.replace("\\\n", " ") for block in blocks(path, "sh")]  # a line goes on after a backslash
    lines = [line.strip() for block in whole for line in block.splitlines()]
    prose = re.sub(r"^ *```.*?^ *```", "", text, flags=re.M | re.S)
    lines += [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]
    for line in lines:
        if re.match(r"(fedhft|make) ", line):
            yield shlex.split(line)


def service_options(name: str) -> set[str]:
    return set(re.findall(r"`(--[a-z-]+)`", getattr(GENERATE, f"options_{name}")())) | {"--help"}


def commands_of(command: Any) -> dict[str, Any]:
    """Subcommands; none of a plain command."""
    return getattr(command, "commands", {})


def check_fedhft(words: list[str]) -> None:
    command: Any = typer.main.get_command(app)
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    for number, word in enumerate(words):
        if word == "...":
            return
        if word.startswith("--"):
            assert word.partition("=")[0] in {*known, "--help"}, f"{' '.join(words)}: no option {word}"
        elif commands_of(command):
            assert word in commands_of(command), f"{' '.join(words)}: no command {word}"
            command = commands_of(command)[word]
            known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
            if number == 0 and word in ("aggregator", "clusterer", "agent"):
                known = service_options(word)
                if words[1:2] == ["check"]:
                    known |= {flag_of(name) for name in CheckSettings.model_fields}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_commands_in_documents_exist(path: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    for program, *words in commands(path):
        if program == "fedhft":
            check_fedhft(words)
            continue
        for word in words:
            variable, is_variable, value = word.partition("=")
            if variable == "DEMO_ARGS":
                check_fedhft(["demo", *(part for part in shlex.split(value) if part != "…")])
            elif variable == "TEST_ARGS":
                assert all((ROOT / part).exists() for part in shlex.split(value) if part.startswith("tests/")), word
            elif not is_variable:
                assert word in targets, f"{path.name}: make has no target {word}"


@pytest.mark.parametrize("line", ["job submit x --nope", "jobs", "agent --clients 3", "demo --round 3"])
def test_a_command_that_does_not_exist_is_found(line: str) -> None:
    with pytest.raises(AssertionError, match=r"no (option|command)"):
        check_fedhft(line.split())


def test_the_documents_name_every_command() -> None:
    shown = " ".join(page(path.relative_to(ROOT).as_posix()) for path in PAGES)
    commands = commands_of(typer.main.get_command(app))
    assert commands
    for name, command in commands.items():
        for sub in commands_of(command) or ("",):
            assert f"fedhft {name} {sub}".strip() in shown, f"fedhft {name} {sub} is documented nowhere"
