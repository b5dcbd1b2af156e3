"""What the Redis store does when Redis is away, killed, full or slow. Each test has a server of its own."""

from __future__ import annotations

import asyncio
import socket
import time
from pathlib import Path

import pytest
from redis.asyncio import Redis

from fedhft.errors import ErrorCode, FedhftError
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


async def reads(admin: Redis) -> int:
    """How many GET and MGET the server has run."""
    stats = await admin.info("commandstats")
    return sum(int(stats.get(f"cmdstat_{name}", {}).get("calls", 0)) for name in ("get", "mget"))


class TestAway:
    async def test_every_call_is_refused_in_time_while_redis_is_away_and_works_once_it_is_there(
        self, tmp_path: Path
    ) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        store = open_store(f"redis://user:secret@127.0.0.1:{port}/0", "redis")
        started = time.monotonic()
        for call in (
            store.ping(),
            store.now_ms(),
            store.job(JOB),
            store.agents([ALICE, BOB]),
            store.enroll(ALICE, 1, "0.1.0"),
            store.check_lease(ALICE, "t"),
            store.accept(JOB, update_record(ALICE), "t"),
            store.clients(JOB),
            store.blobs.put(JOB, b"data"),
            store.blobs.get(JOB, digest_of(b"data")),
            store.transfers.stage(JOB, "t", 0, b"data"),
            store.transfers.commit(JOB, "t", digest_of(b"data")),
            store.changes(JOB, Topic.TASKS),
            store.wait_change(JOB, Topic.TASKS, 0, 0.2),
        ):
            with pytest.raises(FedhftError) as caught:
                await call
            assert caught.value.code is ErrorCode.STORE_UNAVAILABLE
            assert "secret" not in caught.value.message
            assert f"127.0.0.1:{port}" in caught.value.message
        assert time.monotonic() - started < 10
        await store.close()
        store = open_store(f"redis://127.0.0.1:{port}/0", "redis")
        with refused(ErrorCode.STORE_UNAVAILABLE):
            await store.ping()
        with EmbeddedRedis(tmp_path / "redis", port):
            await store.ping()
            assert await store.create_job(JOB, SPEC)
            await store.close()

    async def test_calls_to_a_server_that_hangs_end_in_time_and_work_again_afterwards(
        self, own_redis: EmbeddedRedis, admin: Redis
    ) -> None:
        store = RedisStore(RedisConnection(own_redis.url, ConnectionSettings(answer_s=0.3)))
        await store.create_job(JOB, SPEC)
        sleeping = asyncio.create_task(admin.execute_command("DEBUG", "SLEEP", "1.5"))
        await asyncio.sleep(0.1)
        started = time.monotonic()
        with refused(ErrorCode.STORE_UNAVAILABLE):
            await store.job(JOB)
        with refused(ErrorCode.STORE_UNAVAILABLE):
            await store.agents([ALICE])
        assert time.monotonic() - started < 1.2
        await sleeping
        assert (await store.job(JOB)).spec_json == SPEC
        await store.close()

    async def test_the_error_says_that_the_password_is_wrong_or_missing(
        self, own_redis: EmbeddedRedis, admin: Redis
    ) -> None:
        await admin.execute_command("CONFIG", "SET", "requirepass", "right")
        for url in (own_redis.url, own_redis.url.replace("//", "//:wrong@")):
            store = open_store(url, "redis")
            with pytest.raises(FedhftError) as caught:
                await store.ping()
            assert caught.value.code is ErrorCode.STORE_UNAVAILABLE
            assert "refuses access" in caught.value.message
            assert "wrong@" not in caught.value.message
            await store.close()

    async def test_the_error_names_the_command_that_a_user_may_not_run(self, own_store: Store, admin: Redis) -> None:
        await admin.execute_command("ACL", "SETUSER", "default", "-evalsha")
        with pytest.raises(FedhftError) as caught:
            await own_store.create_job(JOB, SPEC)
        assert caught.value.code is ErrorCode.STORE_UNAVAILABLE
        assert "refuses access" in caught.value.message
        assert "evalsha" in caught.value.message

    async def test_a_server_that_became_a_replica_is_unavailable_until_it_is_primary_again(
        self, own_store: Store, admin: Redis
    ) -> None:
        await own_store.create_job(JOB, SPEC)
        await admin.execute_command("REPLICAOF", "127.0.0.1", "1")
        for stale in ("yes", "no"):
            await admin.config_set("replica-serve-stale-data", stale)
            for write in (own_store.ping(), own_store.fix_schema(JOB, "{}")):
                with refused(ErrorCode.STORE_UNAVAILABLE):
                    await write
        with refused(ErrorCode.STORE_UNAVAILABLE):
            await own_store.job(JOB)
        await admin.execute_command("REPLICAOF", "NO", "ONE")
        assert await own_store.fix_schema(JOB, "{}") == "{}"

    async def test_a_server_that_misses_its_replicas_is_unavailable(self, own_store: Store, admin: Redis) -> None:
        await own_store.create_job(JOB, SPEC)
        await admin.config_set("min-replicas-to-write", 1)
        for write in (own_store.ping(), own_store.fix_schema(JOB, "{}")):
            with refused(ErrorCode.STORE_UNAVAILABLE):
                await write
        assert (await own_store.job(JOB)).spec_json == SPEC

    async def test_more_callers_than_connections_wait_for_one(self, own_redis: EmbeddedRedis) -> None:
        store = RedisStore(RedisConnection(own_redis.url, ConnectionSettings(connections=3)))
        await open_first_round(store)
        answers = await asyncio.gather(*(store.delivered(JOB, 1, ALICE) for _ in range(300)))
        assert answers == [False] * 300
        await store.close()


