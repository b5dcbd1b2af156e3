"""A job as shown to people: one description for Get, List and Watch, for the demo, and for a simulation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from fedhft.cluster_choice import ClusterChoice
from fedhft.coordination.history import RoundHistory, best_of, last_entry
from fedhft.errors import ErrorCode, FedhftError
from fedhft.ids import JobId
from fedhft.job import stored_client_timeout
from fedhft.readings import Look
from fedhft.records import JobRecord, MembershipRecord, Phase, RoundHead
from fedhft.rounds.paging import HISTORY_PAGE, page_of
from fedhft.store.interface import Store
from fedhft.v1 import clustering_pb2, jobs_pb2


async def describe(
    store: Store, record: JobRecord, *, after: int = 0, last: int = 0, most: int | None = HISTORY_PAGE
) -> jobs_pb2.Job:
    """Everything about a job; of its history the rounds that `page_of` picks by the same words."""
    name = JobId(record.job)
    job = await outline(store, record)
    job.spec_json = record.spec_json
    memberships = await store.memberships(name)
    if memberships is not None:
        job.memberships.CopyFrom(memberships_message(name, memberships))
    done = job.rounds_done
    await _add_history(store, job, lambda kept_from: page_of(done, kept_from, after=after, last=last, most=most))
    return job


async def older_rounds(store: Store, record: JobRecord, *, before: int, after: int = 0, last: int = 0) -> jobs_pb2.Job:
    """A page of a job's history for callers who know the rest: name, status and rounds, without clients and spec."""
    head = (await store.look(JobId(record.job), 0)).round
    done = rounds_done(head)
    job = jobs_pb2.Job(job=record.job, status=record.status.value, rounds_done=done)
    await _add_history(store, job, lambda kept_from: page_of(done, kept_from, after=after, before=before, last=last))
    return job


async def picked_rounds(store: Store, job: JobId, rounds: Iterable[int]) -> list[jobs_pb2.RoundSummary]:
    """Figures of some rounds, ascending numbers given; those that are no longer kept are left out."""
    found: list[jobs_pb2.RoundSummary] = []
    for stretch in _stretches(rounds):
        entries = (await store.history(job, stretch.start - 1, stretch.stop - 1)).entries
        found.extend(RoundHistory.from_json(text).summary for text in entries)
    return found


def _stretches(rounds: Iterable[int]) -> Iterator[range]:
    """Ascending numbers as ranges without gaps, of a page at most."""
    current: range | None = None
    for number in rounds:
        if current is not None and number == current.stop and len(current) < HISTORY_PAGE:
            current = range(current.start, number + 1)
        else:
            if current is not None:
                yield current
            current = range(number, number + 1)
    if current is not None:
        yield current


async def _add_history(store: Store, job: jobs_pb2.Job, page_from: Callable[[int], range]) -> None:
    """Add a page of a job's history. page_from: the page, given the first round that is kept."""
    name = JobId(job.job)
    page = page_from(1)
    found = await store.history(name, page.start - 1, page.stop - 1)
    if found.kept_from > page.start:  # some of it, if not all, is no longer there
        page = page_from(found.kept_from)
        found = await store.history(name, page.start - 1, page.stop - 1)
    job.history_from = found.kept_from
    job.history.extend(RoundHistory.from_json(text).summary for text in found.entries)


async def outline(store: Store, record: JobRecord) -> jobs_pb2.Job:
    """Where a job stands, without its spec, history and memberships; with the results of its final evaluation."""
    name = JobId(record.job)
    look = await store.look(name, int(stored_client_timeout(record.spec_json) * 1000))
    current = look.round
    job = jobs_pb2.Job(
        job=record.job,
        status=record.status.value,
        reason=record.reason,
        paused="" if record.status.over else record.paused,
        blocked="" if record.status.over else record.blocked,
        rounds_done=rounds_done(current),
        clients=await store.client_ids(name),
        submitted_by=record.submitted_by,
        schema_pinned=record.schema_pinned,
        live=look.live,
        declined=look.declined,
    )
    if record.created_ms:  # 0 in a damaged record
        job.age_seconds = max(0, look.now_ms - record.created_ms) / 1000
    if current is None:
        return job
    entry = await _last_told(store, name)
    if (best := best_of(entry)) is not None:
        job.best.CopyFrom(best)
    if current.phase is not Phase.PUBLISHED:
        job.open_round = current.number
        job.asked = current.asked
        job.accepted = look.accepted
        job.open.CopyFrom(open_round(look, current))
    elif current.evaluation and entry is not None:
        job.final.CopyFrom(entry.summary)
        job.results.extend(entry.results)
    return job


async def _last_told(store: Store, job: JobId) -> RoundHistory | None:
    """The last entry of a job's history; none where it is damaged, because people are shown a damaged job too."""
    try:
        return await last_entry(store, job)
    except FedhftError as error:
        if error.code is not ErrorCode.DAMAGED_RECORD:
            raise
        return None


def open_round(look: Look, current: RoundHead) -> jobs_pb2.OpenRound:
    """What an open round waits for."""
    return jobs_pb2.OpenRound(
        round=current.number,
        phase=current.phase.value,
        evaluation=current.evaluation,
        asked=current.asked,
        accepted=look.accepted,
        target=current.target,
        quorum=current.quorum,
        extensions=current.extensions,
        seconds=max(0, look.now_ms - current.opened_ms) / 1000,
        seconds_left=(current.deadline_ms - look.now_ms) / 1000,
    )


def rounds_done(current: RoundHead | None) -> int:
    """Rounds published so far, the final evaluation not counted."""
    if current is None:
        return 0
    published = current.phase is Phase.PUBLISHED and not current.evaluation
    return current.number if published else current.number - 1


def memberships_message(job: JobId, record: MembershipRecord) -> clustering_pb2.Memberships:
    """Memberships as they travel, clients in ascending order."""
    return clustering_pb2.Memberships(
        job=job,
        version=record.version,
        clusters=record.clusters,
        rows=[clustering_pb2.Membership(client=client, weights=row) for client, row in sorted(record.rows.items())],
        round=record.round,
        confidence=record.confidence,
        choice=_choice_message(record.choice) if record.choice else None,
    )


def _choice_message(choice: ClusterChoice) -> clustering_pb2.ClusterChoice:
    return clustering_pb2.ClusterChoice(
        found=choice.found,
        voters=choice.voters,
        reliability=choice.reliability,
        says_something=choice.says_something,
        tried=[clustering_pb2.TriedClusters(**one.model_dump()) for one in choice.tried],
        held=choice.held,
        candidate=choice.candidate,
        times=choice.times,
        moved_round=choice.moved_round,
    )
