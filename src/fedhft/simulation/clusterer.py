"""The clusterer of a simulation: in this process, without sockets."""

from __future__ import annotations

from fedhft.coordination.memberships import publish_memberships
from fedhft.ids import JobId
from fedhft.store.interface import Store


class LocalClusterer:
    """The clusterer without sockets."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def update_memberships(self, job: JobId, expected_version: int, after_round: int) -> None:
        """See Clusterer."""
        await publish_memberships(self._store, job, expected_version, after_round)
