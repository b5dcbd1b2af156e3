"""The outermost lines of every process: settings, logs, and what an error looks like from outside."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from fedhft.errors import FedhftError
from fedhft.process.options import S, read_settings
from fedhft.telemetry import logs


def run_program(kind: type[S], run: Callable[[S], int], arguments: Sequence[str] | None = None) -> int:
    """Read the settings (from sys.argv for None), set logs up, run; returns the exit code.

    A refusal is one message on standard error and the exit code of its error.
    """
    try:
        settings = read_settings(kind, sys.argv[1:] if arguments is None else arguments)
        logs.configure(settings.log_format, settings.log_level)
        return run(settings)
    except FedhftError as error:
        print(f"{kind.program}: {error.message}", file=sys.stderr)
        return error.outcome.exit_code
