"""The task of each client of an open round."""

from __future__ import annotations

from typing import Any

import pytest

from fedhft.coordination.job_cache import CachedJob
from fedhft.coordination.tasks import next_task
from fedhft.records import (
    ClientRecord,
    JobRecord,
    JobStatus,
    MembershipRecord,
    Phase,
    VersionRecord,
)
from fedhft.rounds.fetching import Held
from fedhft.rounds.opening import open_round
from fedhft.stored_blob import StoredBlob
from fedhft.v1 import adapter_pb2, federation_pb2
from tests.light import light_job, light_schema

SCHEMA = light_schema()
NAMES = ("a", "b", "c", "d", "e")
WITH_SPLIT = ("a", "c", "e")
MEMBERSHIPS = MembershipRecord(
    version=1, round=0, clusters=2,
    rows={"a": (1.0, 0.0), "b": (0.0, 1.0), "c": (0.5, 0.5), "d": (0.97, 0.03), "e": (0.25, 0.75)},
)  # fmt: skip


def cached(number: int = 2, *, final: bool = False, phase: Phase = Phase.COLLECTING, **job: Any) -> CachedJob:
    spec = light_job("j", **{"method": {"clusters": 2}, **job})
    clients = {
        name: ClientRecord(
            client=name, tier="standard", samples=10 * (1 + place), data_digest="", joined_ms=0,
            has_shared_validation=name in WITH_SPLIT,
        )
        for place, name in enumerate(NAMES)
    }  # fmt: skip
    base = number - 1
    current = open_round(
        spec, SCHEMA, number=number, evaluation=final, base_version=base, memberships=MEMBERSHIPS,
        clients=clients, asked=NAMES, now_ms=0,
    )  # fmt: skip
    versions = {}
    if base:
        names = ("shared", "cluster-0", "cluster-1")
        versions[base] = VersionRecord(
            version=base, round=base, clusters=2,
            deltas={name: StoredBlob(digest="aa" * 32, size=5) for name in names},
            snapshots={name: StoredBlob(digest="bb" * 32, size=50) for name in names},
        )  # fmt: skip
    record = JobRecord(job="j", spec_json="", status=JobStatus.RUNNING, reason="", created_ms=0)
    current = current.model_copy(update={"phase": phase})
    return CachedJob(1, record, spec, SCHEMA, current, versions)


def train(view: CachedJob, client: str, held: dict[str, int] | None = None) -> federation_pb2.TrainTask:
    answer = next_task(view, client, Held(held or {}))
    assert answer is not None
    return answer.train


def test_nobody_has_a_task_in_a_round_that_is_not_collecting_or_that_it_was_not_asked_in() -> None:
    assert next_task(cached(phase=Phase.FOLDING), "a", Held()) is None
    assert next_task(cached(phase=Phase.PUBLISHED), "a", Held()) is None
    assert next_task(cached(), "stranger", Held()) is None


def test_a_task_carries_the_pinned_plan_the_base_version_and_the_rounds_learning_rate() -> None:
    view = cached(number=3, training={"learning_rate": 0.1, "learning_rate_decay": 0.5})
    assert view.round is not None
    task = train(view, "b")
    assert (task.round, task.view.version, task.learning_rate) == (3, 2, pytest.approx(0.025))
    assert task.plan == view.round.participants["b"].plan.message()
    assert task.max_update_bytes > 0


def test_every_client_and_round_has_a_seed_of_its_own() -> None:
    seeds = {train(cached(number=number), client).seed for number in (1, 2) for client in NAMES}
    assert len(seeds) == 10


def test_the_shared_rows_are_dealt_out_among_those_who_have_them() -> None:
    view = cached()
    dealt = {client: train(view, client).shared for client in NAMES}
    assert [(dealt[c].index, dealt[c].count) for c in WITH_SPLIT] == [(0, 3), (1, 3), (2, 3)]
    assert [(dealt[c].index, dealt[c].count) for c in ("b", "d")] == [(0, 0), (0, 0)]


def test_scores_are_asked_for_every_so_many_rounds() -> None:
    asked = [train(cached(number=n, evaluation={"every": 2}), "a") for n in (1, 2, 3, 4)]
    assert [task.evaluate for task in asked] == [False, True, False, True]
    assert [task.shared.count for task in asked] == [0, 3, 0, 3]
    never = train(cached(evaluation={"every": 0}), "a")
    assert (never.evaluate, never.shared.count) == (False, 0)


def test_a_client_is_served_only_the_clusters_it_has_weight_in() -> None:
    served = {client: list(train(cached(), client).view.memberships) for client in NAMES}
    assert served["a"] == [1.0, 0.0]
    assert served["c"] == [0.5, 0.5]
    assert served["d"] == [1.0, 0.0]  # 0.03 is below clustering.serve_above
    scopes = {client: [ref.scope for ref in train(cached(), client).view.blobs] for client in ("b", "c")}
    assert scopes == {"b": ["shared", "cluster-1"], "c": ["shared", "cluster-0", "cluster-1"]}


def test_only_what_a_client_lacks_is_listed_the_cheaper_way() -> None:
    view = cached(number=3)
    behind = train(view, "a", {"shared": 1, "cluster-0": 2})
    assert [(ref.scope, ref.version, ref.kind) for ref in behind.view.blobs] == [
        ("shared", 2, adapter_pb2.BLOB_KIND_DELTA)
    ]
    fresh = train(view, "a")  # the delta of version 1 is not kept any more
    assert {ref.kind for ref in fresh.view.blobs} == {adapter_pb2.BLOB_KIND_SNAPSHOT}
    assert [(ref.size, ref.digest.hex()) for ref in fresh.view.blobs] == [(50, "bb" * 32)] * 2


def test_the_mass_weighted_mixture_weighs_clients_by_their_rows() -> None:
    # rows 10, 20, 30, 40, 50 of a..e, times their first membership, over 150
    first = (10 * 1.0 + 20 * 0.0 + 30 * 0.5 + 40 * 0.97 + 50 * 0.25) / 150
    assert cached().mass_memberships == pytest.approx((first, 1 - first))


def test_the_final_evaluation_scores_the_own_and_the_mass_weighted_mixture() -> None:
    view = cached(final=True)
    tasks = {client: next_task(view, client, Held()) for client in ("a", "b", "c")}
    whole = tasks["c"].evaluate  # type: ignore[union-attr]
    assert (whole.shared.index, whole.shared.count) == (0, 1)  # final_shared = "full": every client scores all rows
    assert (whole.shared_mass_weighted.index, whole.shared_mass_weighted.count) == (1, 3)
    assert len(whole.view.mass_memberships) == 2
    assert [ref.scope for ref in tasks["a"].evaluate.view.blobs] == ["shared", "cluster-0", "cluster-1"]  # type: ignore[union-attr]
    without = tasks["b"].evaluate  # type: ignore[union-attr]
    assert (without.shared.count, without.shared_mass_weighted.count) == (0, 0)


def test_a_sharded_final_evaluation_deals_the_rows_out() -> None:
    answer = next_task(cached(final=True, evaluation={"final_shared": "sharded"}), "e", Held())
    assert answer is not None
    assert (answer.evaluate.shared.index, answer.evaluate.shared.count) == (2, 3)


def test_the_share_that_a_client_is_told_counts_what_is_left_after_trimming() -> None:
    method = {"clusters": 2, "combine": "trimmed-mean"}
    plain = train(cached(server={"trim": 0.25}), "b").share
    assert 0 < plain < 0.5
    assert train(cached(method=method, server={"trim": 0.25}), "b").share == pytest.approx(2 * plain)
