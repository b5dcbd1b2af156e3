"""Transfers in a directory, beside the blobs that they become."""

from __future__ import annotations

import hashlib
import os

from fedhft.ids import JobId
from fedhft.store import refusals
from fedhft.store.directory import Directory, delete_if_older, locked_file

_READ_BYTES = 1 << 20


class DirectoryTransfers:
    """TransferStore in files of the directory that holds its blobs (DirectoryBlobs): a commit renames a file."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    async def stage(self, job: JobId, transfer: str, offset: int, data: bytes) -> int:
        """See TransferStore.stage."""
        path = self._directory.job(job).transfer(transfer)

        def work() -> int:
            with locked_file(path, create=offset == 0) as descriptor:
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

        return await self._directory.run(work)

    async def staged(self, job: JobId, transfer: str) -> int:
        """See TransferStore.staged."""
        path = self._directory.job(job).transfer(transfer)

        def work() -> int:
            try:
                return path.stat().st_size
            except FileNotFoundError:
                return 0

        return await self._directory.run(work)

    async def commit(self, job: JobId, transfer: str, digest: str) -> None:
        """See TransferStore.commit.

        The file is hashed in pieces under its lock, so what is installed is what was checked.
        """
        folder = self._directory.job(job)
        path = folder.transfer(transfer)

        def work() -> None:
            with locked_file(path) as descriptor:
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

        await self._directory.run(work)

    async def discard(self, job: JobId, transfer: str) -> None:
        """See TransferStore.discard."""
        path = self._directory.job(job).transfer(transfer)

        def work() -> None:
            with locked_file(path) as descriptor:
                if descriptor is not None:
                    path.unlink(missing_ok=True)

        await self._directory.run(work)

    async def sweep(self, job: JobId, older_than_s: float) -> int:
        """See TransferStore.sweep."""
        folder = self._directory.job(job)

        def work() -> int:
            if not folder.path.is_dir():
                return 0
            oldest_s = folder.now_s() - older_than_s
            return sum(delete_if_older(path, oldest_s) for path in folder.transfer_files())

        return await self._directory.run(work)


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
