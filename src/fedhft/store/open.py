"""From the two settings that an operator gives to an open store."""

from __future__ import annotations

from pathlib import Path

from fedhft.errors import ErrorCode, FedhftError
from fedhft.store.blob_root import StoreIdentity
from fedhft.store.in_memory import InMemoryStore
from fedhft.store.interface import BlobBackEnd, Store

_BLOB_KINDS = 'use "redis", "memory" (with memory:// only) or "dir:PATH"'


def open_store(url: str, blobs: str, password_file: Path | None = None) -> Store:
    """Open a store; connects when first used.

    `url`: "memory://", "redis://host:port/db", "rediss://..." or "unix://path".
    `blobs`: "redis", "memory" or "dir:PATH".
    `password_file`: holds the password of Redis, which the url then lacks.
    Raises INVALID_ARGUMENT for anything else, and for pairs that would lose what they acknowledged.
    """
    if url.startswith("memory:"):
        return InMemoryStore(_back_end(blobs, in_memory=True, identity=None))
    # Imported here: a simulation needs no redis package.
    from fedhft.store.connection import RedisConnection
    from fedhft.store.redis import RedisStore
    from fedhft.store.redis_identity import RedisIdentity

    redis = RedisConnection(url, password_file=password_file)
    return RedisStore(redis, _back_end(blobs, in_memory=False, identity=RedisIdentity(redis)))


def _back_end(blobs: str, *, in_memory: bool, identity: StoreIdentity | None) -> BlobBackEnd | None:
    """Where blobs go; None to keep them beside the round state."""
    if blobs.startswith("dir:") and len(blobs) > len("dir:"):
        # Imported here: file locks exist on Unix only, and `simulate` needs none.
        from fedhft.store.blobs_directory import DirectoryBlobs
        from fedhft.store.directory import Directory
        from fedhft.store.transfers_directory import DirectoryTransfers

        directory = Directory(Path(blobs.removeprefix("dir:")), identity)
        return BlobBackEnd(DirectoryBlobs(directory), DirectoryTransfers(directory))
    if blobs == "memory" and not in_memory:
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, "blobs", blobs, "would forget accepted updates at a restart", _BLOB_KINDS
        )
    if blobs == "redis" and in_memory:
        raise FedhftError.field(ErrorCode.INVALID_ARGUMENT, "blobs", blobs, "needs a redis:// store", _BLOB_KINDS)
    if blobs not in ("redis", "memory"):
        raise FedhftError.field(ErrorCode.INVALID_ARGUMENT, "blobs", blobs, "is not a kind of blob store", _BLOB_KINDS)
    return None
