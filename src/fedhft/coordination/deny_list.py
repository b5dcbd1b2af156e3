"""The deny list as a server knows it, so that looking at it costs no round trip.

The list is small and every call asks for it, so each process holds a copy and follows the store's change counter, which
reaches it within milliseconds. Revoking also forgets the agent's lease, which every call of an agent checks in the
store, and `enroll` reads the list itself: an agent whose certificate was revoked is refused at its next call even by a
replica that has not heard of it yet.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from fedhft.errors import ErrorCode, FedhftError
from fedhft.rpc.peer import PeerCertificate
from fedhft.store import refusals
from fedhft.store.interface import Store

log = logging.getLogger(__name__)

_WAIT_S = 30.0
_RETRY_S = 1.0


class DenyList:
    """A copy of the store's deny list, kept up to date while `following`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._serials: frozenset[str] | None = None

    def check(self, certificate: PeerCertificate) -> None:
        """Raises CERTIFICATE_REVOKED; STORE_UNAVAILABLE as long as the list could not be read."""
        if self._serials is None:
            raise FedhftError(
                ErrorCode.STORE_UNAVAILABLE, "the deny list of certificates could not be read yet; try again later"
            )
        if certificate.serial in self._serials:
            raise refusals.certificate_revoked(certificate.serial)

    async def refresh(self) -> None:
        """Read the list now. Raises STORE_UNAVAILABLE."""
        self._serials = frozenset(await self._store.revocations())

    @contextlib.asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """Keep the copy up to date; read it once before anything else, if the store answers."""
        with contextlib.suppress(FedhftError):
            await self.refresh()
        task = asyncio.create_task(self._follow(), name="deny-list")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _follow(self) -> None:
        seen = -1  # no counter has this value: the first wait returns at once
        while True:
            try:
                now = await self._store.wait_revocation(seen, _WAIT_S)
                if now != seen or self._serials is None:
                    await self.refresh()
                    seen = now
            except FedhftError as error:
                log.debug("cannot follow the deny list: %s", error)
                await asyncio.sleep(_RETRY_S)
