"""Jobs as a coordinator leaves them in a store, with figures in every field: for tests of what people are shown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fedhft.coordination.history import RoundHistory
from fedhft.ids import ClientId, JobId
from fedhft.job import JobSpec
from fedhft.plan import AdapterPlan
from fedhft.records import ClientRecord, JobStatus, MembershipRecord, Participant, Phase, RoundRecord, VersionRecord
from fedhft.store.interface import Store
from fedhft.v1 import jobs_pb2
from tests.contract.federation import ALIVE, token_of, update_record
from tests.light import light_job

MIB = 1 << 20
TIERS = {"large": (4, 1.0), "small": (2, 0.25)}
"""Tier -> layers and density."""


def watched_spec(name: str, rounds: int = 10, preset: str = "fedhft", **changes: Any) -> JobSpec:
    return light_job(
        name,
        model={"name": "minilm-l6"},
        method={"preset": preset} if preset == "local" else {"preset": preset, "clusters": 2},
        tiers={tier: {"depth": depth, "density": density} for tier, (depth, density) in TIERS.items()},
        rounds={"total": rounds, "deadline": "10m"},
        **changes,
    )


def summary_of(number: int, clients: int, **changes: Any) -> jobs_pb2.RoundSummary:
    """Figures that differ in every field and improve with the rounds."""
    learnt = 1 - math.exp(-number / 6)
    wobble = math.sin(number * 1.7) / 150
    large, small = clients - clients // 2, clients // 2
    fields: dict[str, Any] = {
        "round": number,
        "seconds": 31 + 4 * math.sin(number),
        "asked": clients,
        "accepted": clients,
        "socket_bytes_up": clients * int(38_000 + 900 * math.sin(number)),
        "socket_bytes_down": clients * int(61_000 + 1500 * math.cos(number)),
        "payload_bytes_up": clients * 36_000,
        "payload_bytes_down": clients * 58_000,
        "shared_before": 0.5 + 0.3 * learnt + wobble,
        "shared_after": 0.53 + 0.3 * learnt + wobble,
        "personal_before_mean": 0.52 + 0.36 * learnt + wobble,
        "personal_before_worst_tenth": 0.4 + 0.34 * learnt - 2 * wobble,
        "personal_before_worst": 0.35 + 0.34 * learnt,
        "personal_after_mean": 0.58 + 0.33 * learnt + wobble,
        "personal_after_worst_tenth": 0.45 + 0.33 * learnt,
        "personal_after_worst": 0.4 + 0.33 * learnt,
        "personal_loss_before_median": 0.9 - 0.55 * learnt - wobble,
        "personal_loss_after_median": 0.7 - 0.45 * learnt,
        "personal_majority_mean": 0.531,
        "cluster_sizes": [large + (number % 3 == 0), small - (number % 3 == 0)],
        "membership_version": 1,
        "peak_rss_bytes_max": 900 * MIB,
        "peak_rss_bytes_mean": 700.0 * MIB,
        "train_seconds_mean": 17 + 2 * math.cos(number),
        "evaluate_seconds_mean": 4 + math.sin(number),
        "work": jobs_pb2.RoundWork(
            depth_mean=3.1 + 0.3 * math.sin(number), depth_least=1, depth_most=6, steps=clients * 12, waiting=0.12,
            seconds=jobs_pb2.TimeSpent(
                fetch=1.5, fill=9.0 if number == 1 else 0.2, train=17 + 2 * math.cos(number),
                score=4 + math.sin(number), code=0.8, send=2.5, wait=3.5 + math.cos(number),
            ),
        ),
        "update_bytes": clients * 34_000,
        "update_raw_bytes": clients * 34_000 * 9,
        "tiers": [
            jobs_pb2.TierFigures(
                tier="large", clients=large, peak_rss_bytes_max=(880 + number % 5) * MIB,
                peak_rss_bytes_mean=840.0 * MIB, update_bytes=large * 52_000, update_raw_bytes=large * 420_000,
            ),
            jobs_pb2.TierFigures(
                tier="small", clients=small, peak_rss_bytes_max=(540 + number % 4) * MIB,
                peak_rss_bytes_mean=520.0 * MIB, update_bytes=small * 16_000, update_raw_bytes=small * 170_000,
            ),
        ],
    }  # fmt: skip
    return jobs_pb2.RoundSummary(**{**fields, **changes})


@dataclass
class WatchedJob:
    """A job that a test moves on by hand."""

    store: Store
    spec: JobSpec
    clients: Sequence[ClientId]
    fence: int = 0
    number: int = 0
    parts: dict[str, Participant] = field(default_factory=dict)

    @property
    def job(self) -> JobId:
        return JobId(self.spec.name)

    async def start(self) -> None:
        """Submitted, joined by its clients, running, with memberships."""
        await self.store.create_job(self.job, self.spec.canonical(), "ops")
        for place, client in enumerate(self.clients):
            record = ClientRecord(
                client=client, tier=self._tier(place), samples=120 + 10 * place, data_digest="d",
                joined_ms=await self.store.now_ms() - 90_000,
            )  # fmt: skip
            await self.store.join(self.job, record)
        await self.store.set_status(self.job, JobStatus.RUNNING, "", ALIVE)
        rows = {client: self._mixture(place) for place, client in enumerate(self.clients)}
        await self.store.publish_memberships(self.job, MembershipRecord(version=1, round=0, clusters=2, rows=rows), 0)
        self.fence = await self.store.acquire(self.job, "here", 3_600_000) or 0

    async def open(self, evaluation: bool = False) -> None:
        self.number += 1
        now_ms = await self.store.now_ms()
        if not self.parts:
            self.parts = {
                str(client): Participant(samples=120, plan=self._plan(place), memberships=self._mixture(place))
                for place, client in enumerate(self.clients)
            }
        record = RoundRecord(
            number=self.number, phase=Phase.COLLECTING, evaluation=evaluation, base_version=self.number - 1,
            membership_version=1, clusters=2, opened_ms=now_ms, deadline_ms=now_ms + 600_000,
            target=len(self.clients), quorum=max(1, len(self.clients) // 2), participants=self.parts,
        )  # fmt: skip
        await self.store.open_round(self.job, record, self.fence)

    async def deliver(self, count: int) -> None:
        """The first `count` clients send their updates."""
        for client in self.clients[:count]:
            token = await token_of(self.store, client)
            update = update_record(client, self.number)
            await self.store.accept(self.job, update, token)

    async def publish(self, **changes: Any) -> None:
        await self.store.begin_fold(self.job, self.number, self.fence)
        summary = summary_of(self.number, len(self.clients), **changes)
        version = VersionRecord(version=self.number, round=self.number, clusters=2)
        await self.store.publish(self.job, self.number, version, RoundHistory(summary).to_json(), self.fence)

    async def run(self, rounds: int) -> None:
        for _ in range(rounds):
            await self.open()
            await self.publish()

    def _tier(self, place: int) -> str:
        return "small" if place % 2 else "large"

    def _plan(self, place: int) -> AdapterPlan:
        depth, density = TIERS[self._tier(place)]
        return AdapterPlan(
            tier=self._tier(place), depth=depth, density=density, epochs=1.0, max_steps=0, train_a=True, train_b=True
        )

    def _mixture(self, place: int) -> tuple[float, ...]:
        return (0.125, 0.875) if place % 2 else (0.75, 0.25)


def names(count: int, prefix: str = "clinic") -> list[ClientId]:
    return [ClientId(f"{prefix}-{number:04}") for number in range(1, count + 1)]


async def shown_jobs(store: Store) -> WatchedJob:
    """A store with jobs in all conditions; returns the one that runs, with a round open."""
    alone = WatchedJob(store, watched_spec("tickets-alone", 8, "local"), names(8))
    await alone.start()
    await alone.run(8)
    await store.set_status(alone.job, JobStatus.COMPLETED, "", ALIVE)
    failed = WatchedJob(store, watched_spec("notes-2026-10", 6), names(3, "ward"))
    await failed.start()
    await failed.run(2)
    await store.set_status(failed.job, JobStatus.FAILED, "round 3: 1 of 3 updates at the deadline, 2 needed", ALIVE)
    blocked = WatchedJob(store, watched_spec("triage", 12), names(5, "ward"))
    await blocked.start()
    await blocked.run(3)
    await store.set_blocked(blocked.job, "the store is out of memory (STORE_FULL)")
    paused = WatchedJob(store, watched_spec("discharge-letters", 12), names(6, "ward"))
    await paused.start()
    await paused.run(5)
    await store.pause_job(paused.job, "until Monday")
    running = WatchedJob(store, watched_spec("tickets", 20), names(12))
    await running.start()
    await running.run(6)
    await running.open()
    await running.publish(
        accepted=11,
        set_aside=[jobs_pb2.SetAside(client="clinic-0004", reason="its blob is damaged <b>&amp;</b>")],
        set_aside_count=1,
        clipped=[jobs_pb2.Scaled(client="clinic-0007", factor=0.31)],
        clipped_count=1,
        opposed=["clinic-0009"],
        opposed_count=1,
    )
    await running.run(5)
    for client, reason in (
        ("harbour-clinic", "rounds.total = 20: the owner allows 10"),
        ("north-wing", "<script>alert('no')</script>"),
    ):
        await store.enroll(ClientId(client), 0, "0.1.0")
        await store.decline(running.job, ClientId(client), reason)
    await running.open()
    await running.deliver(5)
    return running
