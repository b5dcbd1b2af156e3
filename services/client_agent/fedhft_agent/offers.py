"""Which of the jobs on offer to take next."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from fedhft.ids import JobId
from fedhft.rpc.retry import Backoff
from fedhft.v1 import federation_pb2


@dataclass
class Offers:
    """Takes jobs in the order of submission; one that went wrong is not taken again for a while."""

    only: JobId | None = None
    """The only job to take; None takes any."""
    backoff: Backoff = field(default_factory=lambda: Backoff(first_s=30.0, longest_s=1800.0))
    clock: Callable[[], float] = time.monotonic
    _failures: dict[str, int] = field(default_factory=dict)
    _not_before: dict[str, float] = field(default_factory=dict)
    _reasons: dict[str, str] = field(default_factory=dict)

    def choose(self, offers: Sequence[federation_pb2.JobOffer]) -> federation_pb2.JobOffer | None:
        """The offer to take now, if any."""
        now = self.clock()
        for offer in offers:
            if self.only is not None and offer.job != self.only:
                continue
            if self._not_before.get(offer.job, now) <= now:
                return offer
        return None

    def failed(self, job: str, reason: str) -> tuple[float, bool]:
        """Note that a job could not be served, and why.

        Returns the seconds for which it is left alone, and whether the reason is another than the last time.
        """
        self._failures[job] = self._failures.get(job, 0) + 1
        seconds = self.backoff.bound_s(self._failures[job])
        self._not_before[job] = self.clock() + seconds
        news = self._reasons.get(job) != reason
        self._reasons[job] = reason
        return seconds, news

    def ended(self, job: str) -> None:
        """Forget a job that is over."""
        self._failures.pop(job, None)
        self._not_before.pop(job, None)
        self._reasons.pop(job, None)
