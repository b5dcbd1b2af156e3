"""Text files that may be compressed, as streams of bounded memory: plain, gzip, Zstandard."""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path
from typing import BinaryIO

import zstandard

ENDINGS = ("", ".gz", ".zst")
"""What may follow the name of a text file."""
DAMAGED = (EOFError, zlib.error, zstandard.ZstdError)
"""What reading a damaged archive raises, beside OSError."""
_PIECE = 1 << 10
"""Compressed bytes taken at once: a block of a few bytes may hold 128 KiB, so this bounds what one step yields."""
_LARGEST_WINDOW = 1 << 27


def open_text(path: Path) -> io.TextIOWrapper:
    """A file's text, UTF-8 with or without a byte order mark, line ends as they are. Raises OSError."""
    if path.name.endswith(".gz"):
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    if path.name.endswith(".zst"):
        raw = io.BufferedReader(_Zstandard(path.open("rb")))
        return io.TextIOWrapper(raw, encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


class _Zstandard(io.RawIOBase):
    """Frames one after another. The library's own reader takes a frame that was cut off for a whole one."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._decoder = zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW)
        self._frame = self._decoder.decompressobj()
        self._inside = False
        self._ready = memoryview(b"")
        self._left = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._ready:
            piece = self._left or self._source.read(_PIECE)
            self._left = b""
            if not piece:
                if self._inside:
                    raise EOFError("the archive ends in the middle of a frame")
                return 0
            self._inside = True
            self._ready = memoryview(self._frame.decompress(piece))
            if self._frame.eof:
                self._left = self._frame.unused_data
                self._frame = self._decoder.decompressobj()
                self._inside = False
        size = min(len(buffer), len(self._ready))
        buffer[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        return size

    def close(self) -> None:
        self._source.close()
        super().close()
