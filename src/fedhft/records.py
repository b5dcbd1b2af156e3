"""What the store keeps, as values. Redis holds them as JSON; the in-memory store as they are."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, field_serializer, field_validator

from fedhft.cluster_choice import ClusterChoice
from fedhft.ids import ClientId
from fedhft.plan import AdapterPlan
from fedhft.stored_blob import BandBlobs, StoredBlob


def _written(plan: AdapterPlan) -> dict[str, Any]:
    """A plan as it is stored: without a rank where there is none, as earlier releases wrote and read it."""
    raw = asdict(plan)
    if not plan.rank:
        del raw["rank"]
    return raw


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
    """What a waiter waits for.

    tasks: work for agents, or its end (a round opened, a status changed). arrivals: what a coordinator acts on (clients
    joined or left, enough updates arrived to close the round). progress: anything that people are shown.
    """

    TASKS = "tasks"
    ARRIVALS = "arrivals"
    PROGRESS = "progress"


class AcceptResult(StrEnum):
    """Whether an accepted update was new."""

    ACCEPTED = "accepted"
    REPEATED = "repeated"


Traffic = tuple[int, int, int, int]
"""Bytes a client has moved since it joined: socket sent, socket received, payload sent, payload received."""


class EventKind(StrEnum):
    """What can happen to a job, its rounds and its clients. The statuses of a job are among them."""

    SUBMITTED = "submitted"
    WAITING = "waiting"
    RUNNING = "running"
    OPENED = "opened"
    EXTENDED = "extended"
    REOPENED = "reopened"
    PUBLISHED = "published"
    EVALUATING = "evaluating"
    EVALUATED = "evaluated"
    PAUSED = "paused"
    RESUMED = "resumed"
    BLOCKED = "blocked"
    UNBLOCKED = "unblocked"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    JOINED = "joined"
    LEFT = "left"
    DECLINED = "declined"
    SET_ASIDE = "set_aside"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class AgentRecord(_Record):
    """An enrolled agent. `last_seen_ms` is the store's clock."""

    client: ClientId
    lease_token: str
    memory_bytes: int
    agent_version: str
    last_seen_ms: int


class Revocation(_Record):
    """A certificate that is no longer trusted."""

    identity: str
    """URI of its holder."""
    not_after_ms: int
    """When it ends anyway."""
    reason: str = ""


class JobRecord(_Record):
    """A job: its canonical spec and where it stands."""

    job: str
    spec_json: str
    status: JobStatus
    reason: str
    created_ms: int
    submitted_by: str = ""
    """Operator named by the certificate it was submitted with; empty when it came without one."""
    schema_pinned: bool = False
    """Whether it was created with its schema."""
    paused: str = ""
    """Why the job is paused; empty when it is not. Beside the status: a paused job keeps it."""
    blocked: str = ""
    """What in its surroundings (store, volume, memory) the job waits for; empty when for nothing."""


@dataclass(frozen=True)
class Missed:
    """Rounds in a row in which a client took part and did not deliver."""

    in_a_row: int
    last: int
    """Number of the last of them."""


@dataclass(frozen=True)
class Attempt:
    """One attempt at a step of a job, counted before it begins."""

    count: int
    """Attempts at this step so far, this one included."""
    suspects: Mapping[ClientId, int]
    """How many of them ended, with their process or by an exception, while a client's update was being folded."""


class PlanTooLarge(_Record):
    """A tier whose plan does not fit a client's memory, as the client said. Bytes."""

    tier: str
    needed: int
    allowed: int


class ClientRecord(_Record):
    """A client that joined a job."""

    client: str
    tier: str
    samples: int
    data_digest: str
    signature: tuple[float, ...] = ()
    """Unit-norm float32 values; empty where the method has none (yet)."""
    halves: tuple[float, ...] = ()
    """Signatures of the two halves of its rows, one after the other; empty where there are none."""
    has_shared_validation: bool = False
    joined_ms: int
    too_large: tuple[PlanTooLarge, ...] = ()
    """Plans that it declined."""


class EventRecord(_Record):
    """Something that happened to a job."""

    at_ms: int
    """The store's clock."""
    kind: EventKind
    round: int = 0
    """The round it is about; 0 where it is about none."""
    client: str = ""
    text: str = ""
    """A reason, or a count; for people."""


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
    mass: float | None = None
    """q_i, its samples within `limits.sample_cap`; None in rounds that an earlier release opened."""

    @property
    def weight(self) -> float:
        """q_i: what the client weighs wherever clients are averaged by their data."""
        return float(self.samples) if self.mass is None else self.mass

    scores: bool = True
    """Whether it scores in rounds that do."""
    shard: int | None = None
    """Its share of the shared validation rows, of as many as there are; None where it has no such rows."""


