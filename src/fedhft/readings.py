"""What one look at the store tells: counts and places in it, no records."""

from __future__ import annotations

from dataclasses import dataclass

from fedhft.records import AgentRecord, JobStatus, Phase, RoundHead


@dataclass(frozen=True)
class Look:
    """A job as its coordinator looks at it: counts, no lists. Times are the store's clock, milliseconds."""

    now_ms: int
    status: JobStatus
    reason: str
    created_ms: int
    joined: int
    live: int
    """Joined clients heard from within the time asked for."""
    declined: int
    """Clients that will not serve it."""
    round: RoundHead | None
    accepted: int
    """Updates recorded for the round."""
    paused: bool = False
    blocked: str = ""
    """As in JobRecord."""


@dataclass(frozen=True)
class History:
    """A stretch of a job's history: one entry per published round, the final evaluation being the last of them."""

    kept_from: int
    """The first round whose entry is kept, 1 until older ones are dropped; where none is, the next to be published."""
    entries: tuple[str, ...]
    """Summaries (JSON), in ascending order."""


@dataclass(frozen=True)
class Poll:
    """A job as one of its agents looks at it, which is also a sign of life."""

    agent: AgentRecord
    joined: bool
    """Whether the client is in the job."""
    tasks: int
    """The change counter of Topic.TASKS."""
    round: int
    """Number of the open or last round; 0 before the first."""
    phase: Phase | None
    delivered: bool
    """Whether the round has this client's update."""
    now_ms: int
    """The store's clock."""
