"""Trainings of `benchmarks.clusters`: a federation with one cluster, with clusters it is told, or those it finds."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.cluster_cases import Case, data_of, job_of
from fedhft.coordination.clusterer import Clusterer
from fedhft.datasets.client_data import ClientData
from fedhft.datasets.federated import FederatedData
from fedhft.ids import JobId
from fedhft.job import parse_job
from fedhft.local.base_model import base_model
from fedhft.records import MembershipRecord
from fedhft.reporting.result import measured
from fedhft.simulation.clusterer import LocalClusterer
from fedhft.simulation.run import Simulated, Simulation
from fedhft.store.interface import Store
from fedhft.training.base import load_base

ARMS = ("one", "told", "found")
_VALIDATION = 200


def worth_training(case: Case, arm: str) -> bool:
    """Whether an arm tells more than another does: without groups, what is found is one cluster."""
    return arm != "found" or case.groups != 1


def trained(case: Case, arm: str, seed: int, folder: Path, cache: Path, rounds: int) -> dict[str, float | None]:
    """Final scores of one run, from the cache if they are there."""
    name = case.name.replace(", ", "-").replace(" ", "")
    file = cache / f"{name}-data{seed}-{arm.replace(' ', '-')}-rounds{rounds}.json"
    if not file.exists():
        cache.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(_scores(_run(case, arm, seed, folder, rounds))), encoding="utf-8")
    found: dict[str, float | None] = json.loads(file.read_text(encoding="utf-8"))
    return found


def _run(case: Case, arm: str, seed: int, folder: Path, rounds: int) -> Simulated:
    data = data_of(case, folder, seed)
    model = base_model(None)
    spec = job_of(case, data, model.name, seed, clusters=1 if arm == "one" else "auto")
    raw = spec.model_dump(mode="json")
    raw["rounds"]["total"] = rounds
    raw["evaluation"] |= {"every": 0, "final_shared": "sharded"}
    spec = parse_job(raw)
    held = {
        own.client: ClientData.of(own.train, own.holdout, data.shared[own.group % len(data.shared)][:_VALIDATION])
        for own in data.clients
    }
    clusterer: Callable[[Store], Clusterer] = LocalClusterer
    if arm == "told":
        clusterer = lambda store: GivenClusterer(store, data)  # noqa: E731
    return asyncio.run(Simulation(spec, held, load_base(spec, str(model.path)), clusterer_of=clusterer).run())


class GivenClusterer:
    """Puts every client into the cluster of its group; where there are no groups, in two by turns."""

    def __init__(self, store: Store, data: FederatedData) -> None:
        self._store = store
        self._groups: Mapping[str, int] = {
            client.client: client.group if data.has_groups else number % 2 for number, client in enumerate(data.clients)
        }

    async def update_memberships(self, job: JobId, expected_version: int, after_round: int) -> None:
        """See Clusterer."""
        count = max(self._groups.values()) + 1
        rows = {
            client: tuple(float(group == cluster) for cluster in range(count)) for client, group in self._groups.items()
        }
        record = MembershipRecord(version=expected_version + 1, round=after_round, clusters=count, rows=rows)
        await self._store.publish_memberships(job, record, expected_version)


def _scores(ended: Simulated) -> dict[str, float | None]:
    final = ended.job.final
    return {
        "clusters": float(ended.memberships.clusters if ended.memberships else 1),
        "personal": measured(final, "personal_before_mean"),
        "worst_tenth": measured(final, "personal_before_worst_tenth"),
        "shared": measured(final, "shared_before"),
        "mass_weighted": measured(final, "shared_mass_weighted"),
    }
