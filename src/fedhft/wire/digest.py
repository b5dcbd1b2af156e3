"""Names of blobs and the pieces in which they travel."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from fedhft.errors import ErrorCode, FedhftError


def digest_of(data: bytes) -> str:
    """SHA-256 of a blob's serialised bytes, 64 hex digits: the name of the blob everywhere."""
    return hashlib.sha256(data).hexdigest()


def chunks(data: bytes, size: int, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """Pieces of `data` from `offset` on, as (offset of the piece, at most `size` bytes); none when nothing is left.

    Raises FedhftError(INVALID_ARGUMENT) for a size below 1, (WRONG_OFFSET) for an offset outside 0..len(data).
    """
    if size < 1:
        raise FedhftError.field(ErrorCode.INVALID_ARGUMENT, "size", size, "is not positive", "use 1 or more")
    if not 0 <= offset <= len(data):
        raise FedhftError.field(
            ErrorCode.WRONG_OFFSET, "offset", offset, f"the blob has {len(data)} bytes", "ask where to resume"
        )
    return _pieces(data, size, offset)


def _pieces(data: bytes, size: int, offset: int) -> Iterator[tuple[int, bytes]]:
    for start in range(offset, len(data), size):
        yield start, data[start : start + size]
