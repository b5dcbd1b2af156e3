"""Reading what the store holds: disks flip bits, people edit keys, and older programs wrote other things."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager

from google.protobuf.json_format import ParseError

from fedhft.store import refusals

_UNREADABLE = (
    ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError, OverflowError, struct.error,
    ParseError,
)  # fmt: skip


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Around the parsing of stored bytes; `what` says of what, e.g. "the round of job x".

    Raises FedhftError(DAMAGED_RECORD) for bytes that no release wrote.
    """
    try:
        yield
    except _UNREADABLE as error:  # pydantic's ValidationError is a ValueError
        raise refusals.damaged_record(what, error) from error
