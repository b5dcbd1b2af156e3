"""What the Redis store leaves in Redis, and how often it goes there."""

from __future__ import annotations

import asyncio
import re
from importlib.resources import files

import pytest
from redis.asyncio import Redis

from fedhft.errors import ErrorCode
from fedhft.local.redis import EmbeddedRedis
from fedhft.records import Revocation, Topic
from fedhft.store import keys
from fedhft.store.blobs_redis import RedisBlobs
from fedhft.store.connection import Argument, RedisConnection
from fedhft.store.interface import Store
from fedhft.store.keys import JobKeys
from fedhft.store.transfers_redis import RedisTransfers
from tests.contract.federation import (
    ALICE,
    BOB,
    JOB,
    client_record,
    digest_of,
    membership_record,
    open_first_round,
    refused,
    round_record,
    token_of,
    update_record,
    version_record,
)

SCRIPTS = sorted(path.name for path in files("fedhft.store").joinpath("lua").iterdir() if path.name.endswith(".lua"))


async def whole_life(store: Store) -> None:
    """Everything a job does, so that every kind of key exists."""
    await store.ping()
    fence = await open_first_round(store)
    token = await token_of(store, ALICE)
    await store.fix_schema(JOB, "{}")
    await store.join(JOB, client_record(ALICE, signature=(1.0,), halves=(1.0, 0.5)))
    await store.decline(JOB, BOB, "no")
    digest = await store.blobs.put(JOB, b"update")
    await store.accept(JOB, update_record(ALICE, digest=digest), token)
    await store.begin_fold(JOB, 1, fence)
    await store.publish(JOB, 1, version_record(1), "{}", fence, {ALICE: (1, 2, 3, 4)})
    await store.publish_memberships(JOB, membership_record(1), 0)
    await store.open_round(JOB, round_record(2), fence)
    await store.transfers.stage(JOB, "t", 0, b"half")
    await store.revoke("5e1", Revocation(identity="spiffe://a/aggregator", not_after_ms=1 << 50))


class TestKeys:
    async def test_redis_holds_exactly_the_documented_keys(self, own_store: Store, admin: Redis) -> None:
        await whole_life(own_store)
        its = JobKeys(JOB)
        documented = {
            keys.JOBS,
            keys.PROBE,
            keys.REVOKED,
            keys.REVOCATIONS,
            keys.agent(ALICE),
            keys.AGENTS,
            *(
                its.job,
                its.schema,
                its.clients,
                its.seen,
                its.signatures,
                its.halves,
                its.declines,
                its.lease,
                its.fence,
            ),
            *(its.round, its.participants, its.events, its.client_events),
            *(its.updates(1), its.versions, its.history, its.deliveries, its.traffic, its.memberships),
            *(its.changes(topic) for topic in Topic),
            *(its.blob(digest_of(b"update")), its.blobs, its.transfer("t"), its.transfers),
        }
        assert {key.decode() for key in await admin.keys("*")} == documented

    async def test_only_what_is_documented_to_expire_expires(self, own_store: Store, admin: Redis) -> None:
        await whole_life(own_store)
        its = JobKeys(JOB)
        expiring = {key.decode() for key in await admin.keys("*") if await admin.ttl(key) >= 0}
        assert expiring == {keys.PROBE, keys.agent(ALICE), its.lease, its.transfer("t")}

    async def test_a_client_that_left_leaves_nothing_behind(self, own_store: Store, admin: Redis) -> None:
        await open_first_round(own_store)
        before = set(await admin.keys("*"))
        await own_store.join(JOB, client_record(ALICE, signature=(1.0,)))
        await own_store.enroll(ALICE, 1, "0.1.0")
        await own_store.leave(JOB, ALICE)
        await own_store.forget_agent(ALICE)
        log = JobKeys(JOB).client_events.encode()  # what happened stays known
        assert {key for key in await admin.keys("*") if b":changes:" not in key and key != log} <= before

    async def test_what_was_swept_or_deleted_leaves_nothing_behind(self, own_store: Store, admin: Redis) -> None:
        before = set(await admin.keys("*"))
        digest = await own_store.blobs.put(JOB, b"deleted")
        await own_store.blobs.put(JOB, b"swept")
        for name in ("swept", "discarded", "refused", "committed"):
            await own_store.transfers.stage(JOB, name, 0, name.encode())
        await own_store.transfers.commit(JOB, "committed", digest_of(b"committed"))
        with refused(ErrorCode.DIGEST_MISMATCH):
            await own_store.transfers.commit(JOB, "refused", digest_of(b"other"))
        await own_store.blobs.delete(JOB, [digest])
        await own_store.transfers.discard(JOB, "discarded")
        await asyncio.sleep(0.02)
        assert await own_store.blobs.sweep(JOB, [], 0.001) == 2
        assert await own_store.transfers.sweep(JOB, 0.001) == 1
        assert set(await admin.keys("*")) == before

    async def test_a_transfer_that_expired_leaves_the_index_with_the_next_sweep(
        self, own_store: Store, admin: Redis
    ) -> None:
        its = JobKeys(JOB)
        await own_store.transfers.stage(JOB, "t", 0, b"half")
        await admin.pexpire(its.transfer("t"), 1)
        await asyncio.sleep(0.02)
        assert await admin.keys("*") == [its.transfers.encode()]
        assert await own_store.transfers.sweep(JOB, 0.001) == 0
        assert await admin.keys("*") == []

    async def test_a_committed_transfer_no_longer_expires(self, own_store: Store, admin: Redis) -> None:
        await own_store.transfers.stage(JOB, "t", 0, b"data")
        await own_store.transfers.commit(JOB, "t", digest_of(b"data"))
        assert await admin.ttl(JobKeys(JOB).blob(digest_of(b"data"))) == -1


