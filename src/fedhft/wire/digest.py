"""Names of blobs."""

from __future__ import annotations

import hashlib


def digest_of(data: bytes) -> str:
    """SHA-256 of a blob's serialised bytes, 64 hex digits: the name of the blob everywhere."""
    return hashlib.sha256(data).hexdigest()
