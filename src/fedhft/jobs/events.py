"""Following what happens to a job: its events as they come, each once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fedhft.jobs.client import is_over

if TYPE_CHECKING:
    from fedhft.jobs.client import JobsClient
    from fedhft.v1 import jobs_pb2


@dataclass(frozen=True)
class News:
    """What a look at a job brought."""

    job: jobs_pb2.Job
    """Where the job stands; nothing comes after one that is over."""
    events: Sequence[jobs_pb2.JobEvent]
    """Those that no look before has brought, in order."""
    gap: bool
    """Whether the server dropped others, after the last look and before this one."""


@dataclass
class SeenEvents:
    """Which events a look has brought: all that a server keeps, so there are never more of them here than there.

    Events have no numbers, and two may be equal, so they are counted: those of the job, and those of its clients.
    """

    known: dict[bool, Counter[bytes]] = field(default_factory=lambda: {False: Counter(), True: Counter()})
    """Whether it is of a client -> events in bytes."""

    def new(self, events: Sequence[jobs_pb2.JobEvent]) -> tuple[list[jobs_pb2.JobEvent], bool]:
        """Those of a whole log that were not in it before, in order, and whether others came and went meanwhile.

        A server keeps the newest of the job and the newest of its clients: some have gone unseen where nothing of what
        was known is left.
        """
        now: dict[bool, Counter[bytes]] = {False: Counter(), True: Counter()}
        found = []
        for event in events:
            key, of_client = event.SerializeToString(deterministic=True), bool(event.client)
            now[of_client][key] += 1
            if now[of_client][key] > self.known[of_client][key]:
                found.append(event)
        gap = any(before and now[which] and not now[which] & before for which, before in self.known.items())
        self.known = now
        return found, gap


def follow_events(client: JobsClient, job: str, last: int = 0) -> Iterator[News]:
    """What happened to a job (the newest `last` events, 0: all that are kept), then what happens until it is over.

    Looks whenever a watch of the job tells something new, which is every 15 s at least; waits and reconnects as
    `JobsClient.watch` does, and raises what that raises.
    """
    seen, first = SeenEvents(), True
    for told in client.watch(job, 1):
        events, gap = seen.new(client.events(job).events)
        if first:
            events, first = events[-last:], False
        if events or is_over(told):
            yield News(told, events, gap)
