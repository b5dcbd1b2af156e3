"""A job of any size, written through the store as a long life would have left it, to be read and measured."""

from __future__ import annotations

import numpy as np

from benchmarks.scale_clients import SHAPE
from fedhft.adapter import Float32, Float64
from fedhft.clustering.signature import DIMENSIONS, joined
from fedhft.coordination.history import RoundHistory
from fedhft.ids import ClientId, JobId
from fedhft.job import JobSpec, parse_job
from fedhft.plan import AdapterPlan
from fedhft.records import (
    ClientRecord,
    JobStatus,
    MembershipRecord,
    Participant,
    Phase,
    RoundRecord,
    VersionRecord,
)
from fedhft.store.interface import Store
from fedhft.v1 import jobs_pb2

HOLDER = "benchmarks.scale"
GROUPS = 3
_PLAN = AdapterPlan(tier="standard", depth=1, density=1.0, epochs=1.0, max_steps=0, train_a=True, train_b=True)


def big_job(name: str, clients: int, rounds: int) -> JobSpec:
    """A clustered job that waits for one client more than there are."""
    return parse_job(
        {
            "name": name,
            "model": {"name": "scale"},
            "task": {"labels": ["a", "b"]},
            "adapter": {"rank": SHAPE.rank},
            "rounds": {"total": rounds, "min_clients": clients + 1, "join_timeout": "1d", "client_timeout": "1d"},
            "evaluation": {"every": 0, "final": False},
        }
    )


async def write_clients(store: Store, job: JobId, clients: int) -> None:
    """Join clients with signatures of three groups."""
    await store.fix_schema(job, SHAPE.schema().to_json())
    random = np.random.default_rng(0)
    directions = random.standard_normal((GROUPS, DIMENSIONS))
    for number in range(clients):
        first, second = (_near(directions[number % GROUPS], random) for _ in "uv")
        record = ClientRecord(
            client=f"client-{number:05d}",
            tier="standard",
            samples=100,
            data_digest="",
            signature=tuple(joined(first, second).tolist()),
            halves=(*first.tolist(), *second.tolist()),
            joined_ms=0,
        )
        await store.join(job, record)


def _near(direction: Float64, random: np.random.Generator) -> Float32:
    noisy = direction + 0.7 * random.standard_normal(DIMENSIONS)
    return (noisy / np.linalg.norm(noisy)).astype(np.float32)


async def write_history(store: Store, job: JobId, clients: int, rounds: int, kept: int | None = None) -> None:
    """Publish `rounds` rounds, the last one of all clients, with memberships for all of them; keep `kept` of them."""
    fence = await store.acquire(job, HOLDER, 3_600_000)
    if fence is None:
        raise RuntimeError(f"job {job} is driven by somebody else")
    await store.set_status(job, JobStatus.RUNNING, "", [JobStatus.WAITING], fence)
    names = [ClientId(f"client-{number:05d}") for number in range(clients)]
    rows = {
        str(name): tuple(0.9 if j == place % GROUPS else 0.05 for j in range(GROUPS))
        for place, name in enumerate(names)
    }
    await store.publish_memberships(job, MembershipRecord(version=1, round=0, clusters=GROUPS, rows=rows), 0)
    for number in range(1, rounds + 1):
        asked = names if number == rounds else names[:1]
        part = Participant(samples=100, plan=_PLAN, memberships=(0.9, 0.05, 0.05))
        record = RoundRecord(
            number=number, phase=Phase.COLLECTING, base_version=number - 1, membership_version=1, clusters=GROUPS,
            opened_ms=0, deadline_ms=2**50, target=len(asked), quorum=1, participants=dict.fromkeys(asked, part),
        )  # fmt: skip
        await store.open_round(job, record, fence)
        await store.begin_fold(job, number, fence)
        summary = jobs_pb2.RoundSummary(
            round=number, seconds=1.0, asked=len(asked), accepted=len(asked), cluster_sizes=[1, 1, 1],
            personal_before_mean=0.5, personal_after_mean=0.6, shared_before=0.5, payload_bytes_up=1,
        )  # fmt: skip
        version = VersionRecord(version=number, round=number, clusters=GROUPS)
        await store.publish(job, number, version, RoundHistory(summary).to_json(), fence, None, kept)
    await store.release(job, HOLDER)


def _row(cluster: int) -> tuple[float, ...]:
    return tuple(0.9 if j == cluster else 0.05 for j in range(GROUPS))