class TestKilled:
    async def test_every_acknowledged_update_survives_a_killed_redis_and_none_is_counted_twice(
        self, own_redis: EmbeddedRedis, own_store: Store
    ) -> None:
        clients = [ClientId(f"client-{i:03}") for i in range(200)]
        await open_first_round(own_store, participants=round_record(clients=tuple(clients)).participants)
        tokens = {client: await token_of(own_store, client) for client in clients}
        acknowledged: set[ClientId] = set()
        enough = asyncio.Event()

        async def push(client: ClientId) -> None:
            digest = await own_store.blobs.put(JOB, f"update of {client}".encode() * 100)
            await own_store.accept(JOB, update_record(client, digest=digest), tokens[client])
            acknowledged.add(client)
            if len(acknowledged) == 60:
                enough.set()

        async def push_slowly() -> None:
            for start in range(0, len(clients), 4):
                pushes = (push(client) for client in clients[start : start + 4])
                outcomes = await asyncio.gather(*pushes, return_exceptions=True)
                for failure in filter(None, outcomes):
                    raise failure

        pushing = asyncio.create_task(push_slowly())
        await enough.wait()
        own_redis.kill()
        with refused(ErrorCode.STORE_UNAVAILABLE):
            await pushing
        assert 60 <= len(acknowledged) < 200
        own_redis.start()
        recorded = await own_store.updates(JOB, 1)
        assert acknowledged <= set(recorded)
        for client, update in recorded.items():
            assert await own_store.blobs.get(JOB, update.digest) == f"update of {client}".encode() * 100
        before = set(recorded)
        for client in clients:
            digest = digest_of(f"update of {client}".encode() * 100)
            await own_store.blobs.put(JOB, f"update of {client}".encode() * 100)
            outcome = await own_store.accept(JOB, update_record(client, digest=digest), tokens[client])
            assert outcome is (AcceptResult.REPEATED if client in before else AcceptResult.ACCEPTED)
        assert len(await own_store.updates(JOB, 1)) == 200

    async def test_a_whole_round_survives_a_kill_after_every_step(
        self, own_redis: EmbeddedRedis, own_store: Store
    ) -> None:
        async def killed_and_back() -> None:
            own_redis.kill()
            await asyncio.to_thread(own_redis.start)

        fence = await open_first_round(own_store)
        token = await token_of(own_store, ALICE)
        await own_store.transfers.stage(JOB, "t", 0, b"half ")
        await killed_and_back()
        await own_store.transfers.stage(JOB, "t", 5, b"whole")
        await own_store.transfers.commit(JOB, "t", digest_of(b"half whole"))
        await own_store.join(JOB, client_record(ALICE, signature=(0.5, 0.5)))
        await own_store.publish_memberships(JOB, membership_record(1), 0)
        await killed_and_back()
        update = update_record(ALICE, digest=digest_of(b"half whole"))
        assert await own_store.accept(JOB, update, token) is AcceptResult.ACCEPTED
        await killed_and_back()
        assert await own_store.begin_fold(JOB, 1, fence) == (ALICE,)
        await killed_and_back()
        assert await own_store.publish(JOB, 1, version_record(1), "{}", fence)
        await killed_and_back()
        assert await own_store.version(JOB) == version_record(1)
        assert await own_store.updates(JOB, 1) == {ALICE: update}
        assert await own_store.client(JOB, ALICE) == client_record(ALICE, signature=(0.5, 0.5))
        assert await own_store.memberships(JOB) == membership_record(1)
        assert await own_store.acquire(JOB, "another", 1000) is None


