"""How commands report: tables for people, JSON, YAML or names for programs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedhft.errors import ErrorCode, FedhftError

if TYPE_CHECKING:
    from rich.console import Console

EARLIER_OPTIONS = {"format": "output"}
"""Options of earlier releases that still work and are not shown, with their names now."""

_UNBOUNDED = 10_000
"""Columns where no terminal bounds them: a pipe gets whole lines."""
_LEAST_TEXT = 20
"""Columns that a free text needs before others are left out for it."""
_GAP = 2


class Output(StrEnum):
    """Values of --output."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"


OutputOption = Annotated[
    Output,
    typer.Option(
        "--output",
        "-o",
        help="table for people; json or yaml for programs: one object; name: the names alone, one per line.",
    ),
]


class Report(StrEnum):
    """Values of --output where there are no names."""

    TABLE = "table"
    JSON = "json"


ReportOption = Annotated[
    Report,
    typer.Option("--output", "-o", help="table for people, json for programs: one object on standard output."),
]


@dataclass(frozen=True)
class Column:
    """A column of a table. text: free text, which wraps; others stay on one line.

    less: columns with a larger one are left out first where a terminal is too narrow; 0: never.
    """

    head: str
    less: int = 0
    text: bool = False


def answer(output: Output, value: object, names: Iterable[str], table: Callable[[], None]) -> None:
    """Print what a command found in the form that was asked for. Raises INVALID_ARGUMENT for YAML without a library."""
    match output:
        case Output.JSON:
            print_json(value)
        case Output.YAML:
            _print_yaml(value)
        case Output.NAME:
            for name in names:
                typer.echo(name)
        case Output.TABLE:
            table()


def print_json(value: object, *, indent: int | None = 2) -> None:
    """One JSON value on standard output; `indent=None` keeps it on one line."""
    typer.echo(json.dumps(value, indent=indent, allow_nan=False))


def _print_yaml(value: object) -> None:
    try:
        import yaml
    except ImportError as error:
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, "--output", "yaml", "needs PyYAML, which is not installed",
            "pip install pyyaml, or use json, which every YAML reader takes",
        ) from error  # fmt: skip
    typer.echo(yaml.safe_dump(value, sort_keys=False, allow_unicode=True), nl=False)


def console(*, stderr: bool = False) -> Console:
    """Where tables go: as wide as the terminal, or as `COLUMNS` says; a pipe gets lines as long as they are."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    bounded = stream.isatty() or "COLUMNS" in os.environ
    return Console(stderr=stderr, width=None if bounded else _UNBOUNDED)


def print_table(columns: Sequence[Column], rows: Iterable[Sequence[Any]], title: str | None = None) -> None:
    """A table on standard output, numbers to the right.

    Where the terminal is too narrow, whole columns are left out, and a line under the table says which.
    """
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    from fedhft.reporting.columns import fitting, left_out

    out = console()
    listed = [tuple(row) for row in rows]
    cells = [tuple(_cell(value) for value in row) for row in listed]
    telling = [
        index
        for index, column in enumerate(columns)
        if not column.text or not cells or any(row[index] for row in cells)
    ]
    columns = [columns[index] for index in telling]
    cells = [tuple(row[index] for index in telling) for row in cells]
    listed = [tuple(row[index] for index in telling) for row in listed]
    least = [_least(column, [row[index] for row in cells]) for index, column in enumerate(columns)]
    shown, needed = fitting(least, [column.less for column in columns], _GAP, out.width)
    missing = left_out([column.head for column in columns], shown)
    texts = [index for index in shown if columns[index].text]
    crowded = needed > out.width
    if crowded and len(texts) < len(shown):  # texts go under the last of the other columns
        shown = [index for index in shown if index not in texts]
        cells = [_with_texts(row, shown[-1], texts) for row in cells]
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, _GAP - 1, 0, 0))
    for index in shown:
        numeric = bool(listed) and all(isinstance(row[index], int | float) for row in listed)
        whole = not columns[index].text and not crowded
        head = columns[index].head
        table.add_column(head, justify="right" if numeric else "left", no_wrap=whole, overflow="fold")
    for row in cells:
        table.add_row(*(escape(row[index]) for index in shown))
    if title:
        out.print(title, markup=False, highlight=False)
    out.print(table, highlight=False)
    if missing:
        out.print(missing, style="dim", markup=False, highlight=False)


def _with_texts(row: tuple[str, ...], place: int, texts: Sequence[int]) -> tuple[str, ...]:
    """A row with its texts under what stands in one of its places."""
    lines = [row[place], *(row[index] for index in texts if row[index])]
    return (*row[:place], "\n".join(lines), *row[place + 1 :])


def _cell(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _least(column: Column, cells: Sequence[str]) -> int:
    """Characters that a column needs. A text that says nothing needs none."""
    widest = max(map(len, (column.head, *cells)))
    return min(widest, _LEAST_TEXT) if column.text else widest


def ago(seconds: float) -> str:
    """A length of time for people, in its largest unit: 12 s, 5 min, 3 h, 12 d."""
    for most, unit, name in ((120.0, 1.0, "s"), (7200.0, 60.0, "min"), (172_800.0, 3600.0, "h")):
        if seconds < most:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds / 86_400:.0f} d"
