"""Contract of every back end of transfers, and of the blobs that they become."""

from __future__ import annotations

import asyncio

import pytest

from fedhft.errors import ErrorCode, FedhftError
from fedhft.ids import JobId
from fedhft.store.interface import Store
from tests.contract.federation import JOB, digest_of, refused

DATA = bytes(range(256)) * 1200  # 300 KB, a common update
OTHER = JobId("other")


class TestTransfers:
    async def test_chunks_become_the_blob_they_were_announced_to_be(self, store: Store) -> None:
        assert await store.transfers.staged(JOB, "t") == 0
        for offset in range(0, len(DATA), 100_000):
            chunk = DATA[offset : offset + 100_000]
            assert await store.transfers.stage(JOB, "t", offset, chunk) == offset + len(chunk)
            assert await store.transfers.staged(JOB, "t") == offset + len(chunk)
        assert await store.blobs.size(JOB, digest_of(DATA)) is None
        await store.transfers.commit(JOB, "t", digest_of(DATA))
        assert await store.blobs.get(JOB, digest_of(DATA)) == DATA
        assert await store.transfers.staged(JOB, "t") == 0

    async def test_a_chunk_must_begin_where_the_last_one_ended(self, store: Store) -> None:
        with refused(ErrorCode.WRONG_OFFSET):
            await store.transfers.stage(JOB, "t", 5, b"later")
        await store.transfers.stage(JOB, "t", 0, b"hello")
        for offset in (0, 4, 6, 500):
            with refused(ErrorCode.WRONG_OFFSET):
                await store.transfers.stage(JOB, "t", offset, b"wrong")
        assert await store.transfers.staged(JOB, "t") == 5
        await store.transfers.stage(JOB, "t", 5, b" again")
        await store.transfers.commit(JOB, "t", digest_of(b"hello again"))

    async def test_of_racing_chunks_at_one_offset_one_is_taken(self, store: Store) -> None:
        outcomes = await asyncio.gather(
            *(store.transfers.stage(JOB, "t", 0, bytes([i]) * 1000) for i in range(10)), return_exceptions=True
        )
        assert outcomes.count(1000) == 1
        assert all(
            isinstance(one, FedhftError) and one.code is ErrorCode.WRONG_OFFSET for one in outcomes if one != 1000
        )
        await store.transfers.commit(JOB, "t", digest_of(bytes([outcomes.index(1000)]) * 1000))

    async def test_committing_again_is_harmless(self, store: Store) -> None:
        await store.transfers.stage(JOB, "t", 0, DATA)
        await store.transfers.commit(JOB, "t", digest_of(DATA))
        await store.transfers.commit(JOB, "t", digest_of(DATA))
        assert await store.blobs.get(JOB, digest_of(DATA)) == DATA

    async def test_racing_commits_of_one_transfer_leave_the_blob(self, store: Store) -> None:
        await store.transfers.stage(JOB, "t", 0, DATA)
        await asyncio.gather(*(store.transfers.commit(JOB, "t", digest_of(DATA)) for _ in range(8)))
        assert await store.blobs.get(JOB, digest_of(DATA)) == DATA
        assert await store.transfers.staged(JOB, "t") == 0

    async def test_committing_drops_a_transfer_of_bytes_that_are_there_already(self, store: Store) -> None:
        await store.blobs.put(JOB, DATA)
        await store.transfers.stage(JOB, "t", 0, b"whatever")
        await store.transfers.commit(JOB, "t", digest_of(DATA))
        assert await store.transfers.staged(JOB, "t") == 0
        assert await store.blobs.get(JOB, digest_of(DATA)) == DATA

    async def test_other_bytes_than_announced_are_refused_and_dropped(self, store: Store) -> None:
        await store.transfers.stage(JOB, "t", 0, b"damaged")
        with refused(ErrorCode.DIGEST_MISMATCH):
            await store.transfers.commit(JOB, "t", digest_of(DATA))
        assert await store.transfers.staged(JOB, "t") == 0
        for data in (DATA, b"damaged"):
            assert await store.blobs.size(JOB, digest_of(data)) is None
        await store.transfers.stage(JOB, "t", 0, DATA)
        await store.transfers.commit(JOB, "t", digest_of(DATA))

    async def test_committing_what_was_never_staged_is_refused(self, store: Store) -> None:
        for digest in (digest_of(DATA), digest_of(b"")):
            with refused(ErrorCode.DIGEST_MISMATCH):
                await store.transfers.commit(JOB, "unknown", digest)
            assert await store.blobs.size(JOB, digest) is None

    async def test_a_discarded_transfer_starts_over(self, store: Store) -> None:
        await store.transfers.stage(JOB, "t", 0, b"abc")
        await store.transfers.discard(JOB, "t")
        await store.transfers.discard(JOB, "t")
        assert await store.transfers.staged(JOB, "t") == 0
        await store.transfers.stage(JOB, "t", 0, b"xyz")
        await store.transfers.commit(JOB, "t", digest_of(b"xyz"))

    async def test_transfers_are_told_apart_by_job_and_name(self, store: Store) -> None:
        for job in (JOB, OTHER):
            for name in ("a", "b"):
                await store.transfers.stage(job, name, 0, f"{job}/{name}".encode())
        for job in (JOB, OTHER):
            for name in ("a", "b"):
                await store.transfers.commit(job, name, digest_of(f"{job}/{name}".encode()))

    @pytest.mark.parametrize("name", ["../../escape", "/etc/passwd", "a/b/c", "x" * 5000, "naïve ☃", "a:b {c} *", "."])
    async def test_a_transfer_may_have_any_name(self, store: Store, name: str) -> None:
        await store.transfers.stage(JOB, name, 0, b"one ")
        await store.transfers.stage(JOB, name, 4, b"two")
        await store.transfers.commit(JOB, name, digest_of(b"one two"))
        assert await store.blobs.get(JOB, digest_of(b"one two")) == b"one two"

    async def test_a_sweep_drops_abandoned_transfers_only(self, store: Store) -> None:
        for job, name in ((JOB, "abandoned"), (JOB, "slow"), (OTHER, "abandoned")):
            await store.transfers.stage(job, name, 0, b"half")
        old = await store.blobs.put(JOB, b"another sweep's")
        await asyncio.sleep(0.8)
        await store.transfers.stage(JOB, "slow", 4, b"more")
        await store.transfers.stage(JOB, "young", 0, b"half")
        assert await store.transfers.sweep(JOB, 0.7) == 1
        assert [await store.transfers.staged(JOB, name) for name in ("abandoned", "slow", "young")] == [0, 8, 4]
        assert await store.transfers.staged(OTHER, "abandoned") == 4
        assert await store.blobs.size(JOB, old) == len(b"another sweep's")

    async def test_sweeping_an_unknown_job_finds_nothing(self, store: Store) -> None:
        assert await store.transfers.sweep(JobId("never"), 0) == 0
