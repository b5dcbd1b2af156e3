"""Safetensors files that know their own checksum.

The metadata holds the SHA-256 of the whole file, taken while the 64 characters of the checksum itself were zeros. So
the file stays an ordinary safetensors file, and any changed, missing or added byte is noticed. Files of format 1 were
written without a checksum and are read without one.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

Arrays = dict[str, NDArray[Any]]

FORMAT = "2"
_WITHOUT_CHECKSUM = "1"
_KEY = "sha256"
_BLANK = "0" * 64
_CHECKSUM = re.compile(rb'"sha256":"([0-9a-f]{64})"')  # quotes inside other values are escaped: only the key matches
_CHUNK = 1 << 20
_LONGEST_HEADER = 64 << 20


class DamagedFileError(Exception):
    """A file does not hold what was written to it."""


def write_checked(path: Path, arrays: Arrays, header: Mapping[str, str]) -> None:
    """Replace a file in one step: written beside it, synced, renamed. A failure leaves the old file and nothing else.

    Raises OSError.
    """
    temporary = path.with_suffix(".tmp")
    try:
        metadata = {**header, "format": FORMAT, _KEY: _BLANK}
        try:
            save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, str(temporary), metadata)
        except SafetensorError as error:  # it reports a full disk so
            raise OSError(str(error)) from error
        with temporary.open("r+b") as stream:
            place = _checksum_of(_header(stream)).start(1)
            checksum = _hash(stream, place)
            stream.seek(place)
            stream.write(checksum.encode())
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)  # half a file would take the room that is missing
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_checked(path: Path) -> tuple[Arrays, dict[str, str]]:
    """Arrays and metadata of a file.

    Raises DamagedFileError, OSError when it cannot be opened or read.
    """
    with path.open("rb") as stream:
        header = _header(stream)
        found = _CHECKSUM.search(header)
        if found is not None and _hash(stream, found.start(1)).encode() != found[1]:
            raise DamagedFileError("its checksum is not that of its content")
    try:
        with safe_open(str(path), framework="np") as file:
            metadata = dict(file.metadata() or {})
            if found is None and metadata.get("format") != _WITHOUT_CHECKSUM:
                raise DamagedFileError("its checksum is missing")
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118 - not a mapping
    except (SafetensorError, ValueError, TypeError) as error:
        raise DamagedFileError(str(error)) from error


def _header(stream: BinaryIO) -> bytes:
    """The first bytes: a length of 8 bytes, little-endian, and so much JSON."""
    stream.seek(0)
    length = stream.read(8)
    size = int.from_bytes(length, "little")
    if len(length) < 8 or size > _LONGEST_HEADER:
        raise DamagedFileError("it does not begin with the length of a header")
    return length + stream.read(min(size, os.fstat(stream.fileno()).st_size))


def _checksum_of(header: bytes) -> re.Match[bytes]:
    found = _CHECKSUM.search(header)
    if found is None:
        raise DamagedFileError("its checksum is missing")
    return found


def _hash(stream: BinaryIO, place: int) -> str:
    """SHA-256 in hex of a file whose checksum, at `place`, counts as zeros."""
    digest = hashlib.sha256()
    stream.seek(0)
    digest.update(stream.read(place))
    digest.update(_BLANK.encode())
    stream.seek(place + len(_BLANK))
    while chunk := stream.read(_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()
