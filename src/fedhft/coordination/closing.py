"""Closing a round: pin what was accepted, fold it, publish the version with its summary, then tidy."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping

from fedhft.aggregation.versions import expand_clusters
from fedhft.coordination.driven import Driven
from fedhft.coordination.folding import fold_figures, fold_round
from fedhft.coordination.history import RoundHistory
from fedhft.coordination.state_blobs import save_state
from fedhft.coordination.tidying import tidy
from fedhft.ids import ClientId
from fedhft.job import JobSpec
from fedhft.methods import Combine, SignatureKind
from fedhft.records import Phase, RoundHead, RoundRecord, Traffic, UpdateRecord, VersionRecord
from fedhft.rounds.reclustering import wants_memberships
from fedhft.rounds.summary import ClientReport, reports_of, results_of, summarise
from fedhft.telemetry import metrics

log = logging.getLogger(__name__)


async def close_round(driven: Driven, spec: JobSpec, seen: RoundHead | None, number: int, fence: int) -> None:
    """Pin, fold, publish, tidy. `seen`: the round as the decision to close it found it. Repeatable from any point."""
    job, store = driven.job, driven.store
    pinned = await store.begin_fold(job, number, fence)
    folding_since_ms = await store.now_ms()
    driven.reached("folding")
    current = await store.round(job)
    if current is None or current.number != number:
        return
    if seen is not None and seen.phase is Phase.COLLECTING:  # not when a fold is repeated
        _observe_phase("collecting", current.opened_ms, folding_since_ms)
    accepted = await store.updates(job, number)
    updates = {str(client): accepted[client] for client in pinned}
    reports = reports_of(current, updates)
    before = await _traffic(driven, updates)
    previous = await store.version(job)
    if current.evaluation:
        version = previous or VersionRecord(version=0, round=0, clusters=current.clusters)
        figures: dict[str, float] = {}
    else:
        async with driven.renewed_lease():
            version, figures = await _fold(driven, spec, current, pinned, updates, reports, previous)
    now_ms = await store.now_ms()
    entry = _entry(current, reports, before, figures, now_ms)
    driven.reached("folded")
    moved = {**before, **{report.client: report.traffic for report in reports}}
    first = await store.publish(job, number, version, entry.to_json(), fence, moved)
    driven.reached("published")
    if not first:
        return
    _observe_phase("folding", folding_since_ms, now_ms)
    driven.observe(entry)
    log.info(
        "round published",
        extra={"job": job, "round": number, "accepted": len(pinned), "seconds": round(entry.summary.seconds, 3)},
    )
    await tidy(driven, version, updates)


async def _fold(
    driven: Driven,
    spec: JobSpec,
    current: RoundRecord,
    pinned: tuple[ClientId, ...],
    updates: Mapping[str, UpdateRecord],
    reports: tuple[ClientReport, ...],
    previous: VersionRecord | None,
) -> tuple[VersionRecord, dict[str, float]]:
    job, store = driven.job, driven.store
    number = current.number
    if spec.method.combine is Combine.NONE:
        return VersionRecord(version=number, round=number, clusters=1), {}
    schema = await driven.schema()
    published = await fold_round(store, job, spec, schema, current, pinned, updates, previous)
    state = published.state
    if spec.method.signature is SignatureKind.UPDATE:
        await _note_signatures(driven, spec, number, reports)
    memberships = await driven.update_memberships(spec, after_round=number)
    if memberships is not None and memberships.clusters > state.state.clusters:
        state = expand_clusters(state, memberships.clusters)
    version = await save_state(store.blobs, job, schema, state, published.blobs, number)
    return version, fold_figures(published.report)


async def _note_signatures(driven: Driven, spec: JobSpec, number: int, reports: tuple[ClientReport, ...]) -> None:
    """Store the signatures that came with updates, where clients are clustered by those."""
    if wants_memberships(spec, number, await driven.store.memberships(driven.job)):
        for report in reports:
            if report.signature:
                await driven.store.set_signature(driven.job, ClientId(report.client), report.signature)


async def _traffic(driven: Driven, clients: Collection[str]) -> dict[str, Traffic]:
    """Byte counters as of the clients' last reports.

    Where an earlier release wrote the last entry, it holds those of all clients, newer than what the store has.
    """
    last = await driven.store.history(driven.job, -1)
    earlier = RoundHistory.from_json(last[0]).earlier_traffic if last else {}
    return {**await driven.store.traffic(driven.job, clients), **earlier}


def _observe_phase(phase: str, since_ms: int, until_ms: int) -> None:
    metrics.ROUND_PHASE_SECONDS.labels(phase=phase).observe((until_ms - since_ms) / 1000)


def _entry(
    current: RoundRecord,
    reports: tuple[ClientReport, ...],
    before: Mapping[str, Traffic],
    figures: dict[str, float],
    now_ms: int,
) -> RoundHistory:
    summary = summarise(current, reports, before, now_ms)
    for name, value in figures.items():
        setattr(summary, name, value)
    results = tuple(results_of(reports)) if current.evaluation else ()
    return RoundHistory(summary, results, current.evaluation)
