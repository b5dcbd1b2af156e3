"""Every key that fedhft keeps in Redis: its name, its type, what it holds.

All keys of a job start with `fedhft:job:<job>:`, which cannot collide with the others because ids contain no colon.
They assume one primary server, not Redis Cluster: an accept reads the agent's lease and the job together. A key without
the words "expires after" stays until it is deleted.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedhft.ids import ClientId, JobId
from fedhft.records import Topic

JOBS = "fedhft:jobs"
"""list: ids of all jobs, in the order in which they were created."""

STORE = "fedhft:store"
"""hash: id, a random name of this store; blob_root, set once its directory of blobs carries the id (only with one)."""

PROBE = "fedhft:probe"
"""string: written by every readiness check to prove that writes work; expires after ten seconds."""

REVOKED = "fedhft:revoked"
"""hash serial number -> Revocation (JSON): certificates that are no longer trusted, until a day after they expired."""

REVOCATIONS = "fedhft:changes:revoked"
"""string, counter: grows with every change of `fedhft:revoked`; also the channel on which its new value is told."""

REVOCATION_SLACK_MS = 24 * 3600 * 1000
"""How long a revoked certificate stays on the deny list after its end, for callers and servers with other clocks."""

CHANGE_PATTERN = "fedhft:*changes:*"
"""pub/sub pattern: a change counter's new value is published on the channel that has the name of the counter's key."""

KEPT_UPDATE_ROUNDS = 32
"""How many rounds' accepted updates are kept; opening a round deletes older ones (their blobs are deleted earlier)."""

KEPT_MEMBERSHIPS = 8
"""How many versions of a job's memberships are kept; publishing one deletes older ones."""

KEPT_EVENTS = 1000
"""How many events are kept of a job, and as many again of its clients."""

SEEN_EVERY_MS = 1000
"""Signs of life that follow each other faster are not written."""

AGENT_TTL_MS = 24 * 3600 * 1000
"""An agent in a job that was silent for this long must enroll again."""

NEW_AGENT_TTL_MS = 10 * 60 * 1000
"""The same for an agent that has joined no job, so that a flood of enrolments passes."""

TRANSFER_TTL_S = 6 * 3600
"""A half-received transfer to which nothing was added for this long is dropped, so abandoned ones free their memory."""


SET_ASIDE_TTL_S = 7 * 24 * 3600
"""How long is kept whose updates the fold of a round left out, and why; the round's summary keeps it for good."""

REMEMBERED_S = 24 * 3600
"""How long the counters of a deleted job stay, so that whoever remembers them is not deceived by a new job."""


def agent(client: ClientId) -> str:
    """hash: lease_token, memory_bytes, agent_version, last_seen_ms of an enrolled agent; expires after NEW_AGENT_TTL_MS
    from its last enrolment, or AGENT_TTL_MS from its last call about a job it is in.
    """
    return f"fedhft:agent:{client}"


AGENTS = "fedhft:agents"
"""sorted set client -> milliseconds when its record of an enrolled agent expires: counts them without reading them.
Enrolments drop those whose time has passed.
"""


