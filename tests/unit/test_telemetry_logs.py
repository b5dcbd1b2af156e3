from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from fedhft.errors import ErrorCode, FedhftError
from fedhft.telemetry import logs


@pytest.fixture(autouse=True)
def _root_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_json_line_carries_message_fields_and_traceback() -> None:
    stream = io.StringIO()
    logs.configure("json", "info", stream)
    try:
        raise ZeroDivisionError("by zero")
    except ZeroDivisionError:
        logging.getLogger("fedhft.x").exception("round %d failed", 3, extra={"job": "j", "when": {1}})
    (line,) = stream.getvalue().splitlines()
    entry = json.loads(line)
    assert (entry["level"], entry["logger"], entry["message"]) == ("error", "fedhft.x", "round 3 failed")
    assert (entry["job"], entry["when"]) == ("j", "{1}")
    assert "ZeroDivisionError: by zero" in entry["exception"]
    assert entry["time"].endswith("+00:00")
    assert set(entry) == {"time", "level", "logger", "message", "job", "when", "exception"}


def test_a_console_line_is_for_people() -> None:
    stream = io.StringIO()
    logs.configure("console", "info", stream)
    logging.getLogger("fedhft.x").warning("not ready", extra={"reason": "no redis"})
    assert stream.getvalue().endswith("warning not ready reason=no redis\n")


def test_levels_below_the_chosen_one_are_silent() -> None:
    stream = io.StringIO()
    logs.configure("json", "warning", stream)
    logging.getLogger("fedhft.x").info("quiet")
    assert stream.getvalue() == ""


def test_configuring_twice_does_not_log_twice() -> None:
    stream = io.StringIO()
    logs.configure("json", "info", stream)
    logs.configure("json", "info", stream)
    logging.getLogger("fedhft.x").info("once")
    assert len(stream.getvalue().splitlines()) == 1


@pytest.mark.parametrize(("format_", "level"), [("xml", "info"), ("json", "loud")])
def test_an_unknown_choice_is_refused_with_those_there_are(format_: str, level: str) -> None:
    with pytest.raises(FedhftError, match="choose one of") as caught:
        logs.configure(format_, level)
    assert caught.value.code is ErrorCode.INVALID_ARGUMENT
