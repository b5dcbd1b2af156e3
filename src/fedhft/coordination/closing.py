"""Closing a round: pin what was accepted, fold it, publish the version with its summary, then tidy."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping

from fedhft.aggregation.regrouping import Origins, known_origins, regroup
from fedhft.coordination.bounded import Bounded
from fedhft.coordination.capacity import learn_capacities
from fedhft.coordination.driven import Driven
from fedhft.coordination.folding import Folded, Note, fold_figures, fold_round
from fedhft.coordination.gauges import show_published
from fedhft.coordination.history import RoundHistory, best_of, last_entry
from fedhft.coordination.state_blobs import save_state
from fedhft.coordination.tidying import tidy
from fedhft.ids import ClientId, JobId
from fedhft.job import JobSpec
from fedhft.methods import Combine, SignatureKind
from fedhft.planning.tiers import bands_of
from fedhft.records import JobStatus, Phase, RoundHead, RoundRecord, Traffic, UpdateRecord, VersionRecord
from fedhft.rounds.best import best_after
from fedhft.rounds.decision import Extend, Fail, after_setting_aside
from fedhft.rounds.metric_figures import metrics_of_client, tell_metrics
from fedhft.rounds.reclustering import wants_memberships
from fedhft.rounds.summary import ClientReport, readable_reports, results_of, summarise
from fedhft.rounds.work import work_of
from fedhft.telemetry import metrics

log = logging.getLogger(__name__)


async def close_round(
    driven: Driven, spec: JobSpec, seen: RoundHead | None, number: int, fence: int, noting: bool = False
) -> None:
    """Pin, fold, publish, tidy. `seen`: the round as the decision to close it found it. Repeatable from any point.

    noting: whether to note in the store whose update is being folded, because earlier attempts ended.
    """
    job, store = driven.job, driven.store
    pinned = await store.begin_fold(job, number, fence)
    folding_since_ms = await store.now_ms()
    driven.reached("folding")
    current = await store.round(job)
    if current is None or current.number != number:
        return
    if seen is not None and seen.phase is Phase.COLLECTING:  # not when a fold is repeated
        _observe_phase(job, "collecting", current.opened_ms, folding_since_ms)
    accepted = await store.updates(job, number)
    aside = dict(await store.are_set_aside(job, number))
    updates = {str(client): accepted[client] for client in pinned if client not in aside}
    reports, unreadable = readable_reports(current, updates)
    previous = await store.version(job)
    figures: dict[str, float] = {}
    folded: Folded | None = None
    if current.evaluation:
        version = previous or VersionRecord(version=0, round=0, clusters=current.clusters)
        aside |= await _set_aside(driven, number, unreadable, fence)
    else:
        async with driven.renewed_lease():
            usable = {client: record for client, record in updates.items() if client not in unreadable}
            folded = await _fold(driven, spec, current, usable, previous, fence if noting else None)
            aside |= await _set_aside(driven, number, {**unreadable, **(folded.aside if folded else {})}, fence)
            sent = {client: accepted[client].digest for client in pinned}
            if aside and await _goes_another_way(driven, spec, current, sent, aside, fence):
                return
            reports = tuple(report for report in reports if report.client not in aside)
            version, figures = await _version(driven, spec, number, folded, reports)
    last = await last_entry(store, job)
    before = await _traffic(driven, updates, last)
    now_ms = await store.now_ms()
    bounded = Bounded(aside, folded.clipped if folded else {}, folded.opposed if folded else ())
    await _note_outcomes(driven, number, bounded, fence)
    entry = _entry(current, reports, before, figures, bounded, now_ms, spec)
    best = best_after(spec, best_of(last), entry.summary, current.base_version)
    if best is not None:
        entry.summary.best.CopyFrom(best)
    driven.reached("folded")
    moved = {**before, **{report.client: report.traffic for report in reports}}
    kept = driven.kept_rounds + int(current.evaluation)
    first = await store.publish(job, number, version, entry.to_json(), fence, moved, kept)
    driven.reached("published")
    if not first:
        return
    if not current.evaluation:
        absent = [client for client in current.participants if client not in accepted]
        await store.note_attendance(job, number, absent, list(accepted), fence)
        await learn_capacities(driven, spec, number, updates, reports, fence)
    _observe_phase(job, "folding", folding_since_ms, now_ms)
    metrics.UPDATES_OPPOSED.labels(federation=job).inc(len(bounded.opposed))
    metrics.UPDATES_CLIPPED.labels(federation=job).inc(len(bounded.clipped))
    show_published(job, entry, reports)
    driven.observe(entry)
    log.info(
        "round published",
        extra={"job": job, "round": number, "accepted": len(reports), "seconds": round(entry.summary.seconds, 3)},
    )
    await tidy(driven, version.version, accepted.values(), fence, best=best.version if best is not None else 0)


async def _set_aside(driven: Driven, number: int, reasons: Mapping[str, str], fence: int) -> Mapping[str, str]:
    """Note in the store what this fold leaves out, so that its repetition leaves out the same; returns it."""
    if reasons:
        await driven.store.set_aside(driven.job, number, reasons, fence)
        metrics.UPDATES_SET_ASIDE.labels(federation=driven.job).inc(len(reasons))
        for client, reason in sorted(reasons.items()):
            fields = {"job": driven.job, "round": number, "client": client}
            log.error("update set aside: %s", reason, extra=fields)
    return reasons


async def _note_outcomes(driven: Driven, number: int, bounded: Bounded, fence: int) -> None:
    """Leave word for the clients whose updates are not folded as they were: before the round moves on, or a holder that
    dies in between would leave them without. Agents are told once another round opens, or the job ends.
    """
    if outcomes := bounded.outcomes(number):
        await driven.store.note_outcomes(driven.job, outcomes, fence)


async def _goes_another_way(
    driven: Driven,
    spec: JobSpec,
    current: RoundRecord,
    sent: Mapping[ClientId, str],
    aside: Mapping[str, str],
    fence: int,
) -> bool:
    """Collect again, or end the job, when too few usable updates are left. sent: digests of the pinned updates."""
    left = len(sent) - len(aside)
    decision = after_setting_aside(spec, current.head, left, await driven.store.now_ms())
    mark = await driven.store.blobs.mark(driven.job)
    if decision is not None:
        await _note_outcomes(driven, current.number, Bounded(aside, {}, ()), fence)
    match decision:
        case Extend(number, deadline_ms):
            # Who trains again from the same start may send the same bytes, which are not stored over damaged ones. The
            # mark is older than the last proof of the lease, so what a later holder let in again is newer and stays.
            usable = {digest for client, digest in sent.items() if client not in aside}
            spoilt = {digest for digest in sent.values() if digest} - usable
            await driven.store.blobs.delete(driven.job, spoilt, mark)
            log.warning("round collected again", extra={"job": driven.job, "round": number, "usable": left})
            await driven.store.reopen_round(driven.job, number, deadline_ms, fence)
            return True
        case Fail(reason):
            log.error("job failed: %s", reason, extra={"job": driven.job})
            running = [JobStatus.RUNNING, JobStatus.EVALUATING]
            await driven.store.set_status(driven.job, JobStatus.FAILED, reason, running, fence)
            return True
    return False


async def _fold(
    driven: Driven,
    spec: JobSpec,
    current: RoundRecord,
    updates: Mapping[str, UpdateRecord],
    previous: VersionRecord | None,
    noted_under: int | None,
) -> Folded | None:
    """The fold; None for a method that shares nothing. noted_under: the fence to note each update's turn under."""
    if spec.method.combine is Combine.NONE:
        return None

    return await fold_round(
        driven.store, driven.job, spec, await driven.schema(), current, sorted(updates), updates, previous,
        None if noted_under is None else Note(driven.store, driven.job, noted_under), driven.reached,
        driven.decoded,
    )  # fmt: skip