class TestScripts:
    @pytest.mark.parametrize("name", SCRIPTS)
    def test_every_script_says_how_to_call_it_and_names_every_key(self, name: str) -> None:
        text = files("fedhft.store").joinpath("lua", name).read_text(encoding="utf-8")
        head = text[: text.index("\nlocal ")]
        counted = re.search(r"^-- EVALSHA sha (\d+) KEYS\.\.\. ARGV\.\.\.$", head, re.MULTILINE)
        assert counted
        taken = re.search(r"^local (.+) = (?:unpack\(KEYS\)|KEYS\[1\])$", text, re.MULTILINE)
        assert taken
        names = taken[1].split(", ")
        assert len(names) == int(counted[1])
        for key in names:
            assert re.search(rf"^--(?: KEYS)? +{key} +\S", head, re.MULTILINE), f"{key} is not described"
        assert "Returns" in head

    async def test_the_hot_path_is_one_command_each(self, own_store: Store, admin: Redis) -> None:
        await open_first_round(own_store)
        token = await token_of(own_store, ALICE)
        digest = await own_store.blobs.put(JOB, b"update")
        await own_store.transfers.stage(JOB, "warm", 0, b"x")
        await own_store.check_lease(ALICE, token)
        with refused(ErrorCode.NOT_ENROLLED):
            await own_store.accept(JOB, update_record(BOB), "")
        await asyncio.gather(admin.echo("one connection"), admin.echo("and another"))
        async with admin.monitor() as monitor:
            await own_store.accept(JOB, update_record(ALICE, digest=digest), token)
            await own_store.check_lease(ALICE, token)
            await own_store.transfers.stage(JOB, "t", 0, b"data")
            await own_store.blobs.put(JOB, b"another")
            await admin.echo("end")
            sent = []
            while True:
                command = await asyncio.wait_for(monitor.next_command(), 5)
                if command["client_type"] == "lua":
                    continue
                if command["command"].startswith("ECHO"):
                    break
                sent.append(command["command"].split()[0])
        assert sent == ["EVALSHA"] * 4

    async def test_scripts_are_loaded_again_when_the_server_forgot_them(self, own_store: Store, admin: Redis) -> None:
        await open_first_round(own_store)
        await admin.script_flush()
        token = await token_of(own_store, ALICE)
        await admin.script_flush()
        await own_store.accept(JOB, update_record(ALICE), token)
        assert await own_store.delivered(JOB, 1, ALICE)


class _Meddler(RedisConnection):
    """A second sender who swaps the staged bytes after they were checked and before they are committed."""

    evil = b""

    async def run(self, name: str, keys: tuple[str, ...], *arguments: Argument) -> list[object]:
        if name == "commit_transfer" and self.evil:
            transfers, evil, self.evil = RedisTransfers(self), self.evil, b""
            await transfers.discard(JOB, "t")
            await transfers.stage(JOB, "t", 0, evil)
        return await super().run(name, keys, *arguments)


async def test_bytes_swapped_after_the_check_are_never_committed(own_redis: EmbeddedRedis) -> None:
    redis = _Meddler(own_redis.url)
    transfers = RedisTransfers(redis)
    await transfers.stage(JOB, "t", 0, b"honest")
    redis.evil = b"wicked"
    with refused(ErrorCode.DIGEST_MISMATCH):
        await transfers.commit(JOB, "t", digest_of(b"honest"))
    assert await RedisBlobs(redis).size(JOB, digest_of(b"honest")) is None
    assert await transfers.staged(JOB, "t") == 0
    await redis.close()
