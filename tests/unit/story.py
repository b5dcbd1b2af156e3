"""A federation told as a story: the real coordinator over the in-memory store, a clock that the story moves, and
clients that deliver made-up tensors. Whole jobs take milliseconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fedhft.adapter import AdapterSchema, MaskedDelta, MaskedMatrix
from fedhft.aggregation.direction import NOTHING, Measured
from fedhft.aggregation.versions import ServerState
from fedhft.coordination.clusterer import Clusterer
from fedhft.coordination.coordinator import Coordinator
from fedhft.coordination.history import RoundHistory
from fedhft.coordination.state_blobs import load_state
from fedhft.errors import ErrorCode, FedhftError
from fedhft.ids import ClientId, JobId
from fedhft.job import JobSpec
from fedhft.methods import Combine
from fedhft.records import ClientRecord, JobStatus, MembershipRecord, Phase, RoundRecord
from fedhft.rounds.acceptance import update_record
from fedhft.rounds.paging import KEPT_ROUNDS
from fedhft.store.in_memory import InMemoryStore
from fedhft.v1 import adapter_pb2, federation_pb2
from fedhft.wire.codec import encode
from fedhft.wire.digest import digest_of
from tests.light import light_delta, light_job, light_schema

JOB = JobId("story")
LEASE_MS = 15_000
CLUSTERED = {"method": {"preset": "fedhft", "clusters": 2}}
"""A job whose clients are clustered; what `Story.begin` takes."""


def rules(**changes: object) -> dict[str, object]:
    """The rounds of a story: two rounds of two clients, unless told otherwise."""
    return {"total": 2, "min_clients": 2, "deadline": "60s", "join_timeout": "300s", "client_timeout": "40s", **changes}


class Crash(BaseException):
    """The process of a coordinator ended here; nothing of it goes on."""


@dataclass
class ScriptedClusterer:
    """Answers with given numbers of clusters, in turn; None is a clusterer that is away.

    `late`: what is published only when the story says so, after the caller was refused.
    """

    store: InMemoryStore
    answers: list[int | None]
    asked: list[int] = field(default_factory=list)
    late: MembershipRecord | None = None
    origins: dict[int, tuple[tuple[float, ...], ...]] = field(default_factory=dict)
    """By number of clusters."""

    async def update_memberships(self, job: JobId, expected_version: int, after_round: int) -> None:
        self.asked.append(after_round)
        clusters = self.answers.pop(0) if self.answers else None
        joined = sorted(await self.store.clients(job))
        record = MembershipRecord(
            version=expected_version + 1,
            round=after_round,
            clusters=clusters or 2,
            rows={client: _row(place, clusters or 2) for place, client in enumerate(joined)},
            origins=self.origins.get(clusters or 2, ()),
        )
        if clusters is None:
            self.late = record
            raise FedhftError(ErrorCode.SERVER_UNAVAILABLE, "the clusterer does not answer")
        await self.store.publish_memberships(job, record, expected_version)

    async def publish_late(self) -> None:
        assert self.late is not None
        assert await self.store.publish_memberships(JOB, self.late, self.late.version - 1)


def _row(place: int, clusters: int) -> tuple[float, ...]:
    return tuple(1.0 if place % clusters == cluster else 0.0 for cluster in range(clusters))


@dataclass
class Story:
    """One job. `**changes` of `begin` are sections of its job file."""

    spec: JobSpec
    schema: AdapterSchema
    store: InMemoryStore
    clock: list[float]
    clusterer: ScriptedClusterer | None = None
    published: list[RoundHistory] = field(default_factory=list)
    tokens: dict[str, str] = field(default_factory=dict)
    pauses: list[float] = field(default_factory=list)
    """How long coordinators paused after failures."""
    set_by: float = 0.0
    after_pause: Callable[[], Awaitable[object]] = lambda: asyncio.sleep(0)

    @classmethod
    async def begin(cls, clusters: Sequence[int | None] = (), **changes: Any) -> Story:
        spec = light_job(JOB, **changes)
        clock = [1_000.0]
        store = InMemoryStore(clock=lambda: clock[0])
        await store.create_job(JOB, spec.canonical())
        scripted = ScriptedClusterer(store, list(clusters)) if clusters else None
        return cls(spec, light_schema(), store, clock, scripted)

    def coordinator(
        self,
        holder: str = "one",
        crash_at: str = "",
        clusterer: Clusterer | None = None,
        kept_rounds: int = KEPT_ROUNDS,
    ) -> Coordinator:
        """A replica. crash_at: the point of a round at which it ends, the first time it comes there."""
        left = [crash_at] if crash_at else []

        def reached(point: str) -> None:
            if point in left:
                left.remove(point)
                raise Crash

        return Coordinator(
            self.store, JOB, clusterer or self.clusterer, holder, lease_ms=LEASE_MS, reached=reached,
            observe=self.published.append, monotonic=lambda: self.clock[0] + self.set_by, sleep=self._slept,
            kept_rounds=kept_rounds,
        )  # fmt: skip

    async def _slept(self, seconds: float) -> None:
        self.pauses.append(seconds)
        await self.after_pause()

    def set_clock(self, seconds: float) -> None:
        """Somebody sets the store's clock; no time passes."""
        self.clock[0] += seconds
        self.set_by -= seconds

    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.clock[0] += seconds

    @property
    def now_ms(self) -> int:
        return int(self.clock[0] * 1000)

    async def join(self, *clients: str, samples: int = 10, signature: Sequence[float] = (), **changes: Any) -> None:
        for client in clients:
            agent = await self.store.enroll(ClientId(client), 0, "1")
            self.tokens[client] = agent.lease_token
            await self.store.fix_schema(JOB, self.schema.to_json())
            record = ClientRecord(
                client=client, tier="standard", samples=samples, data_digest="", signature=tuple(signature),
                joined_ms=self.now_ms, **changes,
            )  # fmt: skip
            await self.store.join(JOB, record)

    async def be_heard(self, *clients: str) -> None:
        """Signs of life."""
        for client in clients:
            await self.store.poll(JOB, ClientId(client), self.tokens[client])

    async def settle(self, coordinator: Coordinator) -> float | None:
        """Let a coordinator act until it wants to wait; returns for how long, None when the job is over."""
        for _ in range(20):
            wait_s = await coordinator.step()
            if wait_s is None or wait_s > 0:
                return wait_s
        raise AssertionError("twenty steps in a row without a wait")

    async def go_on(self, coordinator: Coordinator, seconds: float, *heard: str) -> float | None:
        """Time passes under a coordinator that looks every five seconds; `heard` give signs of life meanwhile."""
        wait_s: float | None = 0.0
        left = seconds
        while left > 0:
            step = min(5.0, left)
            self.wait(step)
            left -= step
            await self.be_heard(*heard)
            wait_s = await self.settle(coordinator)
        return wait_s

    async def deliver(
        self,
        *clients: str,
        scale: float = 0.01,
        moved: Mapping[str, int] | None = None,
        signature: Sequence[float] = (),
        alike: float = 0.0,
        score: float | None = None,
    ) -> None:
        """Updates (or, in the final evaluation, scores) of clients as the open round asks for them.

        score: what they measured on their own rows before training.
        """
        current = await self.round()
        figures = federation_pb2.Measurements(steps=1, **(moved or {}))
        await self.be_heard(*clients)
        for client in clients:
            part = current.participants[client]
            measured = NOTHING
            header = federation_pb2.UpdateHeader(
                round=current.number, base_version=current.base_version, measurements=figures, signature=signature
            )
            if score is not None:
                header.scores.add(
                    split=federation_pb2.Score.SPLIT_PERSONAL, moment=federation_pb2.Score.MOMENT_BEFORE,
                    view=federation_pb2.Score.VIEW_OWN, value=score, loss=1.0 - score, rows=4,
                )  # fmt: skip
            if not current.evaluation and self.spec.method.combine is not Combine.NONE:
                delta = light_delta(self.spec, self.schema, part.plan, f"{client} {current.number}", scale)
                if alike:
                    common = light_delta(self.spec, self.schema, part.plan, "common", scale * alike)
                    delta = MaskedDelta(
                        {
                            key: MaskedMatrix(m.rows, m.cols, m.index, m.values + common.tensors[key].values)
                            for key, m in delta
                        }
                    )
                data = encode(
                    delta, self.schema, kind=adapter_pb2.BLOB_KIND_UPDATE, encoding="fp32",
                    version=current.base_version,
                )  # fmt: skip
                measured = Measured.of(delta)
                await self.store.blobs.put(JOB, data)
                header.digest, header.size = bytes.fromhex(digest_of(data)), len(data)
            await self.store.accept(JOB, update_record(client, header, part, measured), self.tokens[client])

    async def play_round(self, coordinator: Coordinator, *clients: str, **how: Any) -> None:
        """Open a round if none is open, deliver for `clients` (all by default), and close it."""
        await self.settle(coordinator)
        await self.deliver(*(clients or (await self.round()).participants), **how)
        await self.settle(coordinator)

    async def round(self) -> RoundRecord:
        current = await self.store.round(JOB)
        assert current is not None
        return current

    async def state(self) -> ServerState:
        """The server's state as last published."""
        return await load_state(self.store.blobs, JOB, self.spec, self.schema, await self.store.version(JOB))

    async def status(self) -> JobStatus:
        return (await self.store.job(JOB)).status

    async def reason(self) -> str:
        return (await self.store.job(JOB)).reason

    async def is_collecting(self, number: int) -> bool:
        current = await self.store.round(JOB)
        return current is not None and (current.number, current.phase) == (number, Phase.COLLECTING)

    async def stored(self) -> Callable[[str], bool]:
        """Whether a blob is in the store, by its digest."""
        blobs = self.store._blobs._jobs[JOB].blobs  # type: ignore[attr-defined]
        return lambda digest: digest in blobs