@dataclass(frozen=True)
class JobKeys:
    """The keys of one job."""

    id: JobId

    @property
    def prefix(self) -> str:
        """What all keys of the job start with."""
        return f"fedhft:job:{self.id}:"

    @property
    def job(self) -> str:
        """hash: spec (canonical JSON), status, reason, created_ms, submitted_by, schema_pinned (1 when it was created
        with its schema); paused (a reason) and paused_ms while the job is paused; blocked (a reason) while its
        surroundings keep it from going on.
        """
        return self.prefix + "job"

    @property
    def schema(self) -> str:
        """string: the adapter schema (JSON), pinned at submission or as the first agent to join had it."""
        return self.prefix + "schema"

    @property
    def clients(self) -> str:
        """hash client -> ClientRecord without its signature (JSON): all joined clients."""
        return self.prefix + "clients"

    @property
    def seen(self) -> str:
        """sorted set client -> milliseconds when last heard from in this job: all joined clients."""
        return self.prefix + "seen"

    @property
    def signatures(self) -> str:
        """hash client -> signature as little-endian doubles: separate, being a hundred times larger than records."""
        return self.prefix + "signatures"

    @property
    def halves(self) -> str:
        """hash client -> signatures of the two halves of its rows, one after the other, as little-endian floats."""
        return self.prefix + "halves"

    @property
    def declines(self) -> str:
        """hash client -> DeclineRecord (JSON): clients that will not serve the job, until they join it."""
        return self.prefix + "declines"

    @property
    def lease(self) -> str:
        """string: the holder of the coordinator lease; expires after the lease's time, which ends the lease."""
        return self.prefix + "lease"

    @property
    def fence(self) -> str:
        """string, counter: the last fencing token handed out; writes that show another one are refused. That of a
        deleted job expires after REMEMBERED_S.
        """
        return self.prefix + "fence"

    @property
    def round(self) -> str:
        """hash: record (RoundRecord as opened, JSON); for the scripts number, base_version, evaluation, opened_ms,
        target, quorum and asked; and what changes: phase, deadline_ms, extensions, pinned (client ids separated by
        spaces).
        """
        return self.prefix + "round"

    @property
    def participants(self) -> str:
        """set: clients that take part in the round."""
        return self.prefix + "participants"

    def updates(self, number: int) -> str:
        """hash client -> UpdateRecord (JSON): what round `number` accepted; once in here, an update counts."""
        return f"{self.updates_prefix}{number}"

    @property
    def updates_prefix(self) -> str:
        """What the keys of all rounds' updates start with."""
        return self.prefix + "updates:"

    @property
    def missed(self) -> str:
        """hash client -> "<rounds in a row> <number of the last>": clients that took part and did not deliver."""
        return self.prefix + "missed"

    @property
    def attempts(self) -> str:
        """hash: attempts at the step that is being tried: step, count; current, the client whose update is being
        folded; suspect:<client>, how many attempts ended while it was. Deleted when the step succeeds.
        """
        return self.prefix + "attempts"

    def set_aside(self, number: int) -> str:
        """hash client -> reason: updates that the fold of round `number` leaves out; expires after SET_ASIDE_TTL_S."""
        return f"{self.prefix}set-aside:{number}"

    @property
    def outcomes(self) -> str:
        """hash client -> Outcome (JSON): its last update that was not folded as it was sent."""
        return self.prefix + "outcomes"

    @property
    def versions(self) -> str:
        """hash version number -> VersionRecord (JSON); the field `latest` holds the latest number."""
        return self.prefix + "versions"

    @property
    def history(self) -> str:
        """list: summaries (JSON) of the last published rounds, in order. It always ends with the last one published, so
        that its length tells how many older ones were dropped.
        """
        return self.prefix + "history"

    @property
    def events(self) -> str:
        """list: the last KEPT_EVENTS EventRecords (JSON) of the job and its rounds, in order."""
        return self.prefix + "events"

    @property
    def client_events(self) -> str:
        """list: the same of its clients (joined, left, declined, updates set aside)."""
        return self.prefix + "client-events"

    @property
    def deliveries(self) -> str:
        """hash client -> number of rounds in which an update of it was accepted."""
        return self.prefix + "deliveries"

    @property
    def traffic(self) -> str:
        """hash client -> Traffic (JSON): its byte counters as of the last published round in which it reported."""
        return self.prefix + "traffic"

    @property
    def memberships(self) -> str:
        """hash membership version -> MembershipRecord (JSON), of the last KEPT_MEMBERSHIPS versions; the field `latest`
        holds the latest number.
        """
        return self.prefix + "memberships"

    @property
    def capacities(self) -> str:
        """hash client -> Capacity (JSON): what is known of its device, in jobs that plan by capacity."""
        return self.prefix + "capacities"

    @property
    def allocated(self) -> str:
        """string: Allocated (JSON), the plans in force, in jobs that plan by capacity."""
        return self.prefix + "allocated"

    def changes(self, topic: Topic) -> str:
        """string, counter: grows with every change of a topic; also the channel on which its new value is told. That
        of a deleted job expires after REMEMBERED_S.
        """
        return f"{self.prefix}changes:{topic.value}"

    @property
    def all_changes(self) -> tuple[str, ...]:
        """The counters of all topics, in their order."""
        return tuple(self.changes(topic) for topic in Topic)

    def blob(self, digest: str) -> str:
        """string: the bytes whose SHA-256 is `digest` (Redis blobs only, like all keys below)."""
        return f"{self.blob_prefix}{digest}"

    @property
    def blob_prefix(self) -> str:
        """What the keys of all blobs of the job start with."""
        return self.prefix + "blob:"

    @property
    def blobs(self) -> str:
        """sorted set digest -> milliseconds when last stored: the index of blobs, for sweeping by age."""
        return self.prefix + "blobs"

    def transfer(self, name: str) -> str:
        """string: bytes of a transfer received so far; expires after TRANSFER_TTL_S without an addition."""
        return f"{self.transfer_prefix}{name}"

    @property
    def transfer_prefix(self) -> str:
        """What the keys of all transfers of the job start with."""
        return self.prefix + "transfer:"

    @property
    def transfers(self) -> str:
        """hash transfer -> "<incarnation> <milliseconds of the last addition>": the index of transfers. The incarnation
        is a random token of its first chunk, so a commit can tell that what it verified is still what is there.
        """
        return self.prefix + "transfers"
