"""A job as shown to people: one description for Get, List and Watch, for the demo, and for a simulation."""

from __future__ import annotations

from fedhft.coordination.history import RoundHistory
from fedhft.ids import JobId
from fedhft.records import JobRecord, MembershipRecord, Phase, RoundHead
from fedhft.store.interface import Store
from fedhft.v1 import clustering_pb2, jobs_pb2

HISTORY_PAGE = 256
"""Most rounds of a job's history in one message."""


async def describe(
    store: Store, record: JobRecord, *, history_after: int = 0, page: int | None = HISTORY_PAGE
) -> jobs_pb2.Job:
    """Everything about a job; of its history the `page` rounds after round `history_after` (None: all that follow)."""
    name = JobId(record.job)
    job = await outline(store, record)
    job.spec_json = record.spec_json
    memberships = await store.memberships(name)
    if memberships is not None:
        job.memberships.CopyFrom(memberships_message(name, memberships))
    until = job.rounds_done if page is None else min(job.rounds_done, history_after + page)
    if until > history_after:
        entries = await store.history(name, history_after, until)
        job.history.extend(RoundHistory.from_json(text).summary for text in entries)
    return job


async def outline(store: Store, record: JobRecord) -> jobs_pb2.Job:
    """Where a job stands, without its spec, history and memberships; with the results of its final evaluation."""
    name = JobId(record.job)
    look = await store.look(name, 0)
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
    )
    if current is None:
        return job
    if current.phase is not Phase.PUBLISHED:
        job.open_round = current.number
        job.asked = current.asked
        job.accepted = look.accepted
    elif current.evaluation:
        (text,) = await store.history(name, -1)
        entry = RoundHistory.from_json(text)
        job.final.CopyFrom(entry.summary)
        job.results.extend(entry.results)
    return job


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
    )
