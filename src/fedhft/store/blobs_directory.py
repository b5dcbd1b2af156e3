"""Blobs in a directory, on a disk or a volume shared by several replicas: for large adapters."""

from __future__ import annotations

import os
import secrets
from collections.abc import Collection

from fedhft.ids import JobId
from fedhft.store import refusals
from fedhft.store.directory import Directory, delete_if_older, is_older
from fedhft.wire.digest import digest_of

_DELETED_AT_ONCE = 256


class DirectoryBlobs:
    """BlobStore in files. Closing it closes the directory, for transfers too."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    async def ping(self) -> None:
        """See BlobStore.ping."""

        def work() -> None:
            self._directory.root.mkdir(parents=True, exist_ok=True)
            probe = self._directory.root / f".probe-{secrets.token_hex(8)}"
            try:
                probe.write_bytes(b"1")
            finally:
                probe.unlink(missing_ok=True)

        await self._directory.run(work)

    async def close(self) -> None:
        """See BlobStore.close."""
        self._directory.close()

    async def put(self, job: JobId, data: bytes, digest: str | None = None) -> str:
        """See BlobStore.put."""
        folder = self._directory.job(job)

        def work() -> str:
            name = digest or digest_of(data)
            with folder.storing():
                if folder.refresh(name):
                    return name
            new = folder.new_file()
            try:
                with new.open("xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                with folder.storing():
                    folder.install(new, name)
            finally:
                new.unlink(missing_ok=True)
            return name

        return await self._directory.run(work)

    async def get(self, job: JobId, digest: str, offset: int = 0, length: int = -1) -> bytes:
        """See BlobStore.get."""
        if offset < 0 or length < -1:
            raise refusals.impossible_range(offset, length)
        path = self._directory.job(job).blob(digest)

        def work() -> bytes:
            try:
                with path.open("rb") as file:
                    file.seek(offset)
                    return file.read(length)
            except FileNotFoundError as error:
                raise refusals.unknown_blob(job, digest) from error

        return await self._directory.run(work)

    async def size(self, job: JobId, digest: str) -> int | None:
        """See BlobStore.size."""
        path = self._directory.job(job).blob(digest)

        def work() -> int | None:
            try:
                return path.stat().st_size
            except FileNotFoundError:
                return None

        return await self._directory.run(work)

    async def mark(self, job: JobId) -> float:
        """See BlobStore.mark."""
        return await self._directory.run(self._directory.job(job).now_s)

    async def delete(self, job: JobId, digests: Collection[str], before: float | None = None) -> None:
        """See BlobStore.delete."""
        folder = self._directory.job(job)
        paths = [folder.blob(digest) for digest in digests]

        def work() -> None:
            for path in paths:
                if before is None:
                    path.unlink(missing_ok=True)
                elif is_older(path, before):
                    # The age is read again under the lock: another writer may just have stored the same bytes.
                    with folder.sweeping():
                        if is_older(path, before, or_as_old=False):
                            path.unlink(missing_ok=True)

        await self._directory.run(work)

    async def sweep(self, job: JobId, keep: Collection[str], older_than_s: float, before: float | None = None) -> int:
        """See BlobStore.sweep."""
        folder = self._directory.job(job)
        kept = frozenset(keep)

        def work() -> int:
            if not folder.path.is_dir():
                return 0
            deleted = 0
            oldest_s = (folder.now_s() if before is None else before) - older_than_s
            for path in folder.blob_files():
                # The age is read again under the lock: another writer may just have stored the same bytes.
                if path.name not in kept and is_older(path, oldest_s):
                    with folder.sweeping():
                        if is_older(path, oldest_s):
                            path.unlink(missing_ok=True)
                            deleted += 1
            return deleted + sum(delete_if_older(path, oldest_s) for path in folder.new_files())

        return await self._directory.run(work)

    async def delete_job(self, job: JobId) -> None:
        """See BlobStore.delete_job. The transfers beside them go too."""
        folder = self._directory.job(job)
        while not await self._directory.run(lambda: folder.delete_some(_DELETED_AT_ONCE)):
            pass
