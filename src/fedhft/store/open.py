"""From the two settings that an operator gives to an open store."""

from __future__ import annotations

from pathlib import Path

from fedhft.errors import ErrorCode, FedhftError
from fedhft.store.in_memory import InMemoryStore
from fedhft.store.interface import BlobBackEnd, Store

_BLOB_KINDS = 'use "redis", "memory" (with memory:// only) or "dir:PATH"'


def open_store(url: str, blobs: str) -> Store:
    """Open a store; connects when first used.

    `url`: "memory://", "redis://host:port/db", "rediss://..." or "unix://path".
    `blobs`: "redis", "memory" or "dir:PATH".
    Raises INVALID_ARGUMENT for anything else, and for pairs that would lose what they acknowledged.
    """
    in_memory = url.startswith("memory:")
    chosen: BlobBackEnd | None
    if blobs.startswith("dir:") and len(blobs) > len("dir:"):
        # Imported here: file locks exist on Unix only, and `simulate` needs none.
        from fedhft.store.blobs_directory import DirectoryBlobs
        from fedhft.store.directory import Directory
        from fedhft.store.transfers_directory import DirectoryTransfers

        directory = Directory(Path(blobs.removeprefix("dir:")))
        chosen = BlobBackEnd(DirectoryBlobs(directory), DirectoryTransfers(directory))
    elif blobs == "memory" and not in_memory:
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, "blobs", blobs, "would forget accepted updates at a restart", _BLOB_KINDS
        )
    elif blobs == "redis" and in_memory:
        raise FedhftError.field(ErrorCode.INVALID_ARGUMENT, "blobs", blobs, "needs a redis:// store", _BLOB_KINDS)
    elif blobs in ("redis", "memory"):
        chosen = None
    else:
        raise FedhftError.field(ErrorCode.INVALID_ARGUMENT, "blobs", blobs, "is not a kind of blob store", _BLOB_KINDS)
    if in_memory:
        return InMemoryStore(chosen)
    # Imported here: a simulation needs no redis package.
    from fedhft.store.connection import RedisConnection
    from fedhft.store.redis import RedisStore

    return RedisStore(RedisConnection(url), chosen)
