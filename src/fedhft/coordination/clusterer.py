"""The clusterer as the coordinator sees it: over gRPC in the aggregator, in the same process in `simulate`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from fedhft.ids import JobId


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
