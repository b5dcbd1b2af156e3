"""The command line inside the test's process: its exit code and what it printed, without the cost of a process."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from unittest import mock

from fedhft.cli.main import main


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


def run_cli(*arguments: str, **environment: str) -> Done:
    """Run `fedhft` with these arguments and additional environment variables."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.dict("os.environ", {"COLUMNS": "200", "NO_COLOR": "1", **environment}),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            code = main(list(arguments))
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1 if end.code else 0
    return Done(code, out.getvalue(), err.getvalue())
