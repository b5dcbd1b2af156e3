"""What the store keeps, as values. Redis holds them as JSON; the in-memory store as they are."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict

from fedhft.ids import ClientId
from fedhft.plan import AdapterPlan


class JobStatus(StrEnum):
    """Life of a job."""

    WAITING = "waiting"
    RUNNING = "running"
    EVALUATING = "evaluating"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def over(self) -> bool:
        """Whether nothing happens to the job any more."""
        return self in (JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED)


class Phase(StrEnum):
    """Life of a round: collecting, folding, published."""

    COLLECTING = "collecting"
    FOLDING = "folding"
    PUBLISHED = "published"


class Topic(StrEnum):
    """What a waiter waits for: new work for agents (a round opened, a status changed), or updates and joins."""

    TASKS = "tasks"
    ARRIVALS = "arrivals"


class AcceptResult(StrEnum):
    """Whether an accepted update was new."""

    ACCEPTED = "accepted"
    REPEATED = "repeated"


Traffic = tuple[int, int, int, int]
"""Bytes a client has moved since it joined: socket sent, socket received, payload sent, payload received."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class AgentRecord(_Record):
    """An enrolled agent. `last_seen_ms` is the store's clock."""

    client: ClientId
    lease_token: str
    memory_bytes: int
    agent_version: str
    last_seen_ms: int


class JobRecord(_Record):
    """A job: its canonical spec and where it stands."""

    job: str
    spec_json: str
    status: JobStatus
    reason: str
    created_ms: int
    submitted_by: str = ""
    """Operator named by the certificate it was submitted with; empty when it came without one."""


class ClientRecord(_Record):
    """A client that joined a job."""

    client: str
    tier: str
    samples: int
    data_digest: str
    signature: tuple[float, ...] = ()
    """Unit-norm float32 values; empty where the method has none (yet)."""
    has_shared_validation: bool = False
    joined_ms: int


class DeclineRecord(_Record):
    """A client that will not serve a job."""

    client: str
    reason: str
    declined_ms: int


class Participant(_Record):
    """One client's part in a round, pinned when the round opened."""

    samples: int
    plan: AdapterPlan
    """Everything that the client trains; none of it is recomputed while the round is open."""
    memberships: tuple[float, ...]
    """Weights over clusters as pinned; the fold uses these (not the served ones)."""


class RoundRecord(_Record):
    """The open (or last) round. Everything the fold needs besides the updates is pinned here."""

    number: int
    """1-based; the final evaluation is number total + 1."""
    phase: Phase
    evaluation: bool = False
    """True for the final evaluation, which collects scores and no updates."""
    base_version: int
    membership_version: int
    clusters: int
    opened_ms: int
    deadline_ms: int
    """Store clock. Extended rounds move it."""
    extensions: int = 0
    target: int
    """Updates that close the round early."""
    quorum: int
    """Updates needed at the deadline."""
    participants: dict[str, Participant]
    pinned: tuple[str, ...] = ()
    """Clients whose updates are folded, sorted; fixed when folding starts."""


class UpdateRecord(_Record):
    """An accepted update (or, in the final evaluation, a report without a blob)."""

    client: str
    round: int
    base_version: int
    digest: str
    """Hex SHA-256 of the blob; empty when nothing is shared."""
    size: int
    samples: int
    report: str
    """JSON of scores and measurements; opaque to the store."""


class StoredBlob(_Record):
    """Reference to a blob."""

    digest: str
    size: int


class VersionRecord(_Record):
    """A published version. Version 0 is the start and has no blobs."""

    version: int
    round: int
    clusters: int
    deltas: dict[str, StoredBlob] = {}
    """scope -> what this version changed. A scope that did not change has none."""
    snapshots: dict[str, StoredBlob] = {}
    """scope -> whole scope at this version."""
    server_state: dict[str, StoredBlob] = {}
    """"residual/<scope>", "momentum/<scope>": private to the server."""


class MembershipRecord(_Record):
    """A membership version."""

    version: int
    round: int
    clusters: int
    rows: dict[str, tuple[float, ...]]
    """client -> weights over clusters, summing to 1."""
    model: str = ""
    """JSON of the fitted mixture (means, projection), private to the clusterer: warm start and identity."""
