"""The directory that blobs and transfers share: its files, its locks, and threads for work on them.

It is on a disk, or on a volume shared by several replicas.

    <root>/fedhft-store                                whose it is (see blob_root)
    <root>/<job>/blobs/<first two digits>/<digest>     complete blobs; a file here is whole and on disk
    <root>/<job>/transfers/<SHA-256 of the name>       half-received transfers (names never become paths)
    <root>/<job>/transfers/new-<random>                blobs being written
    <root>/<job>/lock                                  held exclusively by a sweep of blobs, shared by writers of blobs

Replicas agree by file locks on the transfer (append, commit, discard) and on the job's lock file (storing against
sweeping). Ages are differences of file times, so clocks of replicas need not agree with each other.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import hashlib
import itertools
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from fedhft.ids import JobId, parse_job_id
from fedhft.store import refusals
from fedhft.store.blob_root import StoreIdentity, check, mark

Answer = TypeVar("Answer")

_DIGEST = re.compile(r"[0-9a-f]{64}")
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_THREADS = 8
_ANSWER_S = 60.0
_LOCK_S = 30.0
_LOCK_PAUSE_S = 0.005
_NEW = "new-"


class Directory:
    """The root folder, and the few threads in which work on its files runs, each call bounded in time."""

    def __init__(self, root: Path, identity: StoreIdentity | None = None) -> None:
        self.root = root
        self._identity = identity
        self._store: str | None = None
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="fedhft-blobs")

    def job(self, job: JobId) -> JobFolder:
        """The folder of a job. Raises INVALID_ARGUMENT for what is not a job id."""
        return JobFolder(self.root / parse_job_id(job))

    async def run(self, work: Callable[[], Answer]) -> Answer:
        """Run file work in a thread, on the root that carries the store's id. Raises STORE_UNAVAILABLE, STORE_FULL."""
        if self._identity is not None and self._store is None:
            store, marked = await self._identity.read()
            if not marked:
                await self._run(lambda: mark(self.root, store))
                await self._identity.marked()
            self._store = store
        return await self._run(lambda: self._on_the_right_root(work))

    def _on_the_right_root(self, work: Callable[[], Answer]) -> Answer:
        if self._store is None:
            return work()
        check(self.root, self._store)
        answer = work()
        check(self.root, self._store)  # what was written meanwhile into an empty mount point is not acknowledged
        return answer

    async def _run(self, work: Callable[[], Answer]) -> Answer:
        try:
            async with asyncio.timeout(_ANSWER_S):
                return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except TimeoutError as error:
            raise refusals.unavailable(f"dir:{self.root}", f"no answer in {_ANSWER_S:.0f} s") from error
        except OSError as error:
            if error.errno in _NO_ROOM:
                raise refusals.full(f"dir:{self.root}", f"has no room left ({error.strerror})") from error
            raise refusals.unavailable(f"dir:{self.root}", f"cannot be used ({error})") from error

    def close(self) -> None:
        """Let the threads end when their work is done."""
        self._threads.shutdown(wait=False)


class JobFolder:
    """Where the files of one job are.

    Digests are checked and names hashed here, so no text from outside becomes a path.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._blobs = self.path / "blobs"
        self._transfers = self.path / "transfers"

    def blob(self, digest: str) -> Path:
        """Path of a blob. Raises INVALID_ARGUMENT for what is not a SHA-256."""
        if not _DIGEST.fullmatch(digest):
            raise refusals.impossible_digest(digest)
        return self._blobs / digest[:2] / digest

    def transfer(self, name: str) -> Path:
        """Path of a transfer; its name may hold anything, slashes too."""
        return self._transfers / hashlib.sha256(name.encode()).hexdigest()

    def new_file(self) -> Path:
        """An unused path on the same file system; the sweep of blobs deletes it if its writer dies."""
        self._transfers.mkdir(parents=True, exist_ok=True)
        return self._transfers / f"{_NEW}{secrets.token_hex(16)}"

    def blob_files(self) -> Iterator[Path]:
        """All blobs."""
        yield from self._blobs.glob("??/*")

    def new_files(self) -> Iterator[Path]:
        """All blobs being written, or left unfinished."""
        yield from self._transfers.glob(f"{_NEW}*")

    def transfer_files(self) -> Iterator[Path]:
        """All transfers."""
        yield from (path for path in self._transfers.glob("*") if not path.name.startswith(_NEW))

    def refresh(self, digest: str) -> bool:
        """Count a blob as just stored; False when it is absent."""
        try:
            os.utime(self.blob(digest))
        except FileNotFoundError:
            return False
        return True

    def install(self, file: Path, digest: str) -> None:
        """Make a file whose bytes are on disk the blob `digest`, in one step."""
        target = self.blob(digest)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.utime(file)
        file.replace(target)
        for folder in (target.parent, self._blobs, self.path):
            _fsync_folder(folder)

    def delete_some(self, most: int) -> bool:
        """Delete up to `most` files of the job; True when nothing of it is left."""
        files = [*itertools.islice(itertools.chain(self.blob_files(), self._transfers.glob("*")), most)]
        for file in files:
            file.unlink(missing_ok=True)
        if len(files) == most or not self.path.is_dir():
            return len(files) < most
        (self.path / "lock").unlink(missing_ok=True)
        for folder in (*self._blobs.glob("??"), self._blobs, self._transfers, self.path):
            with contextlib.suppress(FileNotFoundError):
                folder.rmdir()
        return True

    def now_s(self) -> float:
        """The time that the file system gives to a file written now: all ages are measured from it."""
        probe = self.new_file()
        try:
            probe.touch()
            return probe.stat().st_mtime
        finally:
            probe.unlink(missing_ok=True)

    @contextlib.contextmanager
    def storing(self) -> Iterator[None]:
        """While a blob is stored: no sweep of blobs deletes anything."""
        with self._lock(fcntl.LOCK_SH):
            yield

    @contextlib.contextmanager
    def sweeping(self) -> Iterator[None]:
        """While a blob's age is read and it is deleted: no blob is stored."""
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
def locked_file(path: Path, create: bool = False) -> Iterator[int | None]:
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
                # Committed or dropped while we waited for the lock: look again at what the name refers to now.
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


def is_older(path: Path, oldest_s: float, or_as_old: bool = True) -> bool:
    """Whether a file was last written before `oldest_s` (or at it); False when it is gone."""
    try:
        written_s = path.stat().st_mtime
        return written_s < oldest_s or (or_as_old and written_s == oldest_s)
    except FileNotFoundError:
        return False


def delete_if_older(path: Path, oldest_s: float) -> bool:
    """Delete a file last written at or before `oldest_s`, under its lock; False when it is younger or gone."""
    with locked_file(path) as descriptor:
        if descriptor is None or os.fstat(descriptor).st_mtime > oldest_s:
            return False
        path.unlink(missing_ok=True)
        return True


def _fsync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
