"""Damage to what a store holds, done behind its back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedhft.ids import JobId
from fedhft.store.interface import Store
from fedhft.store.keys import JobKeys


async def replace_blob(store: Store, job: JobId, digest: str, damaged: bytes) -> None:
    """Replace what the store holds under a digest, behind its back."""
    blobs: Any = store.blobs
    if hasattr(blobs, "_directory"):
        path: Path = blobs._directory.job(job).blob(digest)
        path.write_bytes(damaged)  # noqa: ASYNC240 - a file of a test
    elif hasattr(blobs, "_redis"):
        await blobs._redis.call("SET", JobKeys(job).blob(digest), damaged)
    else:
        blobs._jobs[job].blobs[digest] = damaged
