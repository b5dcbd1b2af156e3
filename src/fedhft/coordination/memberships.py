"""New memberships: load the last ones from the store, fit the mixture, publish unless somebody else did.

The clusterer service puts this behind gRPC; `simulate` calls it in its own process.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedhft.adapter import Float32, Float64
from fedhft.cluster_choice import ClusterChoice
from fedhft.clustering import gaussian_mixture
from fedhft.clustering.choice import choose
from fedhft.clustering.resources import halves_with_resources, profiles_of, with_resources
from fedhft.errors import ErrorCode, FedhftError
from fedhft.ids import ClientId, JobId
from fedhft.job import load_canonical
from fedhft.planning.estimates import Capacity
from fedhft.records import ClientRecord, MembershipRecord
from fedhft.rounds.influence import masses
from fedhft.rounds.reclustering import wanted_clusters
from fedhft.rounds.summary import cluster_sizes
from fedhft.store.interface import Store
from fedhft.store.reading import reading
from fedhft.telemetry import metrics

log = logging.getLogger(__name__)

_DIGITS = 12
"""Of a data digest, kept to see changes."""

Outcome = tuple[gaussian_mixture.Fitted, ClusterChoice | None]
Fit = Callable[[], Outcome]
Runner = Callable[[Fit], Awaitable[Outcome]]
"""Runs the fit somewhere that does not block the event loop."""


@dataclass(frozen=True)
class FitFigures:
    """How a fit went, for people."""

    log_likelihood: float
    """Mean per client, nats."""
    dimensions: int
    """After PCA."""


async def publish_memberships(
    store: Store,
    job: JobId,
    expected_version: int,
    after_round: int,
    run: Runner = asyncio.to_thread,
) -> MembershipRecord:
    """Fit and publish version expected_version + 1, or return what another caller published since.

    The signatures are those of every joined client that has one, sampled this round or not.
    Raises FedhftError: INVALID_ARGUMENT when no client has a signature, or naming the client whose signature cannot
    be used; UNKNOWN_JOB, and the store's.
    """
    spec = load_canonical((await store.job(job)).spec_json)
    latest = await store.memberships(job)
    seen = latest.version if latest else 0
    if latest is not None and seen > expected_version:
        metrics.CLUSTERINGS.labels(outcome="lost").inc()
        return latest
    if seen < expected_version:
        raise _refused("expected_version", expected_version, f"the latest is {seen}", "ask for the latest first")
    previous = model_of(latest) if latest else None
    clients = {str(client): record for client, record in (await store.clients(job)).items()}
    signatures = checked_signatures(await store.signatures(job), len(clients))
    # Clients without a signature keep their memberships; those that have left the job do not.
    rows = {name: row for name, row in (latest.rows if latest else {}).items() if name in clients}
    by_halves = wanted_clusters(spec) == 0 and spec.method.clusters_by_anchors
    halves = checked_halves(await store.signature_halves(job), signatures) if by_halves else {}
    data = {name: _data_of(clients[name], halves.get(name)) for name in signatures if name in clients}
    if spec.clustering.by == "data+resources":
        known = await store.capacities(job, sorted(signatures))
        told = {name: _figures(known.get(name, Capacity())) for name in signatures}
        profiles = profiles_of(told)
        signatures, halves = with_resources(signatures, profiles), halves_with_resources(halves, profiles)
        data = {name: has + _device_of(told[name]) for name, has in data.items()}
    changed = {name for name, has in (latest.data if latest else {}).items() if data.get(name, has) != has}
    weights = masses({name: record.samples for name, record in clients.items()}, spec.limits.sample_cap)
    started = time.perf_counter()

    def fit() -> tuple[gaussian_mixture.Fitted, ClusterChoice | None]:
        clusters, choice = wanted_clusters(spec), None
        if by_halves:
            clusters, choice = choose(halves, data, latest, spec.clustering.maximum, after_round)
        certainty = None
        if choice is not None:
            certainty = choice.certainty if choice.says_something or previous is None else previous.confidence
        fitted = gaussian_mixture.update(
            signatures, previous, rows, spec.clustering, clusters, certainty=certainty, changed=changed, weights=weights
        )
        return fitted, choice

    fitted, choice = await run(fit)
    seconds = time.perf_counter() - started
    metrics.CLUSTERING_SECONDS.observe(seconds)
    record = MembershipRecord(
        version=expected_version + 1,
        round=after_round,
        clusters=fitted.clusters,
        rows=dict(fitted.rows),
        model=_text_of(fitted),
        confidence=fitted.model.confidence,
        origins=fitted.origins or (latest.origins if latest else ()),
        data=data,
        choice=choice,
    )
    if not await store.publish_memberships(job, record, expected_version):
        metrics.CLUSTERINGS.labels(outcome="lost").inc()
        winner = await store.memberships(job)
        if winner is None:
            raise FedhftError(ErrorCode.UNKNOWN_JOB, f"job = {job!r}: its memberships are gone; submit it again")
        return winner
    metrics.CLUSTERINGS.labels(outcome="published").inc()
    fields = {"job": job, "version": record.version, "sizes": sizes_of(record), "seconds": round(seconds, 3)}
    log.info("memberships published", extra=fields)
    return record


def checked_signatures(signatures: Mapping[ClientId, Float64], joined: int) -> dict[str, NDArray[np.float32]]:
    """Signatures (float32) by client, in ascending order of ids. joined: how many clients the job has.

    Raises FedhftError(INVALID_ARGUMENT) naming the client, or when no client has a signature.
    """
    signed = dict(sorted(signatures.items()))
    if not signed:
        raise _refused("clients", joined, "no client has a signature yet", "wait for the clients' signatures")
    length = len(next(iter(signed.values())))
    found: dict[str, NDArray[np.float32]] = {}
    for client, signature in signed.items():
        field = f"signature of client {client!r}"
        if len(signature) != length:
            raise _refused(
                field,
                f"{len(signature)} values",
                f"the first client's has {length}",
                "send a signature of that length",
            )
        values = np.asarray(signature, dtype=np.float32)
        wrong = np.flatnonzero(~np.isfinite(values))
        if wrong.size:
            position = int(wrong[0])
            raise _refused(f"{field}[{position}]", float(values[position]), "is not finite", "let the client rejoin")
        found[str(client)] = values
    return found


def checked_halves(
    halves: Mapping[ClientId, Float32], signatures: Mapping[str, NDArray[np.float32]]
) -> dict[str, Float32]:
    """Halves of those clients that have a signature of half that length, all finite; others do not vote."""
    return {
        str(client): both
        for client, both in sorted(halves.items())
        if client in signatures and len(both) == 2 * len(signatures[client]) and np.isfinite(both).all()
    }


def _data_of(client: ClientRecord, halves: Float32 | None) -> str:
    """What tells a client's data from other data, and a client that votes from one that does not."""
    return client.data_digest[:_DIGITS] + ("" if halves is None else "+")


