"""What only the directory back end promises: paths, durability, several replicas on one volume, a disk without room."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import resource
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from fedhft.errors import ErrorCode, FedhftError
from fedhft.ids import JobId
from fedhft.store.interface import Store
from fedhft.store.open import open_store
from tests.contract.federation import JOB, digest_of, refused

DATA = os.urandom(1 << 20)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "mounted" / "volume"


@pytest_asyncio.fixture
async def here(root: Path) -> AsyncIterator[Store]:
    """A store with blobs and transfers in the directory."""
    opened = open_store("memory://", f"dir:{root}")
    yield opened
    await opened.close()


@pytest_asyncio.fixture
async def replica(root: Path) -> AsyncIterator[Store]:
    """Another on the same directory."""
    opened = open_store("memory://", f"dir:{root}")
    yield opened
    await opened.close()


def files_under(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def complete_blobs(root: Path) -> set[Path]:
    return {path for path in files_under(root) if path.parent.parent.name == "blobs"}


class TestPaths:
    @pytest.mark.parametrize(
        "digest", ["../../../escape", "/etc/passwd", "", "A" * 64, "a" * 63, "a" * 65, "a" * 64 + "\n"]
    )
    async def test_what_is_not_a_digest_never_becomes_a_path(self, here: Store, digest: str) -> None:
        await here.transfers.stage(JOB, "t", 0, b"data")
        for call in (
            here.blobs.get(JOB, digest),
            here.blobs.size(JOB, digest),
            here.transfers.commit(JOB, "t", digest),
            here.blobs.delete(JOB, [digest]),
        ):
            with refused(ErrorCode.INVALID_ARGUMENT):
                await call

    @pytest.mark.parametrize("job", ["../escape", "..", "/tmp", "a/b", "", "A"])
    async def test_what_is_not_a_job_id_never_becomes_a_path(self, here: Store, tmp_path: Path, job: str) -> None:
        bad = JobId(job)
        for call in (
            here.blobs.put(bad, b"data"),
            here.blobs.get(bad, digest_of(b"data")),
            here.transfers.stage(bad, "t", 0, b"data"),
            here.transfers.discard(bad, "t"),
            here.blobs.sweep(bad, [], 0),
            here.transfers.sweep(bad, 0),
        ):
            with refused(ErrorCode.INVALID_ARGUMENT):
                await call
        assert files_under(tmp_path) == set()

    async def test_transfer_names_stay_inside_the_jobs_folder(self, here: Store, root: Path, tmp_path: Path) -> None:
        for name in ("../../../../escape", "/tmp/escape", "a/../../b", "nul\0byte"):
            await here.transfers.stage(JOB, name, 0, b"data")
        found = files_under(tmp_path)
        assert len(found) == 4
        assert all(path.parent == root / JOB / "transfers" for path in found)


class TestDurability:
    async def test_a_blob_is_on_disk_before_it_has_its_name_and_its_folder_after(
        self, here: Store, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        steps: list[tuple[str, str]] = []
        fsync, replace = os.fsync, Path.replace

        def noted_fsync(descriptor: int) -> None:
            steps.append(("fsync", Path(f"/proc/self/fd/{descriptor}").readlink().name))
            fsync(descriptor)

        def noted_replace(self: Path, target: Path) -> Path:
            steps.append(("rename", target.name))
            return replace(self, target)

        monkeypatch.setattr(os, "fsync", noted_fsync)
        monkeypatch.setattr(Path, "replace", noted_replace)
        for data, store in ((b"put", here.blobs.put(JOB, b"put")), (b"staged", _staged_and_committed(here, b"staged"))):
            steps.clear()
            await store
            digest = digest_of(data)
            assert [step for step, _ in steps[:2]] == ["fsync", "rename"]
            assert steps[1:3] == [("rename", digest), ("fsync", digest[:2])]

    async def test_no_reader_ever_sees_a_part_of_a_blob(self, here: Store, root: Path) -> None:
        datas = [bytes([i]) * (2 << 20) for i in range(12)]
        storing = asyncio.gather(*(here.blobs.put(JOB, data) for data in datas))
        seen: set[str] = set()
        while not storing.done():
            for path in complete_blobs(root):
                assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
                seen.add(path.name)
            await asyncio.sleep(0)
        assert await storing == [digest_of(data) for data in datas]
        assert len(complete_blobs(root)) == 12
        assert not any((root / JOB / "transfers").iterdir())

    async def test_a_file_that_was_damaged_while_staged_is_noticed_at_commit(self, here: Store, root: Path) -> None:
        await here.transfers.stage(JOB, "t", 0, DATA)
        (transfer,) = (root / JOB / "transfers").iterdir()
        with transfer.open("r+b") as file:
            file.seek(1000)
            file.write(b"power cut")
        with refused(ErrorCode.DIGEST_MISMATCH):
            await here.transfers.commit(JOB, "t", digest_of(DATA))
        assert complete_blobs(root) == set()

    async def test_what_a_killed_writer_left_is_swept(self, here: Store, root: Path) -> None:
        await here.blobs.put(JOB, b"kept")
        left = root / JOB / "transfers" / "new-left-behind"
        left.write_bytes(b"half")
        os.utime(left, (1, 1))
        assert await here.transfers.sweep(JOB, 60) == 0
        assert await here.blobs.sweep(JOB, [digest_of(b"kept")], 60) == 1
        assert not left.exists()


async def _staged_and_committed(here: Store, data: bytes) -> None:
    await here.transfers.stage(JOB, "t", 0, data)
    await here.transfers.commit(JOB, "t", digest_of(data))


class TestReplicas:
    async def test_a_transfer_goes_on_at_another_replica(self, here: Store, replica: Store) -> None:
        half = len(DATA) // 2
        await here.transfers.stage(JOB, "t", 0, DATA[:half])
        assert await replica.transfers.staged(JOB, "t") == half
        await replica.transfers.stage(JOB, "t", half, DATA[half:])
        with refused(ErrorCode.WRONG_OFFSET):
            await here.transfers.stage(JOB, "t", half, DATA[half:])
        await here.transfers.commit(JOB, "t", digest_of(DATA))
        assert await replica.blobs.get(JOB, digest_of(DATA)) == DATA

    async def test_racing_chunks_and_commits_of_two_replicas_leave_one_whole_blob(
        self, here: Store, replica: Store, root: Path
    ) -> None:
        lost: set[ErrorCode] = set()

        async def send(through: Store) -> None:
            while await through.blobs.size(JOB, digest_of(DATA)) is None:
                offset = await through.transfers.staged(JOB, "t")
                try:
                    if offset < len(DATA):
                        await through.transfers.stage(JOB, "t", offset, DATA[offset : offset + 50_000])
                    else:
                        await through.transfers.commit(JOB, "t", digest_of(DATA))
                except FedhftError as error:
                    # Another one took this step first.
                    lost.add(error.code)

        for _ in range(5):
            await asyncio.gather(send(here), send(replica), send(here))
            assert await here.blobs.get(JOB, digest_of(DATA)) == DATA
            await here.blobs.delete(JOB, [digest_of(DATA)])
            await here.transfers.discard(JOB, "t")
        assert lost <= {ErrorCode.WRONG_OFFSET}

    async def test_a_sweep_at_one_replica_never_takes_what_another_just_stored(
        self, here: Store, replica: Store, root: Path
    ) -> None:
        datas = [f"blob {i}".encode() for i in range(30)]
        for data in datas:
            await here.blobs.put(JOB, data)
        for path in complete_blobs(root):
            os.utime(path, (1, 1))

        async def store_all() -> None:
            for data in datas:
                await here.blobs.put(JOB, data)

        await asyncio.gather(store_all(), *(replica.blobs.sweep(JOB, [], 60) for _ in range(10)))
        for data in datas:
            assert await replica.blobs.get(JOB, digest_of(data)) == data

    async def test_a_chunk_that_waited_while_the_transfer_was_committed_goes_nowhere(
        self, here: Store, root: Path
    ) -> None:
        await here.transfers.stage(JOB, "t", 0, b"hello")
        await here.blobs.put(JOB, b"another")
        (transfer,) = (root / JOB / "transfers").iterdir()
        committed = root / JOB / "blobs" / "committed"
        with transfer.open("rb") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            waiting = asyncio.create_task(here.transfers.stage(JOB, "t", 5, b" more"))
            await asyncio.sleep(0.2)
            assert not waiting.done()
            transfer.rename(committed)
        with refused(ErrorCode.WRONG_OFFSET):
            await waiting
        assert committed.read_bytes() == b"hello"

    async def test_a_sweep_waits_for_writers_and_then_looks_again(self, here: Store, root: Path) -> None:
        await here.blobs.put(JOB, b"stored again")
        (blob,) = complete_blobs(root)
        os.utime(blob, (1, 1))
        with (root / JOB / "lock").open("rb") as held:
            fcntl.flock(held, fcntl.LOCK_SH)
            sweeping = asyncio.create_task(here.blobs.sweep(JOB, [], 60))
            await asyncio.sleep(0.2)
            assert blob.exists()
            os.utime(blob)
        assert await sweeping == 0
        assert blob.exists()

    async def test_processes_that_stage_the_same_transfer_agree(self, root: Path, here: Store) -> None:
        program = """
