"""Who takes part in a round, with which plan, and what is pinned when it opens."""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from fedhft import seeds
from fedhft.adapter import AdapterSchema
from fedhft.job import JobSpec
from fedhft.methods import Trained
from fedhft.plan import AdapterPlan
from fedhft.planning.tiers import plans
from fedhft.records import ClientRecord, MembershipRecord, Participant, Phase, RoundRecord
from fedhft.rounds.attendance import quorum_of, share
from fedhft.rounds.influence import masses


def asked_of(spec: JobSpec, live: Sequence[str], number: int, evaluation: bool) -> tuple[str, ...]:
    """Who takes part in a round: the final evaluation asks every live client, a round those that are sampled."""
    return tuple(sorted(live)) if evaluation else sampled(spec, live, number)


def sampled(spec: JobSpec, live: Sequence[str], number: int) -> tuple[str, ...]:
    """The clients sampled for round `number`: a seeded draw of ceil(sample * live), sorted."""
    if not live:
        return ()
    count = max(1, math.ceil(spec.rounds.sample * len(live) - 1e-9))
    return tuple(sorted(heapq.nsmallest(count, live, key=seeds.keyed("sample", spec.seed, number))))


def membership_row(memberships: MembershipRecord | None, client: str) -> tuple[float, ...]:
    """Weights of a client over clusters; uniform for one that has none yet, (1.0,) before there are clusters."""
    if memberships is None:
        return (1.0,)
    row = memberships.rows.get(client)
    return row if row is not None else (1.0 / memberships.clusters,) * memberships.clusters


def open_round(
    spec: JobSpec,
    schema: AdapterSchema,
    *,
    number: int,
    evaluation: bool,
    base_version: int,
    memberships: MembershipRecord | None,
    clients: Mapping[str, ClientRecord],
    asked: tuple[str, ...],
    now_ms: int,
    proven: int = 0,
) -> RoundRecord:
    """The record of a new round of the clients `asked`, with everything its result depends on.

    proven: how many of them have delivered in this job before.
    """
    allocated = plans(spec, schema, {client: clients[client].tier for client in asked})
    holders = sorted(client for client in asked if clients[client].has_shared_validation)
    shards = {client: shard for shard, client in enumerate(holders)}
    weights = masses({client: clients[client].samples for client in asked}, spec.limits.sample_cap)
    participants = {
        client: Participant(
            samples=clients[client].samples,
            plan=for_round(plan, spec, number, evaluation),
            memberships=membership_row(memberships, client),
            shard=shards.get(client),
            mass=weights[client],
        )
        for client, plan in allocated.items()
    }
    return RoundRecord(
        number=number,
        phase=Phase.COLLECTING,
        evaluation=evaluation,
        base_version=base_version,
        membership_version=memberships.version if memberships else 0,
        clusters=memberships.clusters if memberships else 1,
        opened_ms=now_ms,
        deadline_ms=now_ms + int(spec.rounds.deadline * 1000),
        target=len(asked) if evaluation else share(spec.rounds.target, len(asked)),
        quorum=quorum_of(spec.rounds, len(asked), proven),
        participants=participants,
    )


def for_round(plan: AdapterPlan, spec: JobSpec, number: int, evaluation: bool) -> AdapterPlan:
    """An allocated plan with the factors that have gradients in round `number`.

    The final evaluation sends nothing, so a method that alternates between the factors personalises with both at once.
    """
    both = evaluation and spec.method.trained in (Trained.ALTERNATE, Trained.INTERLEAVED)
    return replace(
        plan,
        train_a=both or spec.method.trains_a(number),
        train_b=both or spec.method.trains_b(number),
    )
