"""Who takes part in a round, with which plan, and what is pinned when it opens."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from fedhft import seeds
from fedhft.adapter import AdapterSchema
from fedhft.job import JobSpec
from fedhft.methods import Trained
from fedhft.plan import AdapterPlan, steps_of
from fedhft.planning.allocation import Candidate, within
from fedhft.planning.planned import Planned
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
    names = sorted(live)
    first = np.argsort(seeds.keyed(names, "sample", spec.seed, number), kind="stable")[:count]
    return tuple(names[place] for place in sorted(first))


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
    proven: Collection[str] = (),
    planned: Mapping[str, Planned] | None = None,
) -> RoundRecord:
    """The record of a new round of the clients `asked`, with everything its result depends on.

    proven: those among them that have delivered in this job before. planned: what capacity gives those among them whose
    devices were measured; the others train what their tiers say.
    """
    given = planned or {}
    offered = candidates(spec, schema, clients, asked)
    found = {client: within(spec, one, given.get(client), evaluation) for client, one in offered.items()}
    allocated = {client: plan for client, plan in found.items() if plan is not None}
    scoring = {client for client in allocated if evaluation or client not in given or given[client].scores}
    holders = sorted(client for client in scoring if clients[client].has_shared_validation)
    shards = {client: shard for shard, client in enumerate(holders)}
    weights = masses({client: clients[client].samples for client in allocated}, spec.limits.sample_cap)
    participants = {
        client: Participant(
            samples=clients[client].samples,
            plan=for_round(plan, spec, number, evaluation),
            memberships=membership_row(memberships, client),
            shard=shards.get(client),
            mass=weights[client],
            scores=client in scoring,
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
        target=len(allocated) if evaluation else share(spec.rounds.target, len(allocated)),
        quorum=quorum_of(spec.rounds, len(allocated), len(allocated.keys() & set(proven))),
        participants=participants,
    )


def candidates(
    spec: JobSpec, schema: AdapterSchema, clients: Mapping[str, ClientRecord], asked: Sequence[str]
) -> dict[str, Candidate]:
    """Those asked, as planning sees them: their weight, the steps of their epochs, and what their tier gives them."""
    by_tier = plans(spec, schema, {client: clients[client].tier for client in asked})
    weights = masses({client: clients[client].samples for client in asked}, spec.limits.sample_cap)
    rules = spec.training
    return {
        client: Candidate(
            mass=weights[client],
            steps=steps_of(clients[client].samples, rules.batch_size, rules.epochs, rules.max_steps),
            batches=steps_of(clients[client].samples, rules.batch_size, 1.0, 0),
            plan=plan,
        )
        for client, plan in by_tier.items()
    }


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