@dataclass(frozen=True)
class RoundHead:
    """What moves a round on, without its participants: small however many they are."""

    number: int
    phase: Phase
    evaluation: bool
    base_version: int
    opened_ms: int
    deadline_ms: int
    extensions: int
    target: int
    quorum: int
    asked: int
    """Number of participants."""


class RoundRecord(_Record):
    """The open (or last) round. Everything the fold needs besides the updates is pinned here."""

    number: int
    """1-based; the final evaluation has the number after the last round's."""
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

    def to_json(self) -> str:
        """As the store keeps it: equal plans once, participants as short lists, for rounds of thousands of clients."""
        kept = self.model_dump(mode="json", exclude={"participants"})
        places: dict[AdapterPlan, int] = {}
        participants = {
            client: [
                part.samples,
                places.setdefault(part.plan, len(places)),
                part.memberships,
                part.shard,
                part.mass,
                *([] if part.scores else [False]),
            ]
            for client, part in self.participants.items()
        }
        kept["plans"] = [_written(plan) for plan in places]
        kept["participants"] = participants
        return json.dumps(kept, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> RoundRecord:
        """Inverse of to_json; also reads the form of earlier releases, which repeated the plan per participant.

        Raises pydantic.ValidationError for a record that is neither.
        """
        raw = json.loads(text)
        if "plans" not in raw:
            return cls.model_validate(raw)
        plans = [AdapterPlan(**plan) for plan in raw.pop("plans")]
        compact = raw.pop("participants")
        record = cls.model_validate({**raw, "participants": {}})
        # Our own writing: validated field by field it would take a tenth of a second for ten thousand.
        participants = {
            client: Participant.model_construct(
                samples=samples,
                plan=plans[place],
                memberships=tuple(memberships),
                shard=shard,
                mass=later[0] if later else None,
                scores=len(later) < 2,  # written only where it is False
            )
            for client, (samples, place, memberships, shard, *later) in compact.items()
        }
        return record.model_copy(update={"participants": participants})

    @property
    def head(self) -> RoundHead:
        """The round without its participants."""
        return RoundHead(
            number=self.number,
            phase=self.phase,
            evaluation=self.evaluation,
            base_version=self.base_version,
            opened_ms=self.opened_ms,
            deadline_ms=self.deadline_ms,
            extensions=self.extensions,
            target=self.target,
            quorum=self.quorum,
            asked=len(self.participants),
        )


class UpdateRecord(_Record):
    """An accepted update (or, in the final evaluation, a report without a blob)."""

    client: str
    round: int
    base_version: int
    digest: str
    """Hex SHA-256 of the blob; empty when nothing is shared."""
    size: int
    samples: int
    norm: float | None = None
    """Frobenius norm of the update, measured when it was accepted; None in records of earlier releases."""
    seconds: float | None = None
    """From the round's opening to when it was here, by the store's clock; None in records of earlier releases."""
    sketch: str = ""
    """Direction of the update (see aggregation.direction); empty where it moves nothing, or was not measured."""
    report: bytes
    """Scores, measurements and signature as they were accepted (see rounds.reports); opaque to the store."""

    @field_serializer("report", when_used="json")
    def _as_text(self, report: bytes) -> str:
        return base64.b64encode(report).decode("ascii")

    @field_validator("report", mode="before")
    @classmethod
    def _of_text(cls, report: object) -> object:
        if not isinstance(report, str):
            return report
        return report.encode() if report.startswith("{") else base64.b64decode(report, validate=True)


class OutcomeKind(StrEnum):
    """What a fold did with an update that it did not take as it was."""

    SET_ASIDE = "set_aside"
    OPPOSED = "opposed"
    CLIPPED = "clipped"


class Outcome(_Record):
    """What became of a client's last update that was not folded as it was sent, for that client."""

    round: int
    kind: OutcomeKind
    reason: str
    factor: float = 0.0
    """What the update was multiplied by; 0 where it was left out."""


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
    """"residual/<scope>", "momentum/<scope>", "squares/<scope>": private to the server."""
    renewed: tuple[str, ...] = ()
    """Scopes that begin anew here, because the number of clusters changed: only their snapshot is complete."""
    bands: BandBlobs | None = None
    """The same by bands of layers; None where all clients fetch all of it, and in records of earlier releases."""


class MembershipRecord(_Record):
    """A membership version."""

    version: int
    round: int
    clusters: int
    rows: dict[str, tuple[float, ...]]
    """client -> weights over clusters, summing to 1."""
    model: str = ""
    """JSON of the fitted mixture (means, projection), private to the clusterer: warm start and identity."""
    confidence: float | None = None
    """Weight in 0..1 of these clusters against there being only one; None in records of earlier releases."""
    origins: tuple[tuple[float, ...], ...] = ()
    """When the number of clusters last changed: each one's state as a weighting of those before; () if it never did."""
    data: dict[str, str] = {}
    """client -> beginning of its data's digest, and a plus when it votes on the number of clusters."""
    choice: ClusterChoice | None = None
    """None where the job fixes the number of clusters."""
