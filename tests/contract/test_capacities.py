"""Contract of every store: what devices can do, and the plans made from it."""

from __future__ import annotations

from fedhft.errors import ErrorCode
from fedhft.ids import JobId
from fedhft.planning.allocation import Allocated
from fedhft.planning.estimates import Capacity
from fedhft.planning.planned import Bound, Planned
from fedhft.records import JobStatus
from fedhft.store.interface import Store
from tests.contract.federation import ALICE, BOB, CAROL, JOB, SPEC, open_first_round, refused

FAST = Capacity(
    0.02, 0.018, 1.5, 8.0, 1e6, 2e6, 6, keeps=True, kept=(0.0, 0.4), scored_at=(2,), reports=3, energy=420.5
)
SLOW = Capacity(0.2, 0.18)
PLANS = Allocated(
    made=3,
    reason="a device became much faster or slower",
    horizon=12.5,
    rounds=9.25,
    plans={
        "alice": Planned(4, 12, True, 11.0, Bound.HORIZON),
        "bob": Planned(0, 0, False, 0.0, Bound.ABSENT),
    },
    absent={"bob": 2},
    number=4,
    turns={"carol": Planned(1, 3, False, 40.0, Bound.TURN)},
    stale="",
)


async def test_what_is_known_of_devices_is_kept_by_client(store: Store) -> None:
    fence = await open_first_round(store)
    assert await store.capacities(JOB, ["alice"]) == {}
    await store.note_capacity(JOB, ALICE, SLOW)
    await store.note_capacities(JOB, {"alice": FAST, "bob": SLOW}, fence)
    assert await store.capacities(JOB, [CAROL, BOB, ALICE]) == {"alice": FAST, "bob": SLOW}
    assert await store.capacities(JOB, []) == {}


async def test_the_plans_in_force_are_kept_whole(store: Store) -> None:
    fence = await open_first_round(store)
    assert await store.allocated(JOB) is None
    await store.keep_allocated(JOB, PLANS, fence)
    assert await store.allocated(JOB) == PLANS


async def test_only_the_holder_of_the_lease_writes_estimates_and_plans(store: Store) -> None:
    fence = await open_first_round(store)
    with refused(ErrorCode.FENCED):
        await store.note_capacities(JOB, {"alice": FAST}, fence - 1)
    with refused(ErrorCode.FENCED):
        await store.keep_allocated(JOB, PLANS, fence - 1)
    assert await store.capacities(JOB, ["alice"]) == {}
    assert await store.allocated(JOB) is None


async def test_a_device_of_an_unknown_job_is_not_kept(store: Store) -> None:
    with refused(ErrorCode.UNKNOWN_JOB):
        await store.note_capacity(JobId("nobody-knows"), ALICE, FAST)
    assert await store.capacities(JobId("nobody-knows"), ["alice"]) == {}


async def test_a_deleted_job_leaves_no_estimates(store: Store) -> None:
    await store.create_job(JOB, SPEC)
    await store.note_capacity(JOB, ALICE, FAST)
    await store.delete_job(JOB, list(JobStatus))
    assert await store.capacities(JOB, ["alice"]) == {}
