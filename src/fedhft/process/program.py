"""The outermost layer of every process: settings, logs, and how an error is shown."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence

from fedhft.errors import FedhftError
from fedhft.process.options import S, read_settings, service_links
from fedhft.telemetry import logs

log = logging.getLogger(__name__)


def run_program(kind: type[S], run: Callable[[S], int], arguments: Sequence[str] | None = None) -> int:
    """Read the settings (from sys.argv for None), set logs up, run; returns the exit code.

    A FedhftError becomes one message on standard error and its exit code.
    """
    logs.silence_grpc()
    try:
        settings = read_settings(kind, sys.argv[1:] if arguments is None else arguments)
        logs.configure(settings.log_format, settings.log_level)
        for variable in service_links(kind, os.environ):
            log.warning(
                "variable ignored: Kubernetes set it for a Service with that name; set enableServiceLinks: false",
                extra={"variable": variable, "value": os.environ[variable]},
            )
        return run(settings)
    except FedhftError as error:
        print(f"{kind.program}: {error.message}", file=sys.stderr)
        return error.outcome.exit_code
