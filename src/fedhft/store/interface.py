"""What every back end of the store can do. The contract tests in tests/contract hold for each of them.

All calls are coroutines and raise FedhftError: STORE_UNAVAILABLE when the back end does not answer in time, STORE_FULL
when it has no memory left, and what each method names. Every transition is atomic. Times are the store's own clock, so
replicas with different clocks agree. No call is retried in here: after STORE_UNAVAILABLE it may have taken effect.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from fedhft.adapter import Float32, Float64
from fedhft.ids import ClientId, JobId
from fedhft.readings import History, Look, Poll
from fedhft.records import (
    AcceptResult,
    AgentRecord,
    ClientRecord,
    DeclineRecord,
    JobRecord,
    JobStatus,
    MembershipRecord,
    Revocation,
    RoundRecord,
    Topic,
    Traffic,
    UpdateRecord,
    VersionRecord,
)
from fedhft.store.blobs import BlobStore
from fedhft.store.capacities import CapacityStore
from fedhft.store.progress import ProgressStore
from fedhft.store.transfers import TransferStore


@dataclass(frozen=True)
class BlobBackEnd:
    """Where blobs are kept, and where the transfers that become them: chosen together, as a commit reaches both."""

    blobs: BlobStore
    transfers: TransferStore


class Store(ProgressStore, CapacityStore, Protocol):
    """Round state, agents, jobs and memberships."""

    @property
    def blobs(self) -> BlobStore:
        """Whole blobs."""
        ...

    @property
    def transfers(self) -> TransferStore:
        """What is on its way to become a blob; a commit puts it into `blobs`."""
        ...

    async def ping(self) -> None:
        """Raises STORE_UNAVAILABLE unless the back end answers and takes writes."""
        ...

    async def now_ms(self) -> int:
        """The store's clock, milliseconds."""
        ...

    async def close(self) -> None:
        """Release connections."""
        ...

    # -- agents
    async def enroll(
        self, client: ClientId, memory_bytes: int, agent_version: str, lease_token: str = "", serial: str = ""
    ) -> AgentRecord:
        """Record an agent. It keeps the current `lease_token`; without one it gets a new one, which supersedes.

        Raises LEASE_SUPERSEDED for a token that is not the current one (it renews nothing), CERTIFICATE_REVOKED when
        the caller's certificate, named by its serial number, is on the deny list. A token whose record is gone is
        as good as none.
        """
        ...

    async def check_lease(self, client: ClientId, lease_token: str) -> AgentRecord:
        """Checks the token and records last_seen; never creates a record.

        Raises NOT_ENROLLED, LEASE_SUPERSEDED.
        """
        ...

    async def poll(self, job: JobId, client: ClientId, lease_token: str) -> Poll:
        """Everything an agent's call about a job starts from, in one step: lease, membership, the round.

        A sign of life in this job, if the client has joined it, recorded at most every second. Raises NOT_ENROLLED,
        LEASE_SUPERSEDED.
        """
        ...

    async def agents(self, clients: Collection[ClientId]) -> Mapping[ClientId, AgentRecord]:
        """Records of those that are enrolled."""
        ...

    async def enrolled(self) -> list[ClientId]:
        """Ids of all enrolled agents, sorted. Walks through the whole store: for people, not for every call."""
        ...

    async def count_enrolled(self) -> int:
        """How many agents are enrolled, in O(log n). Those of earlier releases count after their next call."""
        ...

    async def forget_agent(self, client: ClientId) -> None:
        """Remove an agent; its token is no longer valid."""
        ...

    # -- certificates
    async def revoke(self, serial: str, revocation: Revocation) -> None:
        """Put a certificate on the deny list. Repeating changes nothing; those that expired a day ago are dropped."""
        ...

    async def revocations(self) -> Mapping[str, Revocation]:
        """The deny list, by serial number."""
        ...

    async def revocation_changes(self) -> int:
        """Counter of changes of the deny list."""
        ...

    async def wait_revocation(self, seen: int, timeout_s: float) -> int:
        """Wait until that counter differs from `seen`, at most `timeout_s`; returns it. As `wait_change`."""
        ...

    # -- jobs
    async def create_job(self, job: JobId, spec_json: str, submitted_by: str = "", schema_json: str = "") -> bool:
        """True when created (status waiting), False when the identical job exists, whoever submitted it.

        schema_json: the schema it is created with; empty leaves it to the first client that joins.
        Raises JOB_EXISTS for another spec, or a schema that is not the job's.
        """
        ...

    async def job(self, job: JobId) -> JobRecord:
        """Raises UNKNOWN_JOB."""
        ...

    async def jobs(self) -> list[JobRecord]:
        """All jobs, oldest first."""
        ...

    async def open_jobs(self) -> list[JobId]:
        """Jobs that are not over, oldest first."""
        ...

    async def set_status(
        self, job: JobId, status: JobStatus, reason: str, expected: Collection[JobStatus], fence: int | None = None
    ) -> bool:
        """Change the status if it is one of `expected` now; wakes all topics.

        With a fence only its holder may. Raises UNKNOWN_JOB, FENCED.
        """
        ...

    # -- joining
    async def fix_schema(self, job: JobId, schema_json: str) -> str:
        """Store the schema if none is stored; returns the stored one (the first wins). Raises UNKNOWN_JOB."""
        ...

    async def schema(self, job: JobId) -> str | None:
        """The stored schema."""
        ...

    async def join(self, job: JobId, client: ClientRecord) -> None:
        """Add or replace a client, heard from now; wakes ARRIVALS. It no longer counts as declining.

        Raises UNKNOWN_JOB.
        """
        ...

    async def set_signature(self, job: JobId, client: ClientId, signature: tuple[float, ...]) -> bool:
        """Replace the signature of a joined client; False when it is not joined (one that left stays away)."""
        ...

    async def leave(self, job: JobId, client: ClientId, reason: str = "") -> bool:
        """Remove a client; wakes ARRIVALS. False when it was not there. reason: for the job's log of events."""
        ...

    async def decline(self, job: JobId, client: ClientId, reason: str) -> bool:
        """Record why a client will not serve a job, in place of an earlier reason; False for one that has joined.

        Raises UNKNOWN_JOB.
        """
        ...

    async def declined(self, job: JobId) -> list[ClientId]:
        """Ids of the clients that will not serve a job, sorted."""
        ...

    async def declines(self, job: JobId, clients: Collection[ClientId]) -> Mapping[ClientId, DeclineRecord]:
        """What those among `clients` said that will not serve a job."""
        ...

    async def client(self, job: JobId, client: ClientId) -> ClientRecord | None:
        """One joined client."""
        ...

    async def clients(self, job: JobId, wanted: Collection[ClientId] | None = None) -> Mapping[ClientId, ClientRecord]:
        """Joined clients by id, without their signatures and halves: all, or those among `wanted`."""
        ...

    async def client_ids(self, job: JobId) -> list[ClientId]:
        """Ids of all joined clients, sorted."""
        ...

    async def signatures(self, job: JobId) -> Mapping[ClientId, Float64]:
        """Signatures of the joined clients that have one, by id."""
        ...

    async def signature_halves(self, job: JobId) -> Mapping[ClientId, Float32]:
        """Signatures of the two halves of their rows, one after the other, of the joined clients that sent them."""
        ...

    async def has_signatures(self, job: JobId) -> bool:
        """Whether any joined client has a signature."""
        ...

    async def live(self, job: JobId, within_ms: int) -> list[ClientId]:
        """Joined clients heard from in this job within the given time, sorted."""
        ...

    async def last_seen(self, job: JobId, clients: Collection[ClientId]) -> Mapping[ClientId, int]:
        """When clients were last heard from in this job, milliseconds of the store's clock; to a second or so."""
        ...

    # -- the coordinator lease: one replica at a time moves a job on
    async def acquire(self, job: JobId, holder: str, ttl_ms: int) -> int | None:
        """Take or renew the job's coordinator lease; returns the fencing token, None if held by another.

        The token stays the same while the holder keeps the lease; after that, the next one is larger than any before.
        Whoever asks takes leases of the same length: one that would last longer comes from a clock that was set back
        since, and is shortened to `ttl_ms`.
        """
        ...

    async def release(self, job: JobId, holder: str) -> None:
        """Give up the lease if `holder` has it; its token is no longer valid."""
        ...

    # -- rounds
    async def look(self, job: JobId, live_within_ms: int) -> Look:
        """What a coordinator decides by, in one step whose cost hardly depends on the number of clients.

        Raises UNKNOWN_JOB.
        """
        ...

    async def open_round(self, job: JobId, round_: RoundRecord, fence: int) -> None:
        """Open round `number` if the last one is number - 1 and published (or none and number is 1).

        Wakes TASKS and PROGRESS. Repeating the same opening changes nothing. Raises, in this order, FENCED for an
        outdated fence, UNKNOWN_JOB, JOB_NOT_RUNNING unless running or evaluating, ROUND_CLOSED when the round is not
        the next.
        """
        ...

    async def round(self, job: JobId) -> RoundRecord | None:
        """The open or last round."""
        ...

    async def accept(
        self, job: JobId, update: UpdateRecord, lease_token: str, data: bytes | None = None
    ) -> AcceptResult:
        """Durably record an update, in one step, or say why not; wakes ARRIVALS when the round's target is reached.

        data: the update's bytes, whose SHA-256 the caller has checked; None when they are among the blobs already.

        Checks, in this order: job runs (UNKNOWN_JOB, JOB_NOT_RUNNING), lease (NOT_ENROLLED, LEASE_SUPERSEDED), round is
        the current one (ROUND_CLOSED), client takes part (NOT_PARTICIPANT), already recorded with the same digest
        (REPEATED, whatever the phase) or another (UPDATE_CONFLICT), phase is collecting (ROUND_CLOSED), base_version
        (STALE_VERSION), the blob is there (UNKNOWN_BLOB; skipped for an empty digest and where `data` is given).
        """
        ...

    async def updates(self, job: JobId, number: int) -> Mapping[ClientId, UpdateRecord]:
        """Accepted updates of a round, by client. Those of old rounds are deleted (KEPT_UPDATE_ROUNDS)."""
        ...

    async def update(self, job: JobId, number: int, client: ClientId) -> UpdateRecord | None:
        """A client's accepted update of a round."""
        ...

    async def delivered(self, job: JobId, number: int, client: ClientId) -> bool:
        """Whether the round holds an accepted update of this client."""
        ...

    async def deliveries(self, job: JobId, clients: Collection[ClientId]) -> Mapping[ClientId, int]:
        """In how many rounds an update of those among `clients` was accepted, final evaluations not counted."""
        ...

    async def extend_round(self, job: JobId, number: int, deadline_ms: int, fence: int, counted: bool = True) -> None:
        """Move the deadline and count the extension unless told otherwise; the same deadline again changes nothing.

        Raises FENCED, ROUND_CLOSED unless collecting.
        """
        ...

    async def begin_fold(self, job: JobId, number: int, fence: int) -> tuple[ClientId, ...]:
        """Collecting -> folding; pins and returns the sorted accepted clients, the same again when already folding.

        Wakes PROGRESS. Raises FENCED, ROUND_CLOSED when published or another round.
        """
        ...

    async def reopen_round(self, job: JobId, number: int, deadline_ms: int, fence: int) -> None:
        """Folding -> collecting again, without the updates that were set aside; counts as an extension.

        Wakes TASKS and PROGRESS. Raises FENCED, ROUND_CLOSED unless folding.
        """
        ...

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
        """Folding -> published, with the new version, the round's summary (JSON) and its clients' byte counters.

        kept: how many entries of the history stay, this one among them; older ones are dropped in the same step. None
        keeps all.

        Wakes PROGRESS. False when the round was already published (nothing changes). For the final evaluation `version`
        is the unchanged last one. Raises FENCED, ROUND_CLOSED when the round is not folding.
        """
        ...

    async def version(self, job: JobId, number: int | None = None) -> VersionRecord | None:
        """A version, the latest for None; None before the first publish."""
        ...

    async def drop_versions(self, job: JobId, below: int, fence: int, keep: int = 0) -> list[VersionRecord]:
        """Delete version records below a number, never the latest nor `keep`; returns them, so that their blobs can go.

        Raises FENCED.
        """
        ...

    async def history(self, job: JobId, start: int = 0, stop: int | None = None) -> History:
        """Entries [start:stop] of the history, like a slice of a list that begins with round 1.

        Those that were dropped still count, and are missing in the answer.
        """
        ...

    async def traffic(self, job: JobId, clients: Collection[str]) -> Mapping[str, Traffic]:
        """Byte counters of those among `clients` that have reported in a published round."""
        ...

    # -- memberships
    async def memberships(self, job: JobId, version: int = 0) -> MembershipRecord | None:
        """A membership version, the latest for 0; None for one that is not kept (KEPT_MEMBERSHIPS) or never was."""
        ...

    async def publish_memberships(self, job: JobId, record: MembershipRecord, expected_version: int) -> bool:
        """Publish version expected_version + 1 if expected_version is the latest; False otherwise.

        Repeating the same record is True again. Raises INVALID_ARGUMENT when the record has another number.
        """
        ...

    # -- waiting
    async def changes(self, job: JobId, topic: Topic) -> int:
        """Counter of changes of a topic; grows with every change."""
        ...

    async def wait_change(self, job: JobId, topic: Topic, seen: int, timeout_s: float) -> int:
        """Wait until the counter differs from `seen`, at most `timeout_s`; returns it.

        Waiters never poll the back end. A wait survives an outage; STORE_UNAVAILABLE if it outlasts the timeout.
        """
        ...