class TestWaitingThroughFaults:
    async def test_a_change_made_by_one_process_wakes_another(self, own_redis: EmbeddedRedis, own_store: Store) -> None:
        other = open_store(own_redis.url, "redis")
        await own_store.create_job(JOB, SPEC)
        seen = await other.changes(JOB, Topic.TASKS)
        waiting = asyncio.create_task(other.wait_change(JOB, Topic.TASKS, seen, 20))
        await asyncio.sleep(0.3)
        started = time.monotonic()
        await own_store.set_status(JOB, JobStatus.RUNNING, "", ALIVE)
        assert await waiting == seen + 1
        assert time.monotonic() - started < 2
        await other.close()

    async def test_a_waiter_outlives_a_restart_of_redis(self, own_redis: EmbeddedRedis, own_store: Store) -> None:
        other = open_store(own_redis.url, "redis")
        await own_store.create_job(JOB, SPEC)
        seen = await other.changes(JOB, Topic.TASKS)
        waiting = [asyncio.create_task(other.wait_change(JOB, Topic.TASKS, seen, 30)) for _ in range(20)]
        await asyncio.sleep(0.3)
        own_redis.kill()
        await asyncio.sleep(0.5)
        await asyncio.to_thread(own_redis.start)
        await own_store.set_status(JOB, JobStatus.RUNNING, "", ALIVE)
        started = time.monotonic()
        assert {await task for task in waiting} == {seen + 1}
        assert time.monotonic() - started < 5
        again = asyncio.create_task(other.wait_change(JOB, Topic.TASKS, seen + 1, 20))
        await asyncio.sleep(1.5)
        started = time.monotonic()
        await own_store.set_status(JOB, JobStatus.FAILED, "", ALIVE)
        assert await again == seen + 2
        assert time.monotonic() - started < 2
        await other.close()

    async def test_a_change_during_a_lost_subscription_is_not_missed(self, own_store: Store, admin: Redis) -> None:
        await own_store.create_job(JOB, SPEC)
        seen = await own_store.changes(JOB, Topic.TASKS)
        waiting = asyncio.create_task(own_store.wait_change(JOB, Topic.TASKS, seen, 20))
        await asyncio.sleep(0.3)
        assert await admin.execute_command("CLIENT", "KILL", "TYPE", "pubsub") == 1
        await own_store.set_status(JOB, JobStatus.RUNNING, "", ALIVE)
        started = time.monotonic()
        assert await waiting == seen + 1
        assert time.monotonic() - started < 3

    async def test_without_subscriptions_one_read_a_second_serves_all_waiters(
        self, own_store: Store, admin: Redis
    ) -> None:
        await admin.execute_command("ACL", "SETUSER", "default", "-psubscribe")
        await own_store.create_job(JOB, SPEC)
        seen = await own_store.changes(JOB, Topic.TASKS)
        waiting = [asyncio.create_task(own_store.wait_change(JOB, Topic.TASKS, seen, 20)) for _ in range(50)]
        await asyncio.sleep(0.5)
        before = await reads(admin)
        await asyncio.sleep(3)
        assert 1 <= await reads(admin) - before <= 5
        await own_store.set_status(JOB, JobStatus.RUNNING, "", ALIVE)
        assert {await task for task in waiting} == {seen + 1}

    async def test_waiters_do_not_poll(self, own_store: Store, admin: Redis) -> None:
        await own_store.create_job(JOB, SPEC)
        seen = await own_store.changes(JOB, Topic.TASKS)
        waiting = [asyncio.create_task(own_store.wait_change(JOB, Topic.TASKS, seen, 3)) for _ in range(200)]
        await asyncio.sleep(0.5)
        before = await reads(admin)
        await asyncio.gather(*waiting)
        assert await reads(admin) == before

    async def test_a_wait_that_ends_during_an_outage_is_refused(
        self, own_redis: EmbeddedRedis, own_store: Store
    ) -> None:
        await own_store.create_job(JOB, SPEC)
        waiting = asyncio.create_task(own_store.wait_change(JOB, Topic.TASKS, 0, 1))
        await asyncio.sleep(0.3)
        own_redis.kill()
        with refused(ErrorCode.STORE_UNAVAILABLE):
            await waiting
