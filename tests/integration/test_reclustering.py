"""Whole simulated jobs whose clients' labels change their meaning in mid-job: real gradients, real clustering."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from fedhft.adapter import SHARED
from fedhft.aggregation.versions import snapshot
from fedhft.datasets.client_data import ClientData
from fedhft.datasets.examples import Example
from fedhft.job import JobSpec
from fedhft.simulation.run import Simulated, Simulation
from fedhft.training.base import LoadedBase, load_base
from fedhft.v1 import adapter_pb2, jobs_pb2
from fedhft.wire.codec import encode
from fedhft.wire.digest import digest_of
from tests.models import rows, tiny_model
from tests.workers import job_for

CHANGED_AFTER = 2
ROUNDS = 6


def client(number: int, flipped: bool) -> ClientData:
    """Rows of the good/bad task; where they are flipped the labels mean the opposite."""
    made = [Example(row["text"], None, float(row["label"] != flipped)) for row in rows(48, 60 * number)]
    return ClientData.of(made[:40], made[40:], made[40:])


def clients(flipped: str) -> dict[str, ClientData]:
    """Six clients; "ab" flips those two."""
    return {name: client(number, name in flipped) for number, name in enumerate("abcdef")}


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> JobSpec:
    model = tiny_model(tmp_path_factory.mktemp("model"))
    return job_for(
        model,
        method={"preset": "fedhft"},
        rounds={"total": ROUNDS},
        training={"learning_rate": 5e-3},
        evaluation={"every": 0},
    )


@pytest.fixture(scope="module")
def base(spec: JobSpec) -> LoadedBase:
    return load_base(spec)


def run(
    spec: JobSpec, base: LoadedBase, before: Mapping[str, ClientData], changed: Mapping[str, ClientData]
) -> tuple[Simulation, Simulated, list[int], list[dict[str, int]]]:
    """The job; the number of clusters in force after every round, and each client's cluster then."""
    numbers: list[int] = []
    clusters: list[dict[str, int]] = []

    def observe(job: jobs_pb2.Job) -> None:
        numbers.append(job.memberships.clusters)
        clusters.append(
            {row.client: max(enumerate(row.weights), key=lambda one: one[1])[0] for row in job.memberships.rows}
        )

    simulation = Simulation(spec, before, base, observe=observe, changes={CHANGED_AFTER: changed})
    ended = asyncio.run(simulation.run())
    return simulation, ended, numbers[:ROUNDS], clusters[:ROUNDS]


def check_everybody_holds_what_was_published(simulation: Simulation, ended: Simulated) -> None:
    assert ended.version is not None
    for name, worker in simulation._workers.items():
        state = worker._state.adapters
        assert state.clusters == ended.version.clusters, name
        for scope in (SHARED, *(f"cluster-{j}" for j in range(state.clusters))):
            data = encode(
                snapshot(state, scope), worker.schema, kind=adapter_pb2.BLOB_KIND_SNAPSHOT, encoding="fp32",
                scope=scope, version=ended.version.version,
            )  # fmt: skip
            assert digest_of(data) == ended.version.snapshots[scope].digest, (name, scope)


def test_a_group_that_adopts_the_others_labels_is_merged_within_three_rounds(spec: JobSpec, base: LoadedBase) -> None:
    after = clients("")
    simulation, ended, numbers, _ = run(spec, base, clients("bdf"), {name: after[name] for name in "bdf"})
    assert numbers[:CHANGED_AFTER] == [2] * CHANGED_AFTER
    assert numbers[CHANGED_AFTER + 2 :] == [1] * (ROUNDS - CHANGED_AFTER - 2)
    check_everybody_holds_what_was_published(simulation, ended)


def test_a_group_whose_labels_change_their_meaning_splits_off_within_three_rounds(
    spec: JobSpec, base: LoadedBase
) -> None:
    after = clients("bdf")
    simulation, ended, numbers, found = run(spec, base, clients(""), {name: after[name] for name in "bdf"})
    assert numbers[:CHANGED_AFTER] == [1] * CHANGED_AFTER
    assert numbers[CHANGED_AFTER + 2 :] == [2] * (ROUNDS - CHANGED_AFTER - 2)
    last = found[-1]
    assert {last[name] for name in "ace"} == {1 - last["b"]}
    assert {last[name] for name in "bdf"} == {last["b"]}
    assert all(one == last for one in found[CHANGED_AFTER + 2 :])
    check_everybody_holds_what_was_published(simulation, ended)


def test_a_client_that_changes_sides_changes_its_cluster_and_the_clusters_keep_their_numbers(
    spec: JobSpec, base: LoadedBase
) -> None:
    after = clients("bf")
    simulation, ended, numbers, found = run(spec, base, clients("bdf"), {"d": after["d"]})
    assert numbers == [2] * ROUNDS
    before, last = found[CHANGED_AFTER - 1], found[-1]
    assert last["d"] == before["a"] != before["d"]
    assert {name: last[name] for name in "abcef"} == {name: before[name] for name in "abcef"}
    check_everybody_holds_what_was_published(simulation, ended)
