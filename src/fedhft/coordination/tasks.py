"""The task of one client, built from what was pinned when the round opened."""

from __future__ import annotations

from collections.abc import Sequence

from fedhft import seeds
from fedhft.aggregation.mixture import served
from fedhft.coordination.job_cache import CachedJob
from fedhft.job import JobSpec
from fedhft.methods import Combine
from fedhft.records import Outcome, OutcomeKind, Phase, RoundRecord
from fedhft.rounds.acceptance import largest_update
from fedhft.rounds.attendance import least_of
from fedhft.rounds.fetching import Fetches, Held, fetches, scopes_needed
from fedhft.rounds.shares import largest_share
from fedhft.v1 import adapter_pb2, federation_pb2

_KINDS = {
    OutcomeKind.SET_ASIDE: federation_pb2.Outcome.KIND_SET_ASIDE,
    OutcomeKind.OPPOSED: federation_pb2.Outcome.KIND_OPPOSED,
    OutcomeKind.CLIPPED: federation_pb2.Outcome.KIND_CLIPPED,
}


def with_outcome(
    answer: federation_pb2.NextTaskResponse, known: Outcome | None, seen: int
) -> federation_pb2.NextTaskResponse:
    """The answer, and with it the client's last outcome unless the client has seen it. seen: the round of its last."""
    if known is not None and known.round > seen:
        answer.outcome.round = known.round
        answer.outcome.kind = _KINDS[known.kind]
        answer.outcome.reason = known.reason
        answer.outcome.factor = known.factor
    return answer


def next_task(cached: CachedJob, client: str, held: Held) -> federation_pb2.NextTaskResponse | None:
    """The client's task in the open round; None when there is nothing for it (yet)."""
    current = cached.round
    if current is None or current.phase is not Phase.COLLECTING or client not in current.participants:
        return None
    if cached.schema is None:
        return None
    part = current.participants[client]
    plan = part.plan
    source = _view_source(cached, current, client, held)
    seed = seeds.seed_of("round", cached.spec.seed, current.number, client)
    learning_rate = cached.spec.learning_rate(current.number)
    if current.evaluation:
        final_full = cached.spec.evaluation.final_shared == "full"
        shard = _shard(cached, current, client)
        has_shared = shard.count > 0
        task = federation_pb2.EvaluateTask(
            round=current.number,
            view=source,
            plan=plan.message(),
            learning_rate=learning_rate,
            seed=seed,
            shared=federation_pb2.Shard(index=0, count=1) if final_full and has_shared else shard,
            shared_mass_weighted=shard,
        )
        return federation_pb2.NextTaskResponse(evaluate=task)
    every = cached.spec.evaluation.every
    evaluate = every > 0 and current.number % every == 0 and part.scores
    return federation_pb2.NextTaskResponse(
        train=federation_pb2.TrainTask(
            round=current.number,
            view=source,
            plan=plan.message(),
            learning_rate=learning_rate,
            seed=seed,
            evaluate=evaluate,
            shared=_shard(cached, current, client) if evaluate else None,
            max_update_bytes=largest_update(cached.spec, cached.schema, plan),
            quorum=least_of(cached.spec.rounds, current.head),
            share=largest_share(part, cached.cluster_masses, _trim(cached.spec)),
        )
    )


def _trim(spec: JobSpec) -> float:
    return spec.server.trim if spec.method.combine is Combine.TRIMMED_MEAN else 0.0


def _view_source(cached: CachedJob, current: RoundRecord, client: str, held: Held) -> federation_pb2.ViewSource:
    weights = served(current.participants[client].memberships, cached.spec.clustering.serve_above)
    warm = bool(cached.spec.adapter.origin)
    if warm and current.base_version == 0:
        weights = (1.0,)  # all clusters begin as the one adapter that there is
    needed = scopes_needed(weights)
    mass: tuple[float, ...] = ()
    if current.evaluation:
        mass = cached.mass_memberships
        needed = scopes_needed(mass)
    # Scored or trained, a client uses the layers of its plan and no others.
    depth = current.participants[client].plan.depth
    found = fetches(cached.versions, current.base_version, needed, held, depth, warm=warm)
    return view_of(current.base_version, found, weights, mass)


def view_of(
    version: int, found: Fetches, weights: Sequence[float], mass: Sequence[float] = ()
) -> federation_pb2.ViewSource:
    """What a client starts from, as a message. weights, mass: memberships, its own and of all."""
    blobs = [
        adapter_pb2.BlobRef(
            digest=bytes.fromhex(fetch.blob.digest),
            size=fetch.blob.size,
            kind=adapter_pb2.BLOB_KIND_SNAPSHOT if fetch.snapshot else adapter_pb2.BLOB_KIND_DELTA,
            scope=fetch.scope,
            version=fetch.version,
            band=fetch.band.message() if fetch.band is not None else None,
        )
        for fetch in found.blobs
    ]
    return federation_pb2.ViewSource(
        version=version,
        memberships=weights,
        blobs=blobs,
        mass_memberships=mass,
        depth=found.depth,
    )


def _shard(cached: CachedJob, current: RoundRecord, client: str) -> federation_pb2.Shard:
    shard = current.participants[client].shard
    return (
        federation_pb2.Shard(index=0, count=0)
        if shard is None
        else federation_pb2.Shard(index=shard, count=cached.shards)
    )
