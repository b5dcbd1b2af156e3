"""Fixtures for every test: one real Redis for the session."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator

import pytest

from fedhft.local.redis import EmbeddedRedis

# A shell starts what it runs in the background with this signal ignored, and the programs that tests interrupt would
# inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    """A real Redis, durable as we ask of any, shared by the session. Tests that stop or fill one start their own."""
    with EmbeddedRedis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def redis_url(redis_server: EmbeddedRedis) -> str:
    """Its URL. What other tests left there is there; use `fresh_redis_url` for an empty one, or unique job ids."""
    return redis_server.url


@pytest.fixture
def fresh_redis_url(redis_url: str) -> str:
    """The session's Redis, emptied before this test."""
    import redis

    with redis.Redis.from_url(redis_url) as client:
        client.flushall()
    return redis_url


@pytest.fixture(autouse=True)
def root_logger_as_before() -> Iterator[None]:
    """A test that runs a program in this process lets it set logs up: its handler, whose stream is gone, goes too."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    for handler in list(root.handlers):
        if handler not in handlers and not type(handler).__module__.startswith("_pytest"):
            root.removeHandler(handler)
    root.setLevel(level)
