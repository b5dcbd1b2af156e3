"""A few kills of `benchmarks.chaos`, and that its comparison notices what it is there to notice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from benchmarks.chaos import _compare, run
from benchmarks.chaos_site import JobTrace, RoundTrace, Size


def test_after_a_few_kills_every_acknowledged_update_was_folded_and_the_same_bytes_published(tmp_path: Path) -> None:
    verdict = run(tmp_path, kills=4, seed=4, pause_s=0.3, size=Size(clients=2, rounds=3), bound_s=120.0)
    assert verdict.faults == []
    assert sum(verdict.kills.values()) == 4
    assert verdict.rounds == 3 * verdict.jobs
    assert verdict.compared > 0
    assert verdict.acknowledged == verdict.folded == 6 * verdict.jobs


def test_one_differing_blob_is_a_fault_and_rounds_after_other_memberships_are_not_compared() -> None:
    rounds = tuple(RoundTrace((("shared", f"digest {i}"),), i, 6, ()) for i in range(4))
    job = JobTrace("job", "completed", 1.0, rounds)
    assert _compare(job, job) == (4, [])
    other = replace(rounds[2], blobs=(("shared", "another digest"),))
    same, (fault,) = _compare(replace(job, rounds=(*rounds[:2], other, rounds[3])), job)
    assert same == 2
    assert fault == "job job round 3: published bytes differ from the undisturbed run"
    parted = replace(other, membership_version=7)
    assert _compare(replace(job, rounds=(*rounds[:2], parted, rounds[3])), job) == (2, [])
    unkept = replace(rounds[0], blobs=())
    assert _compare(replace(job, rounds=(unkept,)), job) == (0, ["job job round 1: nothing was published"])
