"""The clusterer as the coordinator sees it: over gRPC in the aggregator, in the same process in `simulate`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from fedhft.ids import JobId
from fedhft.store.interface import Store


@dataclass(frozen=True)
class SignedClient:
    """One joined client with a signature."""

    client: str
    samples: int
    signature: tuple[float, ...]


class Clusterer(Protocol):
    """Publishes memberships into the store."""

    async def update_memberships(
        self, job: JobId, expected_version: int, clients: Sequence[SignedClient], clusters: int, after_round: int
    ) -> None:
        """Fit and publish version expected_version + 1; clusters 0 means auto.

        Raises FedhftError when it cannot; the old memberships stand then.
        """
        ...


class LocalClusterer:
    """The clusterer without sockets."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def update_memberships(
        self, job: JobId, expected_version: int, clients: Sequence[SignedClient], clusters: int, after_round: int
    ) -> None:
        """See Clusterer."""
        from fedhft.coordination.memberships import publish_memberships

        await publish_memberships(self._store, job, expected_version, clients, clusters, after_round)
