"""A file of rows: arrays (tokens x width), one after another without padding, each under a key.

Two files that only grow. `rows.bin` holds the values; `rows.idx` has a record for each row, written after its values:

    16 bytes key | 8 offset in rows.bin | 4 tokens | 4 CRC-32 of key and values          little-endian

A kill between the two leaves values without a record, which the next row overwrites. Whatever else happens to the files
shows as a checksum that does not fit, once per row and process, and the row counts as absent. They are read with
`pread`, not mapped: where a mapped file is cut off by somebody else the kernel ends the process, and the page cache
serves either way.
"""

from __future__ import annotations

import os
import struct
import weakref
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

VALUES = "rows.bin"
INDEX = "rows.idx"
KEY_BYTES = 16
_RECORD = struct.Struct(f"<{KEY_BYTES}sQII")
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
_MODE = 0o600
"""Texts can be guessed from activations, so they are for this user alone."""

Values = NDArray[Any]


class RowFile:
    """Rows of one width and dtype in a folder. room: is asked before bytes are added whether that many may be.

    Raises OSError where the files cannot be opened, or, in `append`, written.
    """

    def __init__(self, folder: Path, width: int, dtype: np.dtype[Any], room: Callable[[int], bool]) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder = folder
        self._shape, self._dtype, self._room = width, dtype, room
        self._values = self._open(folder / VALUES)
        self._index = self._open(folder / INDEX)
        self._rows: dict[bytes, tuple[int, int, int]] = {}
        self._checked: set[bytes] = set()
        self._records = 0
        self._end = 0
        self._read_index()

    def __contains__(self, key: bytes) -> bool:
        return key in self._rows

    def __len__(self) -> int:
        return len(self._rows)

    def append(self, key: bytes, row: Values) -> bool:
        """Add a row (tokens x width); False when there is no room for it. A key that is there already stays."""
        if key in self._rows:
            return True
        data = np.ascontiguousarray(row, self._dtype).data.cast("B")
        if not self._room(len(data) + _RECORD.size):
            return False
        place = (self._end, len(row), zlib.crc32(data, zlib.crc32(key)))
        _write(self._values, data, self._end)
        _write(self._index, memoryview(_RECORD.pack(key, *place)), self._records * _RECORD.size)
        self._rows[key] = place
        self._checked.add(key)
        self._records += 1
        self._end += len(data)
        return True

    def read(self, key: bytes, out: Values) -> bool:
        """Copy a row into `out` (tokens x width, contiguous); False, and the row is forgotten, when it is damaged."""
        offset, tokens, checksum = self._rows[key]
        data = out.data.cast("B") if tokens == len(out) else memoryview(b"")
        sound = len(data) > 0 and os.preadv(self._values, [data], offset) == len(data)
        if sound and key not in self._checked:
            sound = zlib.crc32(data, zlib.crc32(key)) == checksum
            self._checked.add(key)
        if not sound:
            del self._rows[key]
            self._checked.discard(key)
        return sound

    def _open(self, path: Path) -> int:
        file = os.open(path, _FLAGS, _MODE)
        weakref.finalize(self, os.close, file)
        return file

    def _read_index(self) -> None:
        size = os.fstat(self._index).st_size
        data = os.pread(self._index, size - size % _RECORD.size, 0)
        width = self._shape * self._dtype.itemsize
        for key, offset, tokens, checksum in _RECORD.iter_unpack(data):
            self._rows[key] = (offset, tokens, checksum)
            self._records += 1
            self._end = max(self._end, offset + tokens * width)
        # A damaged record may point anywhere; rows are added behind what is there, not behind a hole.
        self._end = min(self._end, os.fstat(self._values).st_size)


def _write(file: int, data: memoryview, offset: int) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(file, data[done:], offset + done)
