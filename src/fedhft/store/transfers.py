"""Where bytes wait until they are complete: what every back end of transfers can do."""

from __future__ import annotations

from typing import Protocol

from fedhft.ids import JobId


class TransferStore(Protocol):
    """Half-received bytes, each known by its job and a name, that become a blob of the same store.

    Separate from BlobStore because not every blob back end can hold them: callers stage pieces of any size, about
    512 KiB, and S3, for one, accepts no part of less than 5 MiB. So blobs may be in one back end and transfers in
    another, which promises:
    * all replicas see the same transfers, so a stream that broke at one goes on at any other;
    * staging is one step: of pieces that race for an offset one is taken;
    * what `commit` makes a blob is what it has checked, whoever stages or discards meanwhile;
    * `commit` drops the transfer only once the blob is stored, so it can be repeated when its answer was lost. Within
      one back end both are one step (a rename); across two, `BlobStore.put` comes first.

    There is no ping and no close: transfers are in the store's Redis or beside the blobs, and checked and closed there.
    """

    async def stage(self, job: JobId, transfer: str, offset: int, data: bytes) -> int:
        """Append to a transfer; returns bytes staged. Raises WRONG_OFFSET when offset is not what is staged so far."""
        ...

    async def staged(self, job: JobId, transfer: str) -> int:
        """Bytes staged so far; 0 when unknown."""
        ...

    async def commit(self, job: JobId, transfer: str, digest: str) -> None:
        """Turn a transfer into the blob `digest`; idempotent once done.

        When the blob is there already, it counts as just stored and the transfer is dropped, whatever it holds.
        Raises DIGEST_MISMATCH and drops the transfer when it holds other bytes.
        """
        ...

    async def discard(self, job: JobId, transfer: str) -> None:
        """Drop a transfer, if there is one."""
        ...

    async def sweep(self, job: JobId, older_than_s: float) -> int:
        """Drop transfers to which nothing was added for the given time; returns how many."""
        ...
