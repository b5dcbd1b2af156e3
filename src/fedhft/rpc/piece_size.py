"""How large the pieces of a stream are: small until its link has shown that it carries large ones quickly.

A server whose places are all taken ends a stream whose next piece takes too long, so a slow link must send small ones;
every piece costs both ends about as much as its calls and copies do, so a fast link should send few.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_PIECE_S = 1.0
"""A piece is to take about as long, in seconds; a crowded server allows several times as much."""
_PROVEN_BYTES = 96 * 1024
"""Until a stream has carried so much, most of it may still be in buffers on the way and tells nothing about the link:
HTTP/2 lets 64 KiB go before the reader has taken any."""
_TIMES_SMALLER = 4


@dataclass
class PieceSize:
    """The size of a stream's pieces, kept from one stream over a link to the next one over it."""

    size: int
    """Bytes of the next piece; at first, what a slow link can carry."""
    least: int
    most: int
    clock: Callable[[], float] = time.monotonic

    def begin(self) -> None:
        """A stream begins."""
        self._carried, self._since_s = 0, self.clock()

    def moved(self, carried: int) -> None:
        """A piece of so many bytes went through."""
        self._carried += carried
        if self._carried >= _PROVEN_BYTES:
            per_s = self._carried / max(self.clock() - self._since_s, 1e-9)
            self.size = int(min(max(per_s * _PIECE_S, self.least), self.most))

    def fruitless(self) -> None:
        """A stream ended without having brought anything."""
        self.size = max(self.size // _TIMES_SMALLER, self.least)

    def bound(self, most: int) -> None:
        """Make no piece larger than this from now on."""
        self.most = min(self.most, most)
        self.least, self.size = min(self.least, most), min(self.size, most)

    def pieces(self, data: bytes, offset: int = 0) -> Iterator[tuple[int, bytes]]:
        """Pieces of `data` from `offset` on, as (offset of the piece, its bytes).

        The next one is asked for when the one before has gone through.
        """
        self.begin()
        while offset < len(data):
            piece = data[offset : offset + self.size]
            yield offset, piece
            self.moved(len(piece))
            offset += len(piece)
