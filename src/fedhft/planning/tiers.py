"""Allocation by tiers: a job's classes of devices, and the plan that clients of each train."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from fedhft.adapter import AdapterSchema
from fedhft.bands import Band, between, thinned
from fedhft.errors import ErrorCode, FedhftError
from fedhft.job import JobSpec
from fedhft.job_sections import Tier
from fedhft.methods import Allocation, Combine, Start
from fedhft.plan import AdapterPlan
from fedhft.records import PlanTooLarge

MOST_MEMORY_BYTES = 1 << 50
"""Most memory that an agent may state."""


def tier_of(
    spec: JobSpec, client: str, memory_bytes: int, requested: str = "", too_large: Sequence[PlanTooLarge] = ()
) -> str:
    """Tier of a client: as the job says, else as the agent asks, else the largest it has memory for; and where it
    declined plans for their size, the largest of those that are smaller than each of them and not larger than that.

    memory_bytes: what the agent may use; 0 means not stated, which fits only tiers without `min_memory`.
    Raises FedhftError(INVALID_ARGUMENT) for a tier the job does not have, (PLAN_TOO_LARGE) when no tier is small
    enough.
    """
    first = _first_tier(spec, client, memory_bytes, requested)
    if not too_large:
        return first
    left = [
        name
        for name in spec.tiers
        if (name == first or _smaller(spec, name, first)) and all(_smaller(spec, name, one.tier) for one in too_large)
    ]
    if not left:
        raise too_large_for_all(spec, too_large)
    return max(sorted(left), key=lambda name: _size(spec, name))


def check_too_large(spec: JobSpec, too_large: Sequence[PlanTooLarge]) -> None:
    """Check what a client says of plans that it declined. Raises INVALID_ARGUMENT."""
    for one in too_large:
        if one.tier not in spec.tiers or not 0 < one.allowed < one.needed <= MOST_MEMORY_BYTES:
            raise FedhftError.field(
                ErrorCode.INVALID_ARGUMENT, "too_large", f"{one.tier[:64]}: {one.needed} of {one.allowed}",
                "is not a tier of the job that needs more than is allowed", "send what the plan needs",
            )  # fmt: skip
    if len({one.tier for one in too_large}) != len(too_large):
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, "too_large", len(too_large), "names a tier twice", "name each tier once"
        )


def too_large_for_all(spec: JobSpec, too_large: Sequence[PlanTooLarge]) -> FedhftError:
    """The refusal of a client that the job has no tier for."""
    least = min(too_large, key=lambda one: one.needed)
    return FedhftError.field(
        ErrorCode.PLAN_TOO_LARGE, "--memory", least.allowed,
        f"the plan of tier {least.tier} needs at least {least.needed} bytes, and no tier of the job is smaller",
        "give the agent more memory, or add a smaller tier",
    )  # fmt: skip


def _smaller(spec: JobSpec, name: str, other: str) -> bool:
    """Whether the plan of one tier takes less than another's: no more layers, rows and columns, and fewer of any."""
    mine, its = _size(spec, name), _size(spec, other)
    return mine != its and all(own <= limit for own, limit in zip(mine, its, strict=True))


def _size(spec: JobSpec, name: str) -> tuple[float, float, float]:
    """Layers, share of rows, and columns."""
    tier = tier_settings(spec, name)
    return depth_of(spec, name) or math.inf, tier.density, tier.rank or math.inf


def _first_tier(spec: JobSpec, client: str, memory_bytes: int, requested: str) -> str:
    if client in spec.client_tiers:
        return spec.client_tiers[client]
    if requested:
        if requested not in spec.tiers:
            raise FedhftError.field(
                ErrorCode.INVALID_ARGUMENT, "tier", requested, "the job has no such tier",
                f"choose one of {', '.join(sorted(spec.tiers))}",
            )  # fmt: skip
        return requested
    ranked = sorted(
        spec.tiers.items(),
        key=lambda item: (-item[1].min_memory, -item[1].density, -(item[1].rank or math.inf), item[0]),
    )
    for name, tier in ranked:
        if memory_bytes >= tier.min_memory or (memory_bytes == 0 and tier.min_memory == 0):
            return name
    raise FedhftError.field(
        ErrorCode.PLAN_TOO_LARGE, "memory", memory_bytes, "is below the min_memory of every tier of the job",
        f"give the agent at least {min(t.min_memory for t in spec.tiers.values())} bytes or add a smaller tier",
    )  # fmt: skip


def tier_settings(spec: JobSpec, name: str) -> Tier:
    """Settings of a tier; uniform allocation gives every tier full density and the job's depth."""
    return Tier() if spec.method.allocation is Allocation.UNIFORM else spec.tiers[name]


def depth_of(spec: JobSpec, name: str) -> int:
    """Layers with adapters in a tier, counted from the output; 0 means all."""
    return min((value for value in (tier_settings(spec, name).depth, spec.adapter.depth) if value > 0), default=0)


def plans(spec: JobSpec, schema: AdapterSchema, clients: Mapping[str, str]) -> dict[str, AdapterPlan]:
    """The plan of every client, in the order given. clients: client id -> its tier.

    A plan's depth is the smallest of what the tier, the job and the model allow. Both factors have gradients here;
    which of them a round trains is decided when it opens (`rounds.opening`).
    """
    return {client: _plan(spec, schema, tier) for client, tier in clients.items()}


def bands_of(spec: JobSpec, schema: AdapterSchema) -> tuple[Band, ...]:
    """The bands in which versions are published beside whole: one per depth that plans can have, thinned out where
    those are many. () where all plans are as deep, or versions are not factors of single layers.

    Fixed by job and schema: blobs of one version add to those of the last.
    """
    method = spec.method
    if not method.uses_adapters or method.start is Start.RESTART or method.combine is Combine.NONE:
        return ()
    depths = {plan.depth for plan in plans(spec, schema, {name: name for name in spec.tiers}).values()}
    if method.allocation is Allocation.CAPACITY:
        depths = set(range(1, max(depths) + 1))
    return between(thinned(depths)) if len(depths) > 1 else ()


def _plan(spec: JobSpec, schema: AdapterSchema, name: str) -> AdapterPlan:
    tier = tier_settings(spec, name)
    return AdapterPlan(
        tier=name,
        depth=min(value for value in (tier.depth, spec.adapter.depth, schema.layers) if value > 0),
        density=tier.density,
        epochs=spec.training.epochs,
        max_steps=spec.training.max_steps,
        train_a=True,
        train_b=True,
        rank=tier.rank,
    )
