"""From signatures in a store to memberships in a store (fedhft.coordination.memberships)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from signing import halves

from fedhft.clustering.signature import joined
from fedhft.coordination.describe import memberships_message
from fedhft.coordination.memberships import publish_memberships
from fedhft.ids import ClientId, JobId
from fedhft.records import ClientRecord, MembershipRecord
from fedhft.store.in_memory import InMemoryStore
from tests.light import light_job

JOB = JobId("j")


class Clusterings:
    """A store with a job and its clients, clustered after one round after the other."""

    def __init__(self) -> None:
        self.store = InMemoryStore()
        self.latest: MembershipRecord | None = None

    async def begin(self, **changes: Any) -> None:
        await self.store.create_job(JOB, light_job(JOB, **changes).canonical())

    async def join(
        self, labels: Sequence[int], seed: int = 0, votes: bool = True, only: Sequence[int] | None = None
    ) -> None:
        first, second = (half.astype(np.float32) for half in halves(labels, seed))
        for number in range(len(labels)) if only is None else only:
            record = ClientRecord(
                client=f"c{number:02d}", tier="standard", samples=10 + number, joined_ms=0,
                data_digest=f"{labels[number]}{seed}".ljust(64, "0"),
                signature=tuple(joined(first[number], second[number]).tolist()),
                halves=(*first[number].tolist(), *second[number].tolist()) if votes else (),
            )  # fmt: skip
            await self.store.join(JOB, record)

    async def cluster(self) -> MembershipRecord:
        seen = self.latest
        version, after = (seen.version, seen.round + 1) if seen else (0, 0)
        self.latest = await publish_memberships(self.store, JOB, version, after)
        return self.latest


AUTO = {"method": {"preset": "fedhft", "clusters": "auto"}}


async def test_clusters_are_found_by_halves_and_the_reason_is_kept_and_told() -> None:
    job = Clusterings()
    await job.begin(**AUTO)
    await job.join([0, 1] * 3)
    found = await job.cluster()
    assert found.clusters == 2
    assert found.choice is not None
    assert (found.choice.found, found.choice.voters) == (2, 6)
    assert found.confidence == found.choice.certainty
    told = memberships_message(JOB, found)
    assert told.choice.tried[0].gain == found.choice.tried[0].gain
    assert told.confidence == found.confidence
    again = await job.cluster()
    assert again.choice is not None
    assert again.choice.tried == found.choice.tried
    assert again.choice.held == again.choice.tried[0].step  # now that there are two, what holds them is known too
    assert MembershipRecord.model_validate_json(again.model_dump_json()) == again


async def test_agents_of_earlier_releases_are_put_into_clusters_and_have_no_say() -> None:
    job = Clusterings()
    await job.begin(**AUTO)
    await job.join([0, 1] * 3, votes=False)
    alone = await job.cluster()
    assert (alone.clusters, alone.choice.voters if alone.choice else None) == (1, 0)
    await job.join([0, 1] * 3 + [0, 1], only=range(4, 8))  # four that vote
    await job.join([0, 1] * 3 + [0, 1], votes=False, only=range(4))
    mixed = await job.cluster()
    assert mixed.choice is not None
    assert (mixed.clusters, mixed.choice.voters) == (2, 4)
    largest = [int(np.argmax(mixed.rows[f"c{number:02d}"])) for number in range(8)]
    assert largest in ([0, 1] * 4, [1, 0] * 4)


async def test_a_job_that_fixes_the_number_needs_no_votes() -> None:
    job = Clusterings()
    await job.begin(method={"preset": "fedhft", "clusters": 2})
    await job.join([0, 1] * 3, votes=False)
    found = await job.cluster()
    assert (found.clusters, found.choice) == (2, None)
    assert found.confidence is not None


async def test_signatures_of_updates_keep_the_rule_without_halves() -> None:
    job = Clusterings()
    await job.begin(method={"preset": "fedhft", "clusters": "auto", "signature": "update"})
    await job.join([0, 1] * 6, votes=False)
    found = await job.cluster()
    assert (found.clusters, found.choice) == (2, None)


async def test_a_client_whose_data_changed_is_not_held_by_its_last_memberships() -> None:
    job = Clusterings()
    await job.begin(**AUTO, clustering={"smoothing": 0.9})
    labels = [0, 1] * 4
    await job.join(labels)
    before = await job.cluster()
    await job.join([0, 1] * 3 + [0, 0], only=[7])
    after = await job.cluster()
    assert np.argmax(after.rows["c07"]) == np.argmax(before.rows["c00"])
    assert max(after.rows["c07"]) > 0.9


async def test_what_clusters_came_from_is_kept_until_they_change_again() -> None:
    job = Clusterings()
    await job.begin(**AUTO)
    await job.join([0] * 8)
    assert (await job.cluster()).clusters == 1
    await job.join([0, 1] * 4)
    assert [(await job.cluster()).clusters for _ in range(3)] == [1, 2, 2]
    assert job.latest is not None
    assert job.latest.origins == ((1.0,), (1.0,))
    await job.join([0] * 8)
    assert [(await job.cluster()).clusters for _ in range(3)] == [2, 1, 1]
    assert len(job.latest.origins) == 1
    assert sum(job.latest.origins[0]) == 1.0


async def test_clients_that_left_are_forgotten() -> None:
    job = Clusterings()
    await job.begin(**AUTO)
    await job.join([0, 1] * 4)
    await job.cluster()
    await job.store.leave(JOB, ClientId("c07"))
    left = await job.cluster()
    assert "c07" not in left.rows
    assert "c07" not in left.data
