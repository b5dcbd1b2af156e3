"""What the page reads of the store. Jobs, rounds and clients come from the descriptions that the Jobs service answers
with (coordination/describe.py, coordination/roster.py), so that a browser and the command line show the same figures.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from fedhft.coordination.describe import describe, older_rounds, outline, picked_rounds
from fedhft.coordination.roster import Roster
from fedhft.ids import JobId
from fedhft.records import JobRecord, Topic
from fedhft.rounds.paging import thinned
from fedhft.store.interface import Store
from fedhft.v1 import jobs_pb2
from fedhft_aggregator.page import views
from fedhft_aggregator.page.kept import Kept

MOST_JOBS = 100
"""Jobs listed: those that are not over first, then the newest."""
RECENT_ROUNDS, SPREAD_ROUNDS = 120, 120
"""Rounds that charts show: so many of the last ones, and so many of all before them."""
TABLE_ROUNDS = 50
"""Rounds in one page of the table, and those whose bounded updates are listed."""
TABLE_CLIENTS = 100
"""Clients in one page of the table."""
_JOBS_S, _CLIENTS_S = 4.0, 2.0


class Readings:
    """Everything the page shows, read at most once a second whoever looks. Raises what the store raises."""

    def __init__(self, store: Store, kept: Kept | None = None) -> None:
        self._store = store
        self._roster = Roster(store)
        self._kept = kept or Kept()
        self._listed: dict[str, tuple[tuple[int, int], dict[str, Any]]] = {}
        """job -> (when it was created, its change counter), its heading: of jobs that are over."""

    async def jobs(self) -> dict[str, Any]:
        """The list of jobs, and how many there are."""
        return dict(await self._kept.get(("jobs",), self._jobs, _JOBS_S))

    async def job(self, job: JobId) -> dict[str, Any]:
        """All of one job that charts show: where it stands, and its rounds, thinned out where they are many."""
        return dict(await self._kept.get(("job", job), lambda: self._job(job)))

    async def news(self, job: JobId) -> dict[str, Any]:
        """Where a job stands and its last two rounds: what changes while it runs. Not kept: one follower asks."""
        record = await self._store.job(job)
        told = await describe(self._store, record, last=2)
        return await self._view(record, told, list(told.history))

    async def rounds(self, job: JobId, before: int) -> dict[str, Any]:
        """A page of the table of rounds: the newest of those before one (0: of all), ascending."""
        return dict(await self._kept.get(("rounds", job, before), lambda: self._rounds(job, before)))

    async def clients(self, job: JobId, after: str) -> dict[str, Any]:
        """A page of the table of clients: those after one, ascending by id."""
        return dict(await self._kept.get(("clients", job, after), lambda: self._clients(job, after), _CLIENTS_S))

    async def _jobs(self) -> dict[str, Any]:
        records = await self._records()
        # The name settles a tie, or jobs of one millisecond would change places from look to look.
        shown = sorted(records, key=lambda record: (record.status.over, -record.created_ms, record.job))[:MOST_JOBS]
        headings = [await self._heading(record) for record in shown]
        self._listed = {name: known for name, known in self._listed.items() if name in {one.job for one in shown}}
        return {"jobs": headings, "total": len(records)}

    async def _heading(self, record: JobRecord) -> dict[str, Any]:
        """A job in the list. One that is over is read again only when something about it changed."""
        stamp = (record.created_ms, await self._store.changes(JobId(record.job), Topic.PROGRESS))
        known = self._listed.get(record.job)
        if known is not None and known[0] == stamp:
            return known[1]
        view = views.heading(await outline(self._store, record), views.spec_of(record.spec_json))
        if record.status.over:
            self._listed[record.job] = (stamp, view)
        return view

    async def _records(self) -> list[JobRecord]:
        found: list[JobRecord] = await self._kept.get(("records",), self._store.jobs, _JOBS_S)
        return found

    async def _job(self, job: JobId) -> dict[str, Any]:
        record = await self._store.job(job)
        told = await describe(self._store, record, last=1)
        picked = thinned(told.rounds_done, told.history_from, recent=RECENT_ROUNDS, spread=SPREAD_ROUNDS)
        return await self._view(record, told, await picked_rounds(self._store, job, picked))

    async def _view(self, record: JobRecord, told: jobs_pb2.Job, rounds: list[jobs_pb2.RoundSummary]) -> dict[str, Any]:
        spec = views.spec_of(record.spec_json)
        scored = [*rounds, *([told.final] if told.HasField("final") else [])]
        majorities = [one.personal_majority_mean for one in scored if one.HasField("personal_majority_mean")]
        view = views.heading(told, spec)
        view["history_from"] = told.history_from
        view["rounds"] = [views.round_view(one) for one in rounds]
        view["clusters"] = views.clusters_view(told.memberships)
        view["floors"] = {
            "majority": majorities[-1] if majorities else None,
            "local": await self._local_floor(record.job, spec),
        }
        return view

    async def _local_floor(self, job: str, spec: dict[str, Any]) -> dict[str, Any] | None:
        """Scores of the newest other job with the same model and task whose clients train alone; None without one."""
        if views.trains_alone(spec):
            return None
        for record in reversed(await self._records()):
            other = views.spec_of(record.spec_json) if '"none"' in record.spec_json else {}
            if record.job != job and views.trains_alone(other) and views.same_task(spec, other):
                read = partial(self._floor, record)
                found: dict[str, Any] | None = await self._kept.get(("floor", record.job), read, _JOBS_S)
                if found is not None:
                    return found
        return None

    async def _floor(self, record: JobRecord) -> dict[str, Any] | None:
        told = await describe(self._store, record, last=2)
        return views.local_floor(record.job, [*told.history, *([told.final] if told.HasField("final") else [])])

    async def _rounds(self, job: JobId, before: int) -> dict[str, Any]:
        record = await self._store.job(job)
        told = await older_rounds(self._store, record, before=before, last=TABLE_ROUNDS)
        return {
            "history_from": told.history_from,
            "rounds": [views.round_view(one) for one in told.history],
            "bounded": views.bounded_view(told.history),
        }

    async def _clients(self, job: JobId, after: str) -> dict[str, Any]:
        told = await self._roster.page(await self._store.job(job), after, TABLE_CLIENTS)
        return {"clients": [views.client_view(one) for one in told.clients], "more": told.more}
