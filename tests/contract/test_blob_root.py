"""A directory of blobs knows whose it is: an empty mount point, or another store's, is neither read nor written."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedhft.errors import ErrorCode
from fedhft.local.redis import EmbeddedRedis
from fedhft.store.blob_root import MARKER
from fedhft.store.open import open_store
from tests.contract.federation import JOB, digest_of, refused


async def test_replicas_and_restarts_find_their_directory_again(own_redis: EmbeddedRedis, tmp_path: Path) -> None:
    root = tmp_path / "blobs"
    one, other = (open_store(own_redis.url, f"dir:{root}") for _ in range(2))
    digest = await one.blobs.put(JOB, b"kept")
    assert await other.blobs.get(JOB, digest) == b"kept"
    assert {path.name for path in root.iterdir()} == {MARKER, JOB}
    for store in (one, other):
        await store.close()


async def test_a_volume_that_is_not_mounted_is_waited_for(own_redis: EmbeddedRedis, tmp_path: Path) -> None:
    root, away = tmp_path / "blobs", tmp_path / "away"
    store, fresh = (open_store(own_redis.url, f"dir:{root}") for _ in range(2))
    digest = await store.blobs.put(JOB, b"kept")
    root.rename(away)
    for mounted in (False, True):
        if mounted:
            root.mkdir()  # an empty mount point
        for opened in (store, fresh):
            for call in (
                opened.blobs.get(JOB, digest),
                opened.blobs.size(JOB, digest),
                opened.blobs.put(JOB, b"lost"),
                opened.transfers.stage(JOB, "t", 0, b"half"),
                opened.blobs.sweep(JOB, [], 0),
                opened.ping(),
            ):
                with refused(ErrorCode.STORE_UNAVAILABLE):
                    await call
        assert root.exists() == mounted
        assert not mounted or list(root.iterdir()) == []
    root.rmdir()
    away.rename(root)
    for opened in (store, fresh):
        assert await opened.blobs.get(JOB, digest) == b"kept"
        assert await opened.blobs.size(JOB, digest_of(b"lost")) is None
        await opened.close()


async def test_what_was_written_while_the_volume_went_away_is_not_acknowledged(
    own_redis: EmbeddedRedis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "blobs"
    store = open_store(own_redis.url, f"dir:{root}")
    await store.blobs.put(JOB, b"first")
    from fedhft.store import blobs_directory

    real = blobs_directory.digest_of

    def unmounted_meanwhile(data: bytes) -> str:
        root.rename(tmp_path / "away")
        return real(data)

    monkeypatch.setattr(blobs_directory, "digest_of", unmounted_meanwhile)
    with refused(ErrorCode.STORE_UNAVAILABLE):
        await store.blobs.put(JOB, b"second")
    await store.close()


async def test_another_store_s_directory_is_refused(own_redis: EmbeddedRedis, tmp_path: Path) -> None:
    first = open_store(own_redis.url, f"dir:{tmp_path / 'blobs'}")
    await first.blobs.put(JOB, b"kept")
    with EmbeddedRedis(tmp_path / "another") as another:
        second = open_store(another.url, f"dir:{tmp_path / 'blobs'}")
        with refused(ErrorCode.STORE_UNAVAILABLE):
            await second.blobs.put(JOB, b"mixed up")
        (tmp_path / "blobs" / MARKER).unlink()  # as the message says
        await second.blobs.put(JOB, b"taken over")
        with refused(ErrorCode.STORE_UNAVAILABLE):
            await first.blobs.put(JOB, b"too late")
        await second.close()
    await first.close()
