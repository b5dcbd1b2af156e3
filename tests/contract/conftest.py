"""The back ends that the contract is held against."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

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
