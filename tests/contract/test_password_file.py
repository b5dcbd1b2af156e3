"""The password of Redis from a file: as it is, replaceable, and never in a message."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import redis

from fedhft.errors import ErrorCode, FedhftError
from fedhft.local.redis import EmbeddedRedis
from fedhft.store.open import open_store

PASSWORD = "S3cr3t#Pa/5%s w0rd@?:[é"  # noqa: S105 - of a Redis that this test starts


def lock(server: EmbeddedRedis, password: str, old: str | None = None, user: str = "default") -> None:
    """Set a user's password and cut all connections."""
    with redis.Redis.from_url(server.url, password=old) as client:
        client.execute_command("ACL", "SETUSER", user, "on", "resetpass", f">{password}", "~*", "&*", "+@all")
        client.client_kill_filter(skipme=True, _type="normal")


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
async def test_a_password_with_any_character_works_from_a_file(
    own_redis: EmbeddedRedis, tmp_path: Path, end: str
) -> None:
    lock(own_redis, PASSWORD)
    file = tmp_path / "password"
    file.write_bytes((PASSWORD + end).encode())
    store = open_store(own_redis.url, "redis", file)
    await store.ping()
    await store.close()


async def test_a_user_of_the_url_goes_with_the_password_of_the_file(own_redis: EmbeddedRedis, tmp_path: Path) -> None:
    lock(own_redis, PASSWORD, user="fed%hft")
    file = tmp_path / "password"
    file.write_text(PASSWORD)
    store = open_store(own_redis.url.replace("//", "//fed%25hft@"), "redis", file)
    await store.ping()
    with redis.Redis.from_url(own_redis.url) as client:
        assert "fed%hft" in {one["user"] for one in client.client_list()}
    await store.close()


async def test_a_replaced_password_is_taken_at_the_next_connection_and_a_wrong_one_is_never_shown(
    own_redis: EmbeddedRedis, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    file = tmp_path / "password"
    lock(own_redis, PASSWORD)
    file.write_text(PASSWORD)
    store = open_store(own_redis.url, "redis", file)
    await store.ping()
    lock(own_redis, "n3w#" + PASSWORD, PASSWORD)
    for _ in range(5):  # connections that were cut come first
        with pytest.raises(FedhftError) as caught:
            await store.ping()
        assert caught.value.code is ErrorCode.STORE_UNAVAILABLE
        if "refuses access" in caught.value.message:
            break
    assert "refuses access" in caught.value.message
    file.unlink()
    with pytest.raises(FedhftError) as gone:
        await store.ping()
    assert str(file) in gone.value.message
    assert gone.value.code is ErrorCode.STORE_UNAVAILABLE
    file.write_text("n3w#" + PASSWORD)
    await store.ping()
    await store.close()
    for said in (caught.value.message, gone.value.message, caplog.text):
        assert "S3cr3t" not in said
        assert "w0rd" not in said


def test_a_file_that_holds_no_password_is_refused_at_the_start(tmp_path: Path) -> None:
    for name, content in (("gone", None), ("empty", b""), ("two", b"a\nb\n"), ("bytes", b"\xff\xfe"), ("d", ...)):
        path = tmp_path / name
        if content is ...:
            path.mkdir()
        elif content is not None:
            path.write_bytes(content)
        with pytest.raises(FedhftError) as caught:
            open_store("redis://127.0.0.1:1/0", "redis", path)
        assert caught.value.code is ErrorCode.INVALID_ARGUMENT
        assert caught.value.message.startswith(f"--redis-password-file = {str(path)!r}: ")
    path.with_name("two").write_text("hunter2")
    with pytest.raises(FedhftError, match="take the password out of the url") as caught:
        open_store("redis://:other@127.0.0.1:1/0", "redis", path.with_name("two"))
    assert "other" not in caught.value.message.replace("another", "")
