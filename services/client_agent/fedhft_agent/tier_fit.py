"""Whether this agent can carry out what a tier of a job gives it, asked when it joins and by the check before."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fedhft.methods import Allocation
from fedhft.plan import AdapterPlan
from fedhft.planning.peak import Unfit
from fedhft.planning.tiers import plans

if TYPE_CHECKING:
    from fedhft.training.worker import ClientWorker


@dataclass(frozen=True)
class TierFit:
    """layers: the most, of those the tier gives, that fit the memory; 0: the tier's plans have to be declined.

    lacking: what the whole plan lacks; None where it fits.
    """

    layers: int
    lacking: Unfit | None


def tier_fit(worker: ClientWorker, tier: str) -> TierFit:
    """Whether a tier's plan fits a client's memory. Where the server plans by capacity, fewer layers will do."""
    plan = plans(worker.spec, worker.schema, {worker.client: tier})[worker.client]
    lacking = worker.fit(plan)
    if lacking is None:
        return TierFit(plan.depth, None)
    fewer = worker.spec.method.allocation is Allocation.CAPACITY
    return TierFit(_deepest_below(worker, plan) if fewer else 0, lacking)


def _deepest_below(worker: ClientWorker, plan: AdapterPlan) -> int:
    """The most layers, fewer than the plan's, that fit the memory; 0 where not even one does."""
    fits, most = 0, plan.depth - 1
    while fits < most:
        middle = (fits + most + 1) // 2
        fits, most = (middle, most) if worker.fit(replace(plan, depth=middle)) is None else (fits, middle - 1)
    return fits
