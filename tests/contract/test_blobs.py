"""Contract of every blob back end."""

from __future__ import annotations

import asyncio

import pytest

from fedhft.errors import ErrorCode, FedhftError
from fedhft.ids import JobId
from fedhft.store.interface import Store
from tests.contract.federation import JOB, digest_of, refused

DATA = bytes(range(256)) * 1200  # 300 KB, a common update
OTHER = JobId("other")


class TestBlobs:
    async def test_bytes_come_back_under_their_digest(self, store: Store) -> None:
        assert await store.blobs.put(JOB, DATA) == digest_of(DATA)
        assert await store.blobs.put(JOB, DATA) == digest_of(DATA)
        assert await store.blobs.get(JOB, digest_of(DATA)) == DATA
        assert await store.blobs.size(JOB, digest_of(DATA)) == len(DATA)

    async def test_ranges_are_cut_as_asked(self, store: Store) -> None:
        digest = await store.blobs.put(JOB, DATA)
        for offset, length in ((0, 10), (100, 1), (299_000, 100_000), (0, 0), (7, -1), (len(DATA), -1), (10**9, 5)):
            expected = DATA[offset:] if length == -1 else DATA[offset : offset + length]
            assert await store.blobs.get(JOB, digest, offset, length) == expected

    async def test_impossible_ranges_are_refused(self, store: Store) -> None:
        digest = await store.blobs.put(JOB, DATA)
        for offset, length in ((-1, 5), (0, -2)):
            with refused(ErrorCode.INVALID_ARGUMENT):
                await store.blobs.get(JOB, digest, offset, length)

    async def test_an_absent_blob_is_named(self, store: Store) -> None:
        await store.blobs.put(OTHER, DATA)
        assert await store.blobs.size(JOB, digest_of(DATA)) is None
        for offset, length in ((0, -1), (0, 0), (5, 5)):
            with refused(ErrorCode.UNKNOWN_BLOB):
                await store.blobs.get(JOB, digest_of(DATA), offset, length)

    async def test_deleting_ignores_what_is_absent(self, store: Store) -> None:
        one, two = await store.blobs.put(JOB, b"one"), await store.blobs.put(JOB, b"two")
        await store.blobs.delete(JOB, [one, digest_of(b"absent")])
        await store.blobs.delete(JOB, [])
        assert await store.blobs.size(JOB, one) is None
        assert await store.blobs.get(JOB, two) == b"two"

    async def test_many_puts_at_once_all_arrive(self, store: Store) -> None:
        datas = [DATA + bytes([i]) for i in range(40)]
        digests = await asyncio.gather(*(store.blobs.put(JOB, data) for data in datas + datas))
        assert digests == [digest_of(data) for data in datas + datas]
        assert await asyncio.gather(*(store.blobs.get(JOB, digest_of(data)) for data in datas)) == datas

    async def test_an_open_store_answers_ping(self, store: Store) -> None:
        await store.ping()


