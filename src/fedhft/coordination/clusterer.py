"""The clusterer as the coordinator sees it: over gRPC in the aggregator, in the same process in `simulate`."""

from __future__ import annotations

from typing import Protocol

from fedhft.ids import JobId


class Clusterer(Protocol):
    """Publishes memberships to the store, from the signatures in it."""

    async def update_memberships(self, job: JobId, expected_version: int, after_round: int) -> None:
        """Fit and publish version expected_version + 1, for the rounds after `after_round`.

        Raises FedhftError when it cannot; the old memberships stand then.
        """
        ...
