"""SHA-256 of bytes in memory without holding up the event loop."""

from __future__ import annotations

import asyncio

from fedhft.wire.digest import digest_of

_IN_THREAD_ABOVE = 1 << 20
"""Bytes; hashing fewer holds up the loop for a few milliseconds at most."""


async def sha256(data: bytes) -> str:
    """The hex digest, computed in a thread when `data` is large."""
    if len(data) > _IN_THREAD_ABOVE:
        return await asyncio.to_thread(digest_of, data)
    return digest_of(data)
