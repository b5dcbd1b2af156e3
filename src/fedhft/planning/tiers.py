"""Allocation by tiers: a job's classes of devices, and the plan that clients of each train."""

from __future__ import annotations

from collections.abc import Mapping

from fedhft.adapter import AdapterSchema
from fedhft.errors import ErrorCode, FedhftError
from fedhft.job import JobSpec
from fedhft.job_sections import Tier
from fedhft.methods import Allocation
from fedhft.plan import AdapterPlan


def tier_of(spec: JobSpec, client: str, memory_bytes: int, requested: str = "") -> str:
    """Tier of a client: as the job says, else as the agent asks, else the largest it has memory for.

    memory_bytes: what the agent may use; 0 means not stated, which fits only tiers without `min_memory`.
    Raises FedhftError(INVALID_ARGUMENT) for a tier the job does not have, (PLAN_TOO_LARGE) when no tier is small
    enough.
    """
    if client in spec.client_tiers:
        return spec.client_tiers[client]
    if requested:
        if requested not in spec.tiers:
            raise FedhftError.field(
                ErrorCode.INVALID_ARGUMENT, "tier", requested, "the job has no such tier",
                f"choose one of {', '.join(sorted(spec.tiers))}",
            )  # fmt: skip
        return requested
    ranked = sorted(spec.tiers.items(), key=lambda item: (-item[1].min_memory, -item[1].density, item[0]))
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
    )
