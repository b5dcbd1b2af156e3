"""Names of blobs."""

from __future__ import annotations

import hashlib

from fedhft.wire.digest import digest_of


def test_the_digest_is_sha256_in_hex() -> None:
    assert digest_of(b"fedhft") == hashlib.sha256(b"fedhft").hexdigest()
