"""open_store and the embedded Redis."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis

from fedhft.errors import ErrorCode, FedhftError
from fedhft.local.redis import EmbeddedRedis, find_server
from fedhft.store.blobs_directory import DirectoryBlobs
from fedhft.store.blobs_in_memory import InMemoryBlobs
from fedhft.store.blobs_redis import RedisBlobs
from fedhft.store.in_memory import InMemoryStore
from fedhft.store.open import open_store
from fedhft.store.redis import RedisStore
from fedhft.store.transfers_directory import DirectoryTransfers
from fedhft.store.transfers_in_memory import InMemoryTransfers
from fedhft.store.transfers_redis import RedisTransfers
from tests.contract.federation import refused


class TestOpening:
    def test_each_pair_of_texts_opens_its_back_ends(self, tmp_path: Path) -> None:
        for url, blobs, store_kind, back_end in (
            ("memory://", "memory", InMemoryStore, (InMemoryBlobs, InMemoryTransfers)),
            ("memory://", f"dir:{tmp_path}", InMemoryStore, (DirectoryBlobs, DirectoryTransfers)),
            ("redis://127.0.0.1:6379/3", "redis", RedisStore, (RedisBlobs, RedisTransfers)),
            ("rediss://host", f"dir:{tmp_path}", RedisStore, (DirectoryBlobs, DirectoryTransfers)),
            ("unix:///run/redis.sock?db=2", "redis", RedisStore, (RedisBlobs, RedisTransfers)),
        ):
            store = open_store(url, blobs)
            assert type(store) is store_kind
            assert (type(store.blobs), type(store.transfers)) == back_end

    def test_a_password_with_a_character_of_urls_is_never_shown(self) -> None:
        for character in "#/?[]":
            with pytest.raises(FedhftError) as caught:
                open_store(f"redis://:S3cr3t{character}Pa55w0rd@127.0.0.1:6379/0", "redis")
            assert caught.value.code is ErrorCode.INVALID_ARGUMENT
            assert "store url = '***@127.0.0.1:6379/0': cannot be read; percent-encode" in caught.value.message
        for character in "@:":  # these do no harm, and some of today's URLs have them
            store = open_store(f"redis://:S3cr3t{character}Pa55w0rd@127.0.0.1:6379/0", "redis")
            assert isinstance(store, RedisStore)
            assert store._redis.where == "redis://127.0.0.1:6379/0"
        for digits in ("redis://:12#3@h", "redis://:12?3@h", "redis://u:1/2@h/0"):
            with pytest.raises(FedhftError, match=r"\*\*\*@h.*percent-encode"):
                open_store(digits, "redis")

    @pytest.mark.parametrize(
        ("url", "blobs"),
        [
            ("http://host", "redis"),
            ("redis://host:not-a-port/0", "redis"),
            ("", "redis"),
            ("redis://host", "s3"),
            ("redis://host", "dir:"),
            ("redis://host", ""),
            ("redis://host", "memory"),
            ("memory://", "redis"),
        ],
    )
    def test_anything_else_is_refused_with_the_fix(self, url: str, blobs: str) -> None:
        with pytest.raises(FedhftError) as caught:
            open_store(url, blobs)
        assert caught.value.code is ErrorCode.INVALID_ARGUMENT
        assert "use " in caught.value.message

    async def test_databases_of_one_server_are_apart_and_share_it(self, fresh_redis_url: str) -> None:
        one, two = open_store(fresh_redis_url, "redis"), open_store(fresh_redis_url.removesuffix("0") + "1", "redis")
        await one.create_job("tickets", "{}")  # type: ignore[arg-type]
        assert len(await one.jobs()) == 1
        assert await two.jobs() == []
        await one.close()
        await two.close()


class TestSettings:
    @pytest.mark.parametrize(
        ("setting", "value"), [("appendfsync", "everysec"), ("maxmemory-policy", "allkeys-lru"), ("appendonly", "no")]
    )
    async def test_a_redis_that_may_forget_is_warned_about_once(
        self, own_redis: EmbeddedRedis, caplog: pytest.LogCaptureFixture, setting: str, value: str
    ) -> None:
        durable = open_store(own_redis.url, "redis")
        await durable.ping()
        await durable.close()
        assert caplog.messages == []
        with redis.Redis.from_url(own_redis.url) as client:
            client.config_set(setting, value)
        store = open_store(own_redis.url, "redis")
        await store.ping()
        await store.ping()
        await store.close()
        assert [setting in message and value in message for message in caplog.messages] == [True]

    async def test_a_redis_that_hides_its_settings_is_still_used(self, own_redis: EmbeddedRedis) -> None:
        with redis.Redis.from_url(own_redis.url) as client:
            client.execute_command("ACL", "SETUSER", "default", "-config")
        store = open_store(own_redis.url, "redis")
        await store.ping()
        await store.close()


class TestEmbeddedRedis:
    def test_it_is_durable_the_way_we_ask_of_any_redis(self, own_redis: EmbeddedRedis) -> None:
        with redis.Redis.from_url(own_redis.url, decode_responses=True) as client:
            settings = client.config_get("*")
            assert settings["appendonly"] == "yes"
            assert settings["appendfsync"] == "always"
            assert settings["save"] == ""
            assert settings["maxmemory-policy"] == "noeviction"
            assert settings["bind"] == "127.0.0.1"

    def test_it_keeps_its_data_and_its_port_when_killed_and_started(self, own_redis: EmbeddedRedis) -> None:
        url = own_redis.url
        with redis.Redis.from_url(url) as client:
            client.set("key", "value")
        own_redis.kill()
        assert own_redis.pid is None
        own_redis.start()
        assert own_redis.url == url
        with redis.Redis.from_url(url) as client:
            assert client.get("key") == b"value"

    def test_it_is_started_only_when_it_has_read_its_data(self, own_redis: EmbeddedRedis) -> None:
        with redis.Redis.from_url(own_redis.url) as client:
            client.config_set("appendfsync", "no")
            for _ in range(40):
                client.eval("for i = 1, 5000 do redis.call('RPUSH', 'list', i) end", 0)
        own_redis.kill()
        own_redis.start()
        with redis.Redis.from_url(own_redis.url) as client:
            assert client.llen("list") == 200_000

    def test_starting_a_running_one_changes_nothing(self, own_redis: EmbeddedRedis) -> None:
        pid = own_redis.pid
        own_redis.start()
        assert own_redis.pid == pid

    def test_leaving_the_block_ends_the_process(self, tmp_path: Path) -> None:
        with EmbeddedRedis(tmp_path / "redis") as server:
            pid = server.pid
            assert pid is not None
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

    def test_it_ends_when_the_process_that_started_it_is_killed(self, tmp_path: Path) -> None:
        program = (
            "import sys, time; from pathlib import Path; from fedhft.local.redis import EmbeddedRedis\n"
            "redis = EmbeddedRedis(Path(sys.argv[1])); redis.start(); print(redis.pid, flush=True); time.sleep(60)"
        )
        with subprocess.Popen([sys.executable, "-c", program, tmp_path / "redis"], stdout=subprocess.PIPE) as parent:
            assert parent.stdout is not None
            pid = int(parent.stdout.readline())
            os.kill(pid, 0)
            parent.kill()
        deadline = time.monotonic() + 10
        while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not Path(f"/proc/{pid}").exists()

    def test_one_that_died_by_itself_is_started_again(self, own_redis: EmbeddedRedis) -> None:
        assert own_redis.pid is not None
        os.kill(own_redis.pid, signal.SIGTERM)
        while own_redis.pid is not None:
            time.sleep(0.02)
        own_redis.start()
        with redis.Redis.from_url(own_redis.url) as client:
            assert client.ping()

    def test_the_error_for_a_taken_port_quotes_redis(self, own_redis: EmbeddedRedis, tmp_path: Path) -> None:
        taken = int(own_redis.url.rpartition(":")[2].removesuffix("/0"))
        with pytest.raises(FedhftError) as caught:
            EmbeddedRedis(tmp_path / "second", taken).start()
        assert caught.value.code is ErrorCode.STORE_UNAVAILABLE
        assert "Address already in use" in caught.value.message

    def test_without_any_redis_the_error_says_how_to_get_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        assert find_server() is not None
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        assert find_server() is None
        with refused(ErrorCode.STORE_UNAVAILABLE):
            EmbeddedRedis(tmp_path / "redis").start()
