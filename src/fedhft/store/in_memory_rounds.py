"""Rounds of the in-memory store: opened, collected, folded, published."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from fedhft.ids import ClientId, JobId
from fedhft.readings import History, Look
from fedhft.records import AcceptResult, EventKind, Phase, RoundRecord, Topic, Traffic, UpdateRecord, VersionRecord
from fedhft.store import refusals
from fedhft.store.in_memory_tables import InMemoryTables
from fedhft.store.keys import KEPT_UPDATE_ROUNDS


class InMemoryRounds(InMemoryTables):
    """The round part of InMemoryStore."""

    async def look(self, job: JobId, live_within_ms: int) -> Look:
        """See Store.look."""
        its, record = self._existing(job)
        now_ms, now = self._now_ms(), its.round
        return Look(
            now_ms=now_ms,
            status=record.status,
            reason=record.reason,
            created_ms=record.created_ms,
            joined=len(its.clients),
            live=sum(abs(now_ms - seen_ms) <= live_within_ms for seen_ms in its.seen_ms.values()),
            declined=len(its.declines),
            round=now.head if now else None,
            accepted=len(its.updates.get(now.number, {})) if now else 0,
            paused=bool(record.paused),
            blocked=record.blocked,
        )

    async def open_round(self, job: JobId, round_: RoundRecord, fence: int) -> None:
        """See Store.open_round."""
        self._fenced(job, fence)
        its = self._running(job)
        last = its.round
        if last is not None and last.phase is Phase.COLLECTING and its.opened == round_:
            return
        following = last.number + 1 if last else 1
        if round_.number != following or (last and last.phase is not Phase.PUBLISHED):
            raise refusals.round_closed(job, round_.number, its.state())
        its.round = its.opened = round_
        its.updates.pop(round_.number - KEPT_UPDATE_ROUNDS, None)
        final = ", final evaluation" if round_.evaluation else ""
        text = f"{len(round_.participants)} clients{final}"
        self._note(its, EventKind.OPENED, round=round_.number, text=text)
        its.wake(Topic.TASKS)
        its.wake(Topic.PROGRESS)

    async def round(self, job: JobId) -> RoundRecord | None:
        """See Store.round."""
        return self._of(job).round

    async def accept(
        self, job: JobId, update: UpdateRecord, lease_token: str, data: bytes | None = None
    ) -> AcceptResult:
        """See Store.accept."""
        if data is not None:
            await self._blobs.put(job, data, update.digest)
        # Looked up first, judged last: nothing is awaited between the checks and the recording.
        missing = bool(update.digest) and await self._blobs.size(job, update.digest) is None
        its = self._running(job)
        client = ClientId(update.client)
        self._check_lease(client, lease_token)
        now = its.round
        if now is None or now.number != update.round:
            raise refusals.round_closed(job, update.round, its.state())
        if client not in now.participants:
            raise refusals.not_participant(client, update.round)
        recorded = its.updates.setdefault(update.round, {})
        if client in recorded:
            if recorded[client].digest == update.digest:
                return AcceptResult.REPEATED
            raise refusals.update_conflict(client, update.round)
        if now.phase is not Phase.COLLECTING:
            raise refusals.round_closed(job, update.round, its.state())
        if now.base_version != update.base_version:
            raise refusals.stale_version(update.base_version, str(now.base_version))
        if missing:
            raise refusals.unknown_blob(job, update.digest)
        recorded[client] = update
        if not now.evaluation:
            its.deliveries[client] += 1
        if len(recorded) >= now.target:
            its.wake(Topic.ARRIVALS)
        return AcceptResult.ACCEPTED

    async def updates(self, job: JobId, number: int) -> Mapping[ClientId, UpdateRecord]:
        """See Store.updates."""
        return dict(sorted(self._of(job).updates.get(number, {}).items()))

    async def update(self, job: JobId, number: int, client: ClientId) -> UpdateRecord | None:
        """See Store.update."""
        return self._of(job).updates.get(number, {}).get(client)

    async def delivered(self, job: JobId, number: int, client: ClientId) -> bool:
        """See Store.delivered."""
        return client in self._of(job).updates.get(number, {})

    async def deliveries(self, job: JobId, clients: Collection[ClientId]) -> Mapping[ClientId, int]:
        """See Store.deliveries."""
        counts = self._of(job).deliveries
        return {client: counts[client] for client in sorted(clients) if client in counts}

    async def extend_round(self, job: JobId, number: int, deadline_ms: int, fence: int, counted: bool = True) -> None:
        """See Store.extend_round."""
        its = self._fenced(job, fence)
        now = its.round
        if now is None or now.number != number or now.phase is not Phase.COLLECTING:
            raise refusals.round_closed(job, number, its.state())
        if now.deadline_ms != deadline_ms:
            its.round = now.model_copy(update={"deadline_ms": deadline_ms, "extensions": now.extensions + int(counted)})
            if counted:
                self._note(its, EventKind.EXTENDED, round=number)

    async def begin_fold(self, job: JobId, number: int, fence: int) -> tuple[ClientId, ...]:
        """See Store.begin_fold."""
        its = self._fenced(job, fence)
        now = its.round
        if now is None or now.number != number or now.phase is Phase.PUBLISHED:
            raise refusals.round_closed(job, number, its.state())
        if now.phase is Phase.COLLECTING:
            pinned = tuple(sorted(its.updates.get(number, {})))
            now = its.round = now.model_copy(update={"phase": Phase.FOLDING, "pinned": pinned})
            its.wake(Topic.PROGRESS)
        return tuple(ClientId(client) for client in now.pinned)

    async def reopen_round(self, job: JobId, number: int, deadline_ms: int, fence: int) -> None:
        """See Store.reopen_round."""
        its = self._fenced(job, fence)
        now = its.round
        if now is None or now.number != number or now.phase is not Phase.FOLDING:
            raise refusals.round_closed(job, number, its.state())
        for client in its.aside.pop(number, {}):
            its.updates.get(number, {}).pop(ClientId(client), None)
        its.round = now.model_copy(
            update={
                "phase": Phase.COLLECTING,
                "pinned": (),
                "deadline_ms": deadline_ms,
                "extensions": now.extensions + 1,
            }
        )
        self._note(its, EventKind.REOPENED, round=number, text="too few updates were left")
        its.wake(Topic.TASKS)

    async def publish(
        self,
        job: JobId,
        number: int,
        version: VersionRecord,
        summary: str,
        fence: int,
        traffic: Mapping[str, Traffic] | None = None,
        kept: int | None = None,
    ) -> bool:
        """See Store.publish."""
        its = self._fenced(job, fence)
        now = its.round
        if now is not None and (now.number > number or (now.number == number and now.phase is Phase.PUBLISHED)):
            return False
        if now is None or now.number != number or now.phase is not Phase.FOLDING:
            raise refusals.round_closed(job, number, its.state())
        its.versions[version.version] = version
        its.latest_version = version.version
        its.history.append(summary)
        if kept and len(its.history) > kept:
            its.history_dropped += len(its.history) - kept
            del its.history[:-kept]
        its.traffic.update(traffic or {})
        its.round = now.model_copy(update={"phase": Phase.PUBLISHED})
        kind = EventKind.EVALUATED if now.evaluation else EventKind.PUBLISHED
        self._note(its, kind, round=number, text=f"{len(now.pinned)} of {len(now.participants)} clients")
        its.wake(Topic.PROGRESS)
        return True

    async def version(self, job: JobId, number: int | None = None) -> VersionRecord | None:
        """See Store.version."""
        its = self._of(job)
        wanted = its.latest_version if number is None else number
        return None if wanted is None else its.versions.get(wanted)

    async def drop_versions(self, job: JobId, below: int, fence: int, keep: int = 0) -> list[VersionRecord]:
        """See Store.drop_versions."""
        its = self._fenced(job, fence)
        gone = sorted(number for number in its.versions if number < below and number not in (its.latest_version, keep))
        return [its.versions.pop(number) for number in gone]

    async def history(self, job: JobId, start: int = 0, stop: int | None = None) -> History:
        """See Store.history."""
        its = self._of(job)
        dropped = its.history_dropped
        first, last, _ = slice(start, stop).indices(dropped + len(its.history))
        return History(dropped + 1, tuple(its.history[max(0, first - dropped) : max(0, last - dropped)]))

    async def traffic(self, job: JobId, clients: Collection[str]) -> Mapping[str, Traffic]:
        """See Store.traffic."""
        known = self._of(job).traffic
        return {client: known[client] for client in clients if client in known}
