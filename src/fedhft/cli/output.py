"""How commands report: tables for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer


class OutputFormat(StrEnum):
    """Values of --format."""

    TABLE = "table"
    JSON = "json"


FormatOption = Annotated[
    OutputFormat, typer.Option("--format", help="table for people, json for programs (one object on standard output).")
]


def print_json(value: object, *, indent: int | None = 2) -> None:
    """One JSON value on standard output; `indent=None` keeps it on one line."""
    typer.echo(json.dumps(value, indent=indent, allow_nan=False))


def print_table(heads: Sequence[str], rows: Iterable[Sequence[Any]], title: str | None = None) -> None:
    """A table on standard output; numbers to the right."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    listed = [tuple(row) for row in rows]
    table = Table(title=title, title_justify="left")
    for index, head in enumerate(heads):
        numeric = bool(listed) and all(isinstance(row[index], int | float) for row in listed)
        table.add_column(head, justify="right" if numeric else "left")
    for row in listed:
        table.add_row(*(f"{cell:.3f}" if isinstance(cell, float) else escape(str(cell)) for cell in row))
    Console().print(table)
