"""Logs on standard error: one JSON object per line for machines, one line of text for people.

Standard output stays free for a program's results. Give context with `extra={...}`: every key becomes a field.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from datetime import UTC, datetime
from typing import Any, Literal, TextIO, get_args

from fedhft.errors import ErrorCode, FedhftError

LogFormat = Literal["json", "console"]
LOG_FORMATS: tuple[str, ...] = get_args(LogFormat)
LogLevel = Literal["debug", "info", "warning", "error"]
LOG_LEVELS: tuple[str, ...] = get_args(LogLevel)

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def configure(format: str = "json", level: str = "info", stream: TextIO | None = None) -> None:
    """Send all logs of this process to `stream` (standard error) in the given format, replacing what was configured.

    Raises FedhftError(INVALID_ARGUMENT) for an unknown format or level.
    """
    if format not in LOG_FORMATS:
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, "log format", format, "is unknown", f"choose one of {', '.join(LOG_FORMATS)}"
        )
    if level.lower() not in LOG_LEVELS:
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, "log level", level, "is unknown", f"choose one of {', '.join(LOG_LEVELS)}"
        )
    handler = logging.StreamHandler(stream if stream is not None else sys.stderr)
    handler.setFormatter(JsonFormatter() if format == "json" else ConsoleFormatter())
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())


def silence_grpc() -> None:
    """Keep gRPC's C core from writing lines of its own to standard error, unless GRPC_VERBOSITY asks for them.

    Call it before gRPC is imported. What goes wrong there reaches callers as an error with a status.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


class JsonFormatter(logging.Formatter):
    """time (UTC, milliseconds), level, logger, message, then the extra fields, then `exception` with its traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """One line of JSON; values JSON does not know are shown by `str`."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


class ConsoleFormatter(logging.Formatter):
    """Clock, level, message, then the extra fields as key=value."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, followed by a traceback if there is one."""
        clock = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        fields = "".join(f" {key}={value}" for key, value in _fields(record).items())
        line = f"{clock} {record.levelname.lower():7} {record.getMessage()}{fields}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line
