"""The back ends that the contract is held against."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from fedhft.local.redis import EmbeddedRedis
from fedhft.store.interface import Store
from fedhft.store.open import open_store

BACK_ENDS = ("memory+memory", "memory+dir", "redis+redis", "redis+dir")


@pytest_asyncio.fixture(params=BACK_ENDS)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """An empty store of each kind: round state + blobs."""
    kind, _, blobs = request.param.partition("+")
    url = "memory://" if kind == "memory" else request.getfixturevalue("fresh_redis_url")
    opened = open_store(url, f"dir:{tmp_path / 'blobs'}" if blobs == "dir" else blobs)
    yield opened
    await opened.close()


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    """A Redis of this test's own, to stop, kill and fill."""
    with EmbeddedRedis(tmp_path / "redis") as server:
        yield server


@pytest_asyncio.fixture
async def own_store(own_redis: EmbeddedRedis) -> AsyncIterator[Store]:
    """A store in it, blobs there too."""
    opened = open_store(own_redis.url, "redis")
    yield opened
    await opened.close()


@pytest_asyncio.fixture
async def admin(own_redis: EmbeddedRedis) -> AsyncIterator[Redis]:
    """A plain client of it, to look at it and to set it up."""
    client: Redis = Redis.from_url(own_redis.url)
    yield client
    await client.aclose()
