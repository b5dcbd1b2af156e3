"""The series of single federations (jobs): shown at zero when one begins, dropped a while after it ended."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from fedhft.rounds.patience import Failure
from fedhft.telemetry import metrics
from fedhft.telemetry.registry import EXPOSED_BY, known

KEPT_S = 900.0
"""How long the series of a job stay once it is over, so that its last values are scraped."""
MOST_ENDED = 100
"""Most jobs that are over whose series stay."""
CONTENT_CODES = (
    "malformed_update",
    "wrong_shape",
    "outside_plan",
    "non_finite",
    "norm_too_large",
    "update_too_large",
    "invalid_argument",
)
"""Refusals that speak against an update or its report, not against the moment at which it came."""
HOLDERS = (
    metrics.STATE,
    metrics.PAUSED,
    metrics.BLOCKED,
    metrics.ROUND,
    metrics.ROUNDS_PLANNED,
    metrics.ROUND_OPENED_SECONDS,
    metrics.ROUND_DEADLINE_SECONDS,
    metrics.ROUND_ASKED,
    metrics.ROUND_DELIVERED,
    metrics.ROUND_QUORUM,
    metrics.CLIENTS,
    metrics.SCORE,
    metrics.LOSS,
    metrics.TASK_METRIC,
    metrics.MAJORITY_SCORE,
    metrics.PLAN_DEPTH,
    metrics.PLAN_RANK_SUM,
    metrics.PLAN_DENSITY,
    metrics.PLAN_HORIZON_SECONDS,
    metrics.ROUND_WAITING,
    metrics.ROUND_CLIENT_SECONDS,
    metrics.PEAK_MEMORY_BYTES,
    metrics.CLUSTER_PARTICIPANTS,
    metrics.ROUND_MEMBERSHIPS_VERSION,
)
"""Families that only the holder of a job's lease exposes."""


def begin(federation: str, tiers: Collection[str]) -> None:
    """Show what will be counted of a job, at zero."""
    name, tiers = (federation,), (*tiers,)
    known(metrics.PAYLOAD_BYTES, federation=name, direction=("up",), payload=("update",), tier=tiers)
    known(metrics.PAYLOAD_BYTES, federation=name, direction=("down",), payload=("delta", "snapshot"), tier=tiers)
    for family in (
        metrics.PAYLOAD_FP32_BYTES,
        metrics.PAYLOAD_MODEL_BYTES,
        metrics.UPDATES_ACCEPTED,
        metrics.CLIENT_PEAK_MEMORY_BYTES,
        metrics.CLIENT_PREDICTED_MEMORY_BYTES,
        metrics.PLANS_TOO_LARGE,
        metrics.CLIENT_STEP_SECONDS,
    ):
        known(family, federation=name, tier=tiers)
    known(metrics.ROUNDS, federation=name, outcome=("published", "evaluated", "extended", "failed"))
    known(metrics.ROUND_PHASE_SECONDS, federation=name, phase=("collecting", "folding"))
    known(metrics.UPDATES_REFUSED, federation=name, code=CONTENT_CODES)
    for family in (metrics.UPDATES_SET_ASIDE, metrics.UPDATES_CLIPPED, metrics.UPDATES_OPPOSED):
        known(family, federation=name)
    known(metrics.STEPS_FAILED, federation=name, kind=[kind.value for kind in Failure])
    known(metrics.LEASE_HELD, federation=name)


def drop(federation: str, families: Iterable[object] | None = None) -> None:
    """Drop a job's series of these families; of all without any."""
    for family in EXPOSED_BY if families is None else families:
        if "federation" in getattr(family, "_labelnames", ()):
            family.remove_by_labels({"federation": federation})  # type: ignore[attr-defined]


def shown() -> set[str]:
    """The jobs that have series on this page."""
    found = set()
    for family in EXPOSED_BY:
        labels = getattr(family, "_labelnames", ())
        if "federation" in labels:
            place = labels.index("federation")
            found |= {values[place] for values in list(family._metrics)}  # type: ignore[attr-defined]
    return found


class EndedFederations:
    """Drops what is left of jobs that are over."""

    def __init__(self, clock: Callable[[], float], kept_s: float = KEPT_S, most: int = MOST_ENDED) -> None:
        """`clock`: seconds, never set back."""
        self._clock = clock
        self._kept_s = kept_s
        self._most = most
        self._ended: dict[str, float] = {}

    def sweep(self, alive: Collection[str]) -> None:
        """Drop the series of jobs that have not been among `alive` for a while; the longest gone go first."""
        now = self._clock()
        gone = shown() - {*alive}
        self._ended = {
            job: self._ended.get(job, now) for job in sorted(gone, key=lambda job: self._ended.get(job, now))
        }
        surplus = len(self._ended) - self._most
        for place, (job, since) in enumerate(list(self._ended.items())):
            if place < surplus or now - since >= self._kept_s:
                drop(job)
                del self._ended[job]
