"""Contract of every blob back end."""

from __future__ import annotations

import asyncio

from fedhft.errors import ErrorCode
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

    async def test_a_sweep_deletes_old_blobs_only_and_none_to_keep(self, store: Store) -> None:
        kept, old = await store.blobs.put(JOB, b"kept"), await store.blobs.put(JOB, b"old")
        other = await store.blobs.put(OTHER, b"another job's")
        await store.transfers.stage(JOB, "another sweep's", 0, b"half")
        await asyncio.sleep(0.8)
        young = await store.blobs.put(JOB, b"young")
        assert await store.blobs.sweep(JOB, [kept], 0.7) == 1
        assert [await store.blobs.size(JOB, digest) for digest in (kept, old, young)] == [4, None, 5]
        assert await store.blobs.size(OTHER, other) == 13
        assert await store.transfers.staged(JOB, "another sweep's") == 4

    async def test_a_blob_that_is_stored_again_counts_as_just_stored(self, store: Store) -> None:
        await store.blobs.put(JOB, b"put again")
        await store.blobs.put(JOB, b"committed again")
        await asyncio.sleep(0.8)
        await store.blobs.put(JOB, b"put again")
        await store.transfers.commit(JOB, "t", digest_of(b"committed again"))
        assert await store.blobs.sweep(JOB, [], 0.7) == 0

    async def test_sweeping_an_unknown_job_finds_nothing(self, store: Store) -> None:
        assert await store.blobs.sweep(JobId("never"), [], 0) == 0
