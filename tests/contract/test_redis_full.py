"""What the Redis store does when Redis is full, and when calls are cancelled. Each test has a server of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from redis.asyncio import Redis

from fedhft.errors import ErrorCode
from fedhft.ids import ClientId
from fedhft.local.redis import EmbeddedRedis
from fedhft.records import AcceptResult, JobStatus, Topic
from fedhft.store.connection import ConnectionSettings, RedisConnection
from fedhft.store.interface import Store
from fedhft.store.open import open_store
from fedhft.store.redis import RedisStore
from tests.contract.federation import (
    ALICE,
    ALIVE,
    BOB,
    CAROL,
    JOB,
    SPEC,
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


class TestFull:
    async def test_out_of_memory_every_growing_call_is_refused_and_changes_nothing(
        self, own_store: Store, admin: Redis
    ) -> None:
        store = own_store
        fence = await open_first_round(store)
        await store.join(JOB, client_record(ALICE))
        await store.publish_memberships(JOB, membership_record(1), 0)
        tokens = {client: await token_of(store, client) for client in (ALICE, BOB)}
        digest = await store.blobs.put(JOB, b"update")
        await store.transfers.stage(JOB, "t", 0, b"half")
        await store.accept(JOB, update_record(ALICE, digest=digest), tokens[ALICE])
        before = await contents(admin)
        growing: list[Callable[[], Awaitable[object]]] = [
            store.ping,
            lambda: store.enroll(CAROL, 1, "0.1.0"),
            lambda: store.create_job(ClientId("another"), SPEC),  # type: ignore[arg-type]
            lambda: store.set_status(JOB, JobStatus.EVALUATING, "", ALIVE),
            lambda: store.fix_schema(JOB, "{}"),
            lambda: store.join(JOB, client_record(BOB)),
            lambda: store.set_signature(JOB, ALICE, (1.0,)),
            lambda: store.acquire(JOB, "coordinator", 60_000),
            lambda: store.extend_round(JOB, 1, 9999, fence),
            lambda: store.accept(JOB, update_record(BOB, digest=digest), tokens[BOB]),
            lambda: store.begin_fold(JOB, 1, fence),
            lambda: store.publish_memberships(JOB, membership_record(2), 1),
            lambda: store.blobs.put(JOB, b"more"),
            lambda: store.transfers.stage(JOB, "t", 4, b" more"),
        ]
        await admin.config_set("maxmemory", 1)
        for call in growing:
            with refused(ErrorCode.STORE_FULL):
                await call()
        # Reading goes on, and agents are not thrown out for it.
        await store.check_lease(ALICE, tokens[ALICE])
        assert list(await store.agents([ALICE, CAROL])) == [ALICE]
        assert [record.job for record in await store.jobs()] == [JOB]
        assert list(await store.clients(JOB)) == [ALICE]
        assert list(await store.updates(JOB, 1)) == [ALICE]
        assert await store.accept(JOB, update_record(ALICE, digest=digest), tokens[ALICE]) is AcceptResult.REPEATED
        assert await store.blobs.get(JOB, digest) == b"update"
        await admin.config_set("maxmemory", 0)
        assert await contents(admin) == before
        for call in growing:
            await call()

    async def test_a_refused_publish_or_opening_leaves_the_round_as_it_was(
        self, own_store: Store, admin: Redis
    ) -> None:
        fence = await open_first_round(own_store)
        await own_store.begin_fold(JOB, 1, fence)
        await admin.config_set("maxmemory", 1)
        before = await contents(admin)
        with refused(ErrorCode.STORE_FULL):
            await own_store.publish(JOB, 1, version_record(1), "{}", fence)
        assert await contents(admin) == before
        await admin.config_set("maxmemory", 0)
        assert await own_store.publish(JOB, 1, version_record(1), "{}", fence)
        await admin.config_set("maxmemory", 1)
        before = await contents(admin)
        with refused(ErrorCode.STORE_FULL):
            await own_store.open_round(JOB, round_record(2), fence)
        assert await contents(admin) == before

    async def test_what_frees_memory_works_when_there_is_none(self, own_store: Store, admin: Redis) -> None:
        fence = await open_first_round(own_store)
        await own_store.join(JOB, client_record(ALICE))
        await own_store.enroll(ALICE, 1, "0.1.0")
        for number in (1, 2):
            await own_store.begin_fold(JOB, number, fence)
            await own_store.publish(JOB, number, version_record(number), "{}", fence)
            await own_store.open_round(JOB, round_record(number + 1), fence)
        digests = [await own_store.blobs.put(JOB, bytes([i])) for i in range(3)]
        for name in ("discarded", "swept", "committed"):
            await own_store.transfers.stage(JOB, name, 0, name.encode())
        await admin.config_set("maxmemory", 1)
        await own_store.transfers.commit(JOB, "committed", digest_of(b"committed"))
        await own_store.blobs.delete(JOB, digests[:1])
        await own_store.transfers.discard(JOB, "discarded")
        await asyncio.sleep(0.05)
        assert await own_store.blobs.sweep(JOB, [digests[1], digest_of(b"committed")], 0.01) == 1
        assert await own_store.transfers.sweep(JOB, 0.01) == 1
        assert len(await own_store.drop_versions(JOB, 2, fence)) == 1
        assert await own_store.leave(JOB, ALICE)
        await own_store.forget_agent(ALICE)
        await own_store.release(JOB, "coordinator")
        sizes = [await own_store.blobs.size(JOB, digest) for digest in (*digests, digest_of(b"committed"))]
        assert sizes == [None, 1, None, 9]


async def contents(admin: Redis) -> dict[bytes, bytes]:
    """Everything the server holds. The probe and the heartbeat's time may differ; nothing else."""
    return {key: await admin.dump(key) for key in await admin.keys("*") if b"probe" not in key}


class TestCancelled:
    async def test_a_cancelled_call_never_hands_its_answer_to_the_next_one(self, own_redis: EmbeddedRedis) -> None:
        store = RedisStore(RedisConnection(own_redis.url, ConnectionSettings(connections=2)))
        digests = [await store.blobs.put(JOB, f"blob {i}".encode() * 5000) for i in range(20)]
        for steps in range(120):
            call = asyncio.create_task(store.blobs.get(JOB, digests[steps % 20]))
            for _ in range(steps % 24):
                await asyncio.sleep(0)
            call.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await call
            expected = f"blob {(steps + 7) % 20}".encode() * 5000
            assert await store.blobs.get(JOB, digests[(steps + 7) % 20]) == expected
            assert await store.blobs.size(JOB, digests[0]) == 30_000
        await store.close()

    async def test_a_cancellation_is_never_swallowed(self, own_store: Store) -> None:
        async def ask_forever() -> None:
            while True:
                await own_store.now_ms()

        for steps in range(200):
            asking = asyncio.create_task(ask_forever())
            for _ in range(steps):
                await asyncio.sleep(0)
            asking.cancel()
            await asyncio.wait([asking], timeout=2)
            assert asking.cancelled()

    async def test_a_store_closes_at_any_moment_of_its_subscription(self, own_redis: EmbeddedRedis) -> None:
        for steps in range(60):
            store = open_store(own_redis.url, "redis")
            waiting = asyncio.create_task(store.wait_change(JOB, Topic.TASKS, 0, 20))
            for _ in range(steps):
                await asyncio.sleep(0)
            waiting.cancel()
            async with asyncio.timeout(2):
                await store.close()
