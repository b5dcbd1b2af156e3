"""What the in-memory store keeps of one job."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from dataclasses import dataclass, field

from fedhft.ids import ClientId
from fedhft.planning.allocation import Allocated
from fedhft.planning.estimates import Capacity
from fedhft.records import (
    ClientRecord,
    DeclineRecord,
    EventRecord,
    JobRecord,
    MembershipRecord,
    Missed,
    Outcome,
    RoundRecord,
    Topic,
    Traffic,
    UpdateRecord,
    VersionRecord,
)
from fedhft.store.keys import KEPT_EVENTS


@dataclass
class Attempts:
    """What was tried of one step; count 0 means nothing."""

    step: str = ""
    count: int = 0
    current: str = ""
    """The client whose update is being folded."""
    suspects: dict[str, int] = field(default_factory=dict)


@dataclass
class KeptJob:
    """Everything about one job; `record` is None until the job is created."""

    record: JobRecord | None = None
    schema: str | None = None
    clients: dict[ClientId, ClientRecord] = field(default_factory=dict)
    declines: dict[ClientId, DeclineRecord] = field(default_factory=dict)
    holder: str | None = None
    held_until_ms: int = 0
    fence: int = 0
    round: RoundRecord | None = None
    opened: RoundRecord | None = None
    updates: dict[int, dict[ClientId, UpdateRecord]] = field(default_factory=dict)
    versions: dict[int, VersionRecord] = field(default_factory=dict)
    latest_version: int | None = None
    history: list[str] = field(default_factory=list)
    history_dropped: int = 0
    """Entries that were dropped before the first one in `history`."""
    deliveries: dict[ClientId, int] = field(default_factory=lambda: defaultdict(int))
    traffic: dict[str, Traffic] = field(default_factory=dict)
    memberships: dict[int, MembershipRecord] = field(default_factory=dict)
    seen_ms: dict[ClientId, int] = field(default_factory=dict)
    capacities: dict[str, Capacity] = field(default_factory=dict)
    allocated: Allocated | None = None
    missed: dict[str, Missed] = field(default_factory=dict)
    paused_ms: int | None = None
    attempts: Attempts = field(default_factory=Attempts)
    aside: dict[int, dict[str, str]] = field(default_factory=dict)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    events: deque[EventRecord] = field(default_factory=lambda: deque(maxlen=KEPT_EVENTS))
    client_events: deque[EventRecord] = field(default_factory=lambda: deque(maxlen=KEPT_EVENTS))
    counters: dict[Topic, int] = field(default_factory=lambda: defaultdict(int))
    moved: dict[Topic, asyncio.Event] = field(default_factory=lambda: defaultdict(asyncio.Event))

    def wake(self, topic: Topic) -> None:
        """Count a change and wake its waiters."""
        self.counters[topic] += 1
        self.moved.pop(topic, asyncio.Event()).set()

    def state(self) -> str:
        """The round and its phase, for refusals."""
        return f"round {self.round.number} {self.round.phase}" if self.round else "no round yet"