def _figures(known: Capacity) -> tuple[float | None, ...]:
    """What devices are told apart by: seconds per layer-step, and bytes per second up and down."""
    step = None if known.forward is None or known.backward is None else known.forward + known.backward
    return step, known.up, known.down


def _device_of(figures: Sequence[float | None]) -> str:
    """What tells a device from another: its figures by factors of eight, so that noise seldom changes it."""
    return "".join(f"/{round(math.log(value, 8))}" if value else "/" for value in figures)


def model_of(record: MembershipRecord) -> gaussian_mixture.MixtureModel | None:
    """The fitted mixture kept with memberships; None when they came without one."""
    if not record.model:
        return None
    with reading("the mixture of a job's memberships"):
        return gaussian_mixture.MixtureModel.from_json(json.dumps(json.loads(record.model)["mixture"]))


def figures_of(record: MembershipRecord) -> FitFigures:
    """How the fit behind memberships went; zeros when there was none."""
    if not record.model:
        return FitFigures(0.0, 0)
    with reading("the mixture of a job's memberships"):
        kept = json.loads(record.model)
        return FitFigures(float(kept["log_likelihood"]), int(kept["dimensions"]))


def sizes_of(record: MembershipRecord) -> list[int]:
    """Clients whose largest membership is each cluster."""
    return cluster_sizes(record.rows.values(), record.clusters)


def _text_of(fitted: gaussian_mixture.Fitted) -> str:
    likelihood = fitted.log_likelihood if math.isfinite(fitted.log_likelihood) else 0.0
    kept = {
        "mixture": json.loads(fitted.model.to_json()),
        "log_likelihood": likelihood,
        "dimensions": fitted.dimensions,
    }
    return json.dumps(kept, separators=(",", ":"), sort_keys=True)


def _refused(field: str, value: object, problem: str, fix: str) -> FedhftError:
    return FedhftError.field(ErrorCode.INVALID_ARGUMENT, field, value, problem, fix)