import asyncio, sys
from fedhft.errors import FedhftError
from fedhft.store.open import open_store

async def main():
    store, taken = open_store("memory://", f"dir:{sys.argv[1]}"), 0
    while (offset := await store.transfers.staged("tickets", "t")) < 20_000:
        try:
            await store.transfers.stage("tickets", "t", offset, sys.argv[2].encode() * 100)
            taken += 1
        except FedhftError:
            pass
    print(taken)
    await store.close()

asyncio.run(main())
"""
        running = [
            await asyncio.create_subprocess_exec(sys.executable, "-c", program, root, letter, stdout=subprocess.PIPE)
            for letter in "ab"
        ]
        counts = [int((await process.communicate())[0]) for process in running]
        assert sum(counts) == 200
        (transfer,) = (root / JOB / "transfers").iterdir()
        text = transfer.read_bytes().decode()
        pieces = [text[i : i + 100] for i in range(0, len(text), 100)]
        assert [sum(piece == letter * 100 for piece in pieces) for letter in "ab"] == counts


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file may grow beyond `size`: the kernel then writes a part and refuses the rest, like a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class TestNoRoom:
    async def test_without_room_nothing_is_stored_and_nothing_is_lost(self, here: Store, root: Path) -> None:
        await here.blobs.put(JOB, b"kept")
        await here.transfers.stage(JOB, "t", 0, DATA[:50_000])
        with room_for(100_000):
            with refused(ErrorCode.STORE_FULL):
                await here.blobs.put(JOB, DATA)
            with refused(ErrorCode.STORE_FULL):
                await here.transfers.stage(JOB, "t", 50_000, DATA[50_000:])
            assert await here.transfers.staged(JOB, "t") == 50_000
            assert await here.blobs.get(JOB, digest_of(b"kept")) == b"kept"
        assert len(files_under(root / JOB / "transfers")) == 1
        await here.transfers.stage(JOB, "t", 50_000, DATA[50_000:])
        await here.transfers.commit(JOB, "t", digest_of(DATA))
        assert await here.blobs.get(JOB, digest_of(DATA)) == DATA

    async def test_a_root_that_cannot_be_used_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"not a directory")
        here = open_store("memory://", f"dir:{tmp_path / 'file'}")
        for call in (here.ping(), here.blobs.put(JOB, b"data"), here.transfers.stage(JOB, "t", 0, b"data")):
            with pytest.raises(FedhftError) as caught:
                await call
            assert caught.value.code is ErrorCode.STORE_UNAVAILABLE
            assert str(tmp_path / "file") in caught.value.message
        await here.close()
