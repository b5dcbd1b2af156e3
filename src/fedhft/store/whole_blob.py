"""Reading a blob whole, and knowing that it is the one that was stored."""

from __future__ import annotations

from fedhft.ids import JobId
from fedhft.store import refusals
from fedhft.store.blobs import BlobStore
from fedhft.store.hashing import sha256


async def read_whole(blobs: BlobStore, job: JobId, digest: str) -> bytes:
    """All bytes of a blob, hashed again: disks and memory flip bits, and what is folded must be what was accepted.

    Raises FedhftError: UNKNOWN_BLOB, DAMAGED_BLOB, and the back end's.
    """
    data = await blobs.get(job, digest)
    found = await sha256(data)
    if found != digest:
        raise refusals.damaged_blob(job, digest, len(data), found)
    return data