async def _version(
    driven: Driven, spec: JobSpec, number: int, folded: Folded | None, reports: tuple[ClientReport, ...]
) -> tuple[VersionRecord, dict[str, float]]:
    """The version to publish, its blobs stored, with the memberships of the next round."""
    if folded is None:
        return VersionRecord(version=number, round=number, clusters=1), {}
    state = folded.published.state
    if spec.method.signature is SignatureKind.UPDATE:
        await _note_signatures(driven, spec, number, reports)
    memberships = await driven.update_memberships(spec, after_round=number)
    origins: Origins = ()
    if memberships is not None and memberships.clusters != state.state.clusters:
        origins = known_origins(state.state.clusters, memberships.clusters, memberships.origins)
        state = regroup(state, origins, spec.server.adaptivity**2)
        fields = {"job": driven.job, "round": number, "origins": origins}
        log.info("number of clusters changed", extra=fields)
    schema = await driven.schema()
    version = await save_state(
        driven.store.blobs, driven.job, schema, state, folded.published.blobs, number, origins, bands_of(spec, schema)
    )
    return version, fold_figures(folded.published.report)


async def _note_signatures(driven: Driven, spec: JobSpec, number: int, reports: tuple[ClientReport, ...]) -> None:
    """Store the signatures that came with updates, where clients are clustered by those."""
    if wants_memberships(spec, number, await driven.store.memberships(driven.job)):
        for report in reports:
            if report.signature:
                await driven.store.set_signature(driven.job, ClientId(report.client), report.signature)


async def _traffic(driven: Driven, clients: Collection[str], last: RoundHistory | None) -> dict[str, Traffic]:
    """Byte counters as of the clients' last reports.

    Where an earlier release wrote the last entry, it holds those of all clients, newer than what the store has.
    """
    earlier = last.earlier_traffic if last is not None else {}
    return {**await driven.store.traffic(driven.job, clients), **earlier}


def _observe_phase(job: JobId, phase: str, since_ms: int, until_ms: int) -> None:
    seconds = max(0, until_ms - since_ms) / 1000
    metrics.ROUND_PHASE_SECONDS.labels(federation=job, phase=phase).observe(seconds)


def _entry(
    current: RoundRecord,
    reports: tuple[ClientReport, ...],
    before: Mapping[str, Traffic],
    figures: dict[str, float],
    bounded: Bounded,
    now_ms: int,
    spec: JobSpec,
) -> RoundHistory:
    summary, task = summarise(current, reports, before, now_ms), spec.task
    work = work_of(reports, spec.training.batch_size)
    if work is not None:
        summary.work.CopyFrom(work)
    for name, value in figures.items():
        setattr(summary, name, value)
    bounded.tell(current, summary)
    tell_metrics(summary, task, reports)
    results = tuple(results_of(reports)) if current.evaluation else ()
    for result, report in zip(results, reports, strict=False):
        result.metrics.extend(metrics_of_client(report, task))
    return RoundHistory(summary, results, current.evaluation)
