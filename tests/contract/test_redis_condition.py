"""What a process shows of its Redis: whether it answers, its memory, its append-only file. A server of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from fedhft.errors import ErrorCode, FedhftError
from fedhft.local.redis import EmbeddedRedis
from fedhft.store import condition
from fedhft.store.interface import Store
from fedhft.store.open import open_store
from fedhft.telemetry.registry import REGISTRY

MIB = 2**20


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    redis = EmbeddedRedis(tmp_path / "redis")
    redis.start()
    yield redis
    redis.stop()


@pytest_asyncio.fixture
async def store(own_redis: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Store]:
    monkeypatch.setattr(condition, "EVERY_S", 0.0)
    opened = open_store(own_redis.url, "redis")
    yield opened
    await opened.close()


def shown(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(f"fedhft_store_{name}", labels)


async def test_a_sound_redis_is_up_and_durable_and_tells_its_memory(own_redis: EmbeddedRedis, store: Store) -> None:
    async with Redis.from_url(own_redis.url) as admin:
        await admin.config_set("maxmemory", 64 * MIB)
        await admin.config_set("appendonly", "yes")
        await store.ping()
        assert shown("up") == 1
        assert shown("memory_maximum_bytes") == 64 * MIB
        assert 0 < (shown("memory_used_bytes") or 0) < 64 * MIB
        assert {state: shown("aof_state", state=state) for state in condition.STATES} == {
            "ok": 1, "failing": 0, "off": 0,
        }  # fmt: skip
        await admin.config_set("appendonly", "no")
        await store.ping()
        assert shown("aof_state", state="off") == 1


async def test_a_redis_that_is_away_is_shown_as_such_and_comes_back(own_redis: EmbeddedRedis, store: Store) -> None:
    await store.ping()
    own_redis.kill()
    with pytest.raises(FedhftError) as caught:
        await store.ping()
    assert caught.value.code is ErrorCode.STORE_UNAVAILABLE
    assert shown("up") == 0
    own_redis.start()
    await store.ping()
    assert shown("up") == 1


async def test_a_redis_that_tells_nothing_of_itself_can_be_used(own_redis: EmbeddedRedis, store: Store) -> None:
    async with Redis.from_url(own_redis.url) as admin:
        await admin.execute_command("ACL", "SETUSER", "default", "-info")
        await store.ping()
        assert shown("up") == 1