class TestTransfers:
    async def test_chunks_become_the_blob_they_were_announced_to_be(self, store: Store) -> None:
        assert await store.blobs.staged(JOB, "t") == 0
        for offset in range(0, len(DATA), 100_000):
            chunk = DATA[offset : offset + 100_000]
            assert await store.blobs.stage(JOB, "t", offset, chunk) == offset + len(chunk)
            assert await store.blobs.staged(JOB, "t") == offset + len(chunk)
        assert await store.blobs.size(JOB, digest_of(DATA)) is None
        await store.blobs.commit(JOB, "t", digest_of(DATA))
        assert await store.blobs.get(JOB, digest_of(DATA)) == DATA
        assert await store.blobs.staged(JOB, "t") == 0

    async def test_a_chunk_must_begin_where_the_last_one_ended(self, store: Store) -> None:
        with refused(ErrorCode.WRONG_OFFSET):
            await store.blobs.stage(JOB, "t", 5, b"later")
        await store.blobs.stage(JOB, "t", 0, b"hello")
        for offset in (0, 4, 6, 500):
            with refused(ErrorCode.WRONG_OFFSET):
                await store.blobs.stage(JOB, "t", offset, b"wrong")
        assert await store.blobs.staged(JOB, "t") == 5
        await store.blobs.stage(JOB, "t", 5, b" again")
        await store.blobs.commit(JOB, "t", digest_of(b"hello again"))

    async def test_of_racing_chunks_at_one_offset_one_is_taken(self, store: Store) -> None:
        outcomes = await asyncio.gather(
            *(store.blobs.stage(JOB, "t", 0, bytes([i]) * 1000) for i in range(10)), return_exceptions=True
        )
        assert outcomes.count(1000) == 1
        assert all(
            isinstance(one, FedhftError) and one.code is ErrorCode.WRONG_OFFSET for one in outcomes if one != 1000
        )
        await store.blobs.commit(JOB, "t", digest_of(bytes([outcomes.index(1000)]) * 1000))

    async def test_committing_again_is_harmless(self, store: Store) -> None:
        await store.blobs.stage(JOB, "t", 0, DATA)
        await store.blobs.commit(JOB, "t", digest_of(DATA))
        await store.blobs.commit(JOB, "t", digest_of(DATA))
        assert await store.blobs.get(JOB, digest_of(DATA)) == DATA

    async def test_racing_commits_of_one_transfer_leave_the_blob(self, store: Store) -> None:
        await store.blobs.stage(JOB, "t", 0, DATA)
        await asyncio.gather(*(store.blobs.commit(JOB, "t", digest_of(DATA)) for _ in range(8)))
        assert await store.blobs.get(JOB, digest_of(DATA)) == DATA
        assert await store.blobs.staged(JOB, "t") == 0

    async def test_committing_drops_a_transfer_of_bytes_that_are_there_already(self, store: Store) -> None:
        await store.blobs.put(JOB, DATA)
        await store.blobs.stage(JOB, "t", 0, b"whatever")
        await store.blobs.commit(JOB, "t", digest_of(DATA))
        assert await store.blobs.staged(JOB, "t") == 0
        assert await store.blobs.get(JOB, digest_of(DATA)) == DATA

    async def test_other_bytes_than_announced_are_refused_and_dropped(self, store: Store) -> None:
        await store.blobs.stage(JOB, "t", 0, b"damaged")
        with refused(ErrorCode.DIGEST_MISMATCH):
            await store.blobs.commit(JOB, "t", digest_of(DATA))
        assert await store.blobs.staged(JOB, "t") == 0
        for data in (DATA, b"damaged"):
            assert await store.blobs.size(JOB, digest_of(data)) is None
        await store.blobs.stage(JOB, "t", 0, DATA)
        await store.blobs.commit(JOB, "t", digest_of(DATA))

    async def test_committing_what_was_never_staged_is_refused(self, store: Store) -> None:
        for digest in (digest_of(DATA), digest_of(b"")):
            with refused(ErrorCode.DIGEST_MISMATCH):
                await store.blobs.commit(JOB, "unknown", digest)
            assert await store.blobs.size(JOB, digest) is None

    async def test_a_discarded_transfer_begins_anew(self, store: Store) -> None:
        await store.blobs.stage(JOB, "t", 0, b"abc")
        await store.blobs.discard(JOB, "t")
        await store.blobs.discard(JOB, "t")
        assert await store.blobs.staged(JOB, "t") == 0
        await store.blobs.stage(JOB, "t", 0, b"xyz")
        await store.blobs.commit(JOB, "t", digest_of(b"xyz"))

    async def test_transfers_are_told_apart_by_job_and_name(self, store: Store) -> None:
        for job in (JOB, OTHER):
            for name in ("a", "b"):
                await store.blobs.stage(job, name, 0, f"{job}/{name}".encode())
        for job in (JOB, OTHER):
            for name in ("a", "b"):
                await store.blobs.commit(job, name, digest_of(f"{job}/{name}".encode()))

    @pytest.mark.parametrize("name", ["../../escape", "/etc/passwd", "a/b/c", "x" * 5000, "naïve ☃", "a:b {c} *", "."])
    async def test_a_transfer_may_have_any_name(self, store: Store, name: str) -> None:
        await store.blobs.stage(JOB, name, 0, b"one ")
        await store.blobs.stage(JOB, name, 4, b"two")
        await store.blobs.commit(JOB, name, digest_of(b"one two"))
        assert await store.blobs.get(JOB, digest_of(b"one two")) == b"one two"


class TestSweeping:
    async def test_old_blobs_and_transfers_go_and_kept_and_young_ones_stay(self, store: Store) -> None:
        kept, old = await store.blobs.put(JOB, b"kept"), await store.blobs.put(JOB, b"old")
        other = await store.blobs.put(OTHER, b"another job's")
        await store.blobs.stage(JOB, "abandoned", 0, b"half")
        await asyncio.sleep(0.8)
        young = await store.blobs.put(JOB, b"young")
        await store.blobs.stage(JOB, "going on", 0, b"half")
        assert await store.blobs.sweep(JOB, [kept], 0.7) == 2
        assert [await store.blobs.size(JOB, digest) for digest in (kept, old, young)] == [4, None, 5]
        assert [await store.blobs.staged(JOB, name) for name in ("abandoned", "going on")] == [0, 4]
        assert await store.blobs.size(OTHER, other) == 13

    async def test_a_blob_or_transfer_that_is_touched_again_is_young_again(self, store: Store) -> None:
        await store.blobs.put(JOB, b"put again")
        await store.blobs.put(JOB, b"committed again")
        await store.blobs.stage(JOB, "slow", 0, b"one")
        await asyncio.sleep(0.8)
        await store.blobs.put(JOB, b"put again")
        await store.blobs.commit(JOB, "t", digest_of(b"committed again"))
        await store.blobs.stage(JOB, "slow", 3, b"two")
        assert await store.blobs.sweep(JOB, [], 0.7) == 0

    async def test_sweeping_an_unknown_job_finds_nothing(self, store: Store) -> None:
        assert await store.blobs.sweep(JobId("never"), [], 0) == 0
