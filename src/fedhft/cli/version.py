"""`fedhft version`: what is installed."""

from __future__ import annotations

import platform
from typing import Annotated

import typer

from fedhft.cli.output import Output, OutputOption, answer


def version(
    output: OutputOption = Output.TABLE,
    as_json: Annotated[bool, typer.Option("--json", help="The same as -o json.")] = False,
) -> None:
    """Print the version of fedhft, of its protocol, and of Python."""
    from fedhft import PROTOCOL_VERSION, __version__

    value = {"version": __version__, "protocol": PROTOCOL_VERSION, "python": platform.python_version()}
    line = f"fedhft {__version__}, protocol {PROTOCOL_VERSION}, Python {value['python']}"
    answer(Output.JSON if as_json else output, value, [__version__], lambda: typer.echo(line))
