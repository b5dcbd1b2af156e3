"""TensorBoard's event files: records of a length, its checksum, an Event message, and its checksum.

Format: https://github.com/tensorflow/tensorboard, in summary/writer/record_writer.py and compat/proto/event.proto.
A job's figures go into DIR/<job>, in a file that is begun anew each time the job is watched from its first round.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path

from fedhft.errors import ErrorCode, FedhftError

_POLYNOMIAL = 0x82F63B78
"""CRC-32C (Castagnoli), reflected."""
_LARGEST_FLOAT32 = 3.4028234663852886e38


def _table() -> tuple[int, ...]:
    entries = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (_POLYNOMIAL if value & 1 else 0)
        entries.append(value)
    return tuple(entries)


_TABLE = _table()


class TensorBoard:
    """Writes a job's figures as scalars, the round as step."""

    def __init__(self, folder: Path, job: str) -> None:
        """Raises FedhftError(INVALID_ARGUMENT) when the folder cannot be written."""
        self._folder = folder / job
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            for earlier in self._folder.glob("events.out.tfevents.*.fedhft"):
                earlier.unlink()  # the history is written whole again
            name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}.fedhft"
            self._file = (self._folder / name).open("wb")
            self._record(_event(time.time()) + _bytes(3, b"brain.Event:2"))
        except OSError as error:
            raise self._unwritten(error) from error

    def write(self, round_number: int, figures: Mapping[str, float]) -> None:
        """See Tracker."""
        values = b"".join(
            _bytes(1, _bytes(1, name.encode()) + b"\x15" + struct.pack("<f", _within_float32(value)))
            for name, value in sorted(figures.items())
        )
        try:
            self._record(_event(time.time()) + b"\x10" + _varint(round_number) + _bytes(5, values))
            self._file.flush()
        except OSError as error:
            raise self._unwritten(error) from error

    def close(self, completed: bool) -> None:
        """See Tracker."""
        try:
            self._file.close()
        except OSError as error:
            raise self._unwritten(error) from error

    def _record(self, data: bytes) -> None:
        length = struct.pack("<Q", len(data))
        self._file.write(length + _masked(length) + data + _masked(data))

    def _unwritten(self, error: OSError) -> FedhftError:
        return FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, "--tracker", str(self._folder), f"cannot be written: {error.strerror or error}",
            "name a folder that this user can write to",
        )  # fmt: skip


def _within_float32(value: float) -> float:
    return min(max(value, -_LARGEST_FLOAT32), _LARGEST_FLOAT32)


def _event(seconds: float) -> bytes:
    return b"\x09" + struct.pack("<d", seconds)


def _bytes(number: int, data: bytes) -> bytes:
    """A length-delimited field."""
    return bytes([number << 3 | 2]) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _masked(data: bytes) -> bytes:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
