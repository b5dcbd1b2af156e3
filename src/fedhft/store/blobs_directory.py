"""Blobs in a directory, on a disk or a volume shared by several replicas: for large adapters.

    <root>/<job>/blobs/<first two digits>/<digest>     complete blobs; a file here is whole and on disk
    <root>/<job>/transfers/<SHA-256 of the name>       half-received transfers (names never become paths)
    <root>/<job>/lock                                  taken exclusively by a sweep, shared by who stores

Replicas agree by file locks on the transfer (append, commit, discard) and on the job's lock file (storing against
sweeping). Ages are differences of file times, so clocks of replicas need not agree with each other.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import hashlib
import os
import re
import secrets
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from fedhft.ids import JobId, parse_job_id
from fedhft.store import refusals

Answer = TypeVar("Answer")

_DIGEST = re.compile(r"[0-9a-f]{64}")
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_READ_BYTES = 1 << 20
_THREADS = 8
_ANSWER_S = 60.0
_LOCK_S = 30.0
_LOCK_PAUSE_S = 0.005


class DirectoryBlobs:
    """BlobStore in files. File work runs in a few threads, each call bounded in time."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="fedhft-blobs")

    async def _run(self, work: Callable[[], Answer]) -> Answer:
        try:
            async with asyncio.timeout(_ANSWER_S):
                return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except TimeoutError as error:
            raise refusals.unavailable(f"dir:{self._root}", f"no answer in {_ANSWER_S:.0f} s") from error
        except OSError as error:
            if error.errno in _NO_ROOM:
                raise refusals.full(f"dir:{self._root}", f"has no room left ({error.strerror})") from error
            raise refusals.unavailable(f"dir:{self._root}", f"cannot be used ({error})") from error

    async def ping(self) -> None:
        """See BlobStore.ping."""

        def work() -> None:
            self._root.mkdir(parents=True, exist_ok=True)
            probe = self._root / f".probe-{secrets.token_hex(8)}"
            try:
                probe.write_bytes(b"1")
            finally:
                probe.unlink(missing_ok=True)

        await self._run(work)

    async def close(self) -> None:
        """See BlobStore.close."""
        self._threads.shutdown(wait=False)

    async def put(self, job: JobId, data: bytes) -> str:
        """See BlobStore.put."""
        folder = _JobFolder(self._root, job)

        def work() -> str:
            digest = hashlib.sha256(data).hexdigest()
            with folder.storing():
                if folder.refresh(digest):
                    return digest
            new = folder.new_file()
            try:
                with new.open("xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                with folder.storing():
                    folder.install(new, digest)
            finally:
                new.unlink(missing_ok=True)
            return digest

        return await self._run(work)

    async def get(self, job: JobId, digest: str, offset: int = 0, length: int = -1) -> bytes:
        """See BlobStore.get."""
        if offset < 0 or length < -1:
            raise refusals.impossible_range(offset, length)
        path = _JobFolder(self._root, job).blob(digest)

        def work() -> bytes:
            try:
                with path.open("rb") as file:
                    file.seek(offset)
                    return file.read(length)
            except FileNotFoundError as error:
                raise refusals.unknown_blob(job, digest) from error

        return await self._run(work)

    async def size(self, job: JobId, digest: str) -> int | None:
        """See BlobStore.size."""
        path = _JobFolder(self._root, job).blob(digest)

        def work() -> int | None:
            try:
                return path.stat().st_size
            except FileNotFoundError:
                return None

        return await self._run(work)

    async def stage(self, job: JobId, transfer: str, offset: int, data: bytes) -> int:
        """See BlobStore.stage."""
        path = _JobFolder(self._root, job).transfer(transfer)

        def work() -> int:
            with _locked_file(path, create=offset == 0) as descriptor:
                staged = 0 if descriptor is None else os.fstat(descriptor).st_size
                if descriptor is None or staged != offset:
                    raise refusals.wrong_offset(transfer, offset, staged)
                try:
                    _write_all(descriptor, data, offset)
                except OSError:
                    # A disk that ran full took a part of the chunk; the next attempt begins where this one did.
                    os.ftruncate(descriptor, offset)
                    raise
            return offset + len(data)

        return await self._run(work)

    async def staged(self, job: JobId, transfer: str) -> int:
        """See BlobStore.staged."""
        path = _JobFolder(self._root, job).transfer(transfer)

        def work() -> int:
            try:
                return path.stat().st_size
            except FileNotFoundError:
                return 0

        return await self._run(work)

    async def commit(self, job: JobId, transfer: str, digest: str) -> None:
        """See BlobStore.commit.

        The file is hashed in pieces under its lock, so what is installed is what was checked.
        """
        folder = _JobFolder(self._root, job)
        path = folder.transfer(transfer)

        def work() -> None:
            with _locked_file(path) as descriptor:
                with folder.storing():
                    if folder.refresh(digest):
                        path.unlink(missing_ok=True)
                        return
                found = _sha256(descriptor) if descriptor is not None else hashlib.sha256().hexdigest()
                if descriptor is None or found != digest:
                    path.unlink(missing_ok=True)
                    raise refusals.digest_mismatch(transfer, digest, found)
                os.fsync(descriptor)
                with folder.storing():
                    folder.install(path, digest)

        await self._run(work)

    async def discard(self, job: JobId, transfer: str) -> None:
        """See BlobStore.discard."""
        path = _JobFolder(self._root, job).transfer(transfer)

        def work() -> None:
            with _locked_file(path) as descriptor:
                if descriptor is not None:
                    path.unlink(missing_ok=True)

        await self._run(work)

    async def delete(self, job: JobId, digests: Collection[str]) -> None:
        """See BlobStore.delete."""
        folder = _JobFolder(self._root, job)
        paths = [folder.blob(digest) for digest in digests]

        def work() -> None:
            for path in paths:
                path.unlink(missing_ok=True)

        await self._run(work)

    async def sweep(self, job: JobId, keep: Collection[str], older_than_s: float) -> int:
        """See BlobStore.sweep."""
        folder = _JobFolder(self._root, job)
        kept = frozenset(keep)

        def work() -> int:
            if not folder.path.is_dir():
                return 0
            deleted = 0
            oldest_s = folder.now_s() - older_than_s
            for path in folder.blob_files():
                # The age is read again under the lock: somebody may just have stored the same bytes.
                if path.name not in kept and _is_older(path, oldest_s):
                    with folder.sweeping():
                        if _is_older(path, oldest_s):
                            path.unlink(missing_ok=True)
                            deleted += 1
            for path in folder.transfer_files():
                with _locked_file(path) as descriptor:
                    if descriptor is not None and os.fstat(descriptor).st_mtime <= oldest_s:
                        path.unlink(missing_ok=True)
                        deleted += 1
            return deleted

        return await self._run(work)


class _JobFolder:
    """Where the files of one job are. Ids and digests are checked here, so no text from outside becomes a path."""

    def __init__(self, root: Path, job: JobId) -> None:
        self.path = root / parse_job_id(job)
        self._blobs = self.path / "blobs"
        self._transfers = self.path / "transfers"

    def blob(self, digest: str) -> Path:
        """Path of a blob. Raises INVALID_ARGUMENT for what is no SHA-256."""
        if not _DIGEST.fullmatch(digest):
            raise refusals.impossible_digest(digest)
        return self._blobs / digest[:2] / digest

    def transfer(self, name: str) -> Path:
        """Path of a transfer; its name may hold anything, slashes too."""
        return self._transfers / hashlib.sha256(name.encode()).hexdigest()

    def new_file(self) -> Path:
        """An unused path on the same file system; swept by age like a transfer if its writer dies."""
        self._transfers.mkdir(parents=True, exist_ok=True)
        return self._transfers / f"new-{secrets.token_hex(16)}"

    def blob_files(self) -> Iterator[Path]:
        """All blobs."""
        yield from self._blobs.glob("??/*")

    def transfer_files(self) -> Iterator[Path]:
        """All transfers and files in the making."""
        yield from self._transfers.glob("*")

    def refresh(self, digest: str) -> bool:
        """Make a blob young again; False when there is none."""
        try:
            os.utime(self.blob(digest))
        except FileNotFoundError:
            return False
        return True

    def install(self, file: Path, digest: str) -> None:
        """Make a file whose bytes are on disk the blob `digest`, all at once."""
        target = self.blob(digest)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.utime(file)
        file.replace(target)
        for folder in (target.parent, self._blobs, self.path):
            _fsync_folder(folder)

    def now_s(self) -> float:
        """The time that the file system gives to a file written now: the clock of all ages."""
        probe = self.new_file()
        try:
            probe.touch()
            return probe.stat().st_mtime
        finally:
            probe.unlink(missing_ok=True)

    @contextlib.contextmanager
    def storing(self) -> Iterator[None]:
        """No sweep deletes meanwhile."""
        with self._lock(fcntl.LOCK_SH):
            yield

    @contextlib.contextmanager
    def sweeping(self) -> Iterator[None]:
        """Nobody stores meanwhile."""
        with self._lock(fcntl.LOCK_EX):
            yield

    @contextlib.contextmanager
    def _lock(self, kind: int) -> Iterator[None]:
        self.path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            _wait_for_lock(descriptor, kind)
            yield
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _locked_file(path: Path, create: bool = False) -> Iterator[int | None]:
    """A descriptor of the file, locked against other threads and replicas; None when there is no such file."""
    if create:
        path.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0)
    deadline = time.monotonic() + _LOCK_S
    while True:
        try:
            descriptor = os.open(path, flags, 0o644)
        except FileNotFoundError:
            yield None
            return
        try:
            _wait_for_lock(descriptor, fcntl.LOCK_EX)
            if not _is_at(path, descriptor):
                # Committed or dropped while we waited for the lock: look again at what the name stands for now.
                if time.monotonic() > deadline:
                    raise TimeoutError(errno.ETIMEDOUT, "the file keeps changing", str(path))
                continue
            yield descriptor
            return
        finally:
            os.close(descriptor)


def _wait_for_lock(descriptor: int, kind: int) -> None:
    deadline = time.monotonic() + _LOCK_S
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_LOCK_PAUSE_S)


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        there, here = path.stat(), os.fstat(descriptor)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


def _is_older(path: Path, oldest_s: float) -> bool:
    try:
        return path.stat().st_mtime <= oldest_s
    except FileNotFoundError:
        return False


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _sha256(descriptor: int) -> str:
    hashed = hashlib.sha256()
    offset = 0
    while piece := os.pread(descriptor, _READ_BYTES, offset):
        hashed.update(piece)
        offset += len(piece)
    return hashed.hexdigest()


def _fsync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
