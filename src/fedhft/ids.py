"""Identifiers that travel: jobs and clients. Parsed once where they enter, trusted from there on."""

from __future__ import annotations

import re
from typing import NewType

from fedhft.errors import ErrorCode, FedhftError

JobId = NewType("JobId", str)
ClientId = NewType("ClientId", str)

_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_RULE = "use 1 to 63 characters of a-z 0-9 . _ - that start with a letter or digit"


def parse_job_id(text: str) -> JobId:
    """Check a job id. Raises FedhftError(INVALID_ARGUMENT)."""
    return JobId(_parse("job", text))


def parse_client_id(text: str) -> ClientId:
    """Check a client id. Raises FedhftError(INVALID_ARGUMENT)."""
    return ClientId(_parse("client", text))


def _parse(field: str, text: str) -> str:
    if not _ID.fullmatch(text):
        raise FedhftError.field(ErrorCode.INVALID_ARGUMENT, field, text, "is not a valid id", _RULE)
    return text
