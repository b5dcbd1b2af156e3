"""The aggregator is killed (SIGKILL) at every point of a round; the job ends as if nothing had happened.

Real processes: Redis, clusterer, aggregator, four agents with a real (tiny) model. The published bytes must equal those
of an undisturbed run: nothing accepted is lost, nothing is counted twice.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from fedhft.datasets.client_data import load_client_data
from fedhft.job import JobSpec, parse_job
from fedhft.jobs.client import JobsClient
from fedhft.local.processes import ServiceProcess, stop_all
from fedhft.local.redis import EmbeddedRedis
from fedhft.simulation.run import simulate
from tests.agents import free_address
from tests.models import rows, tiny_model

CLIENTS = ("ash", "birch", "cedar", "dogwood")
ROUNDS = 3
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}


@dataclass
class Site:
    """Everything but the aggregator, which each test starts and loses."""

    folder: Path
    redis: EmbeddedRedis
    clusterer: str
    listen: str
    admin: str
    model: Path
    started: int = 0

    def aggregator(self, failpoint: str = "") -> ServiceProcess:
        self.started += 1
        process = ServiceProcess(
            "aggregator",
            "fedhft_aggregator",
            [
                *("--redis", self.redis.url, "--clusterer", self.clusterer, "--metrics-port", "0"),
                *("--listen", self.listen, "--admin-listen", self.admin, "--takeover", "2"),
            ],
            self.folder / f"aggregator-{self.started}.log",
            {**ENVIRONMENT, "FEDHFT_FAILPOINT": failpoint},
        )
        process.wait_listening(60)
        return process

    def data(self, client: str) -> Path:
        return self.folder / f"{client}.jsonl"

    def spec(self, name: str) -> JobSpec:
        return parse_job(
            {
                "name": name,
                "seed": 7,
                "model": {"name": str(self.model), "max_length": 32},
                "task": {"labels": ["bad", "good"]},
                "adapter": {"rank": 4},
                "method": {"preset": "fedhft", "clusters": 2},
                "tiers": {"whole": {}, "half": {"density": 0.5}},
                "client_tiers": {client: ("whole", "half")[i % 2] for i, client in enumerate(CLIENTS)},
                "rounds": {"total": ROUNDS, "min_clients": 4, "quorum": 1.0, "deadline": "120s"},
                "training": {"learning_rate": 0.01, "batch_size": 8},
                "evaluation": {"final": False},
            }
        )

    def submit(self, name: str) -> None:
        with JobsClient(self.admin, give_up_after_s=60.0) as jobs:
            jobs.submit(self.spec(name))

    def outcome(self, name: str) -> tuple[str, list[int], dict[str, str]]:
        """Status, updates per round, and digest of every scope as published last."""
        with JobsClient(self.admin, give_up_after_s=60.0) as jobs:
            for job in jobs.watch(name):
                last = job
            exported = jobs.export(name)
        digests = {blob.scope: blob.digest.hex() for blob in exported.blobs}
        return last.status, [entry.accepted for entry in last.history], digests


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("killed")
    listen, admin = free_address(), free_address()
    model = tiny_model(folder / "model", layers=2)
    processes: list[ServiceProcess] = []
    with EmbeddedRedis(folder / "redis") as redis:
        try:
            clusterer = ServiceProcess(
                "clusterer",
                "fedhft_clusterer",
                ["--redis", redis.url, "--listen", "127.0.0.1:0", "--metrics-port", "0"],
                folder / "clusterer.log",
                ENVIRONMENT,
            )
            processes.append(clusterer)
            address = str(clusterer.wait_listening(60)["grpc"])
            for position, client in enumerate(CLIENTS):
                data = folder / f"{client}.jsonl"  # the same place as Site.data
                data.write_text("\n".join(json.dumps(row) for row in rows(24, 50 * position)), encoding="utf-8")
                arguments = ["--server", listen, "--client", client, "--data", str(data), "--threads", "1"]
                arguments += ["--state-dir", str(folder / f"state-{client}")]
                agent = ServiceProcess(client, "fedhft_agent", arguments, folder / f"{client}.log", ENVIRONMENT)
                processes.append(agent)
            yield Site(folder, redis, address, listen, admin, model)
        finally:
            for process in processes:
                process.kill()  # asked to stop, an agent would first look for the aggregator, which is gone


@pytest.fixture(scope="module")
def undisturbed(site: Site) -> dict[str, str]:
    aggregator = site.aggregator()
    try:
        site.submit("undisturbed")
        status, accepted, digests = site.outcome("undisturbed")
    finally:
        stop_all([aggregator], 0.0, 15.0)
    assert (status, accepted) == ("completed", [4] * ROUNDS), aggregator.describe_log()
    assert {"shared", "cluster-0"} <= set(digests)
    return digests


@pytest.mark.slow
@pytest.mark.parametrize("failpoint", ["open@2", "accepted@2", "accepted@6", "folding@2", "folded@2", "published@1"])
def test_killed_at_any_point_the_job_ends_with_the_same_bytes(
    site: Site, undisturbed: dict[str, str], failpoint: str
) -> None:
    name = f"killed-{failpoint.replace('@', '-')}"
    aggregator = site.aggregator(failpoint)
    site.submit(name)
    assert aggregator.wait(120), aggregator.describe_log()
    assert aggregator.exit_code == -signal.SIGKILL
    again = site.aggregator()
    try:
        assert site.outcome(name) == ("completed", [4] * ROUNDS, undisturbed), again.describe_log()
    finally:
        stop_all([again], 0.0, 15.0)


@pytest.mark.slow
def test_killed_from_outside_while_updates_arrive_the_job_ends_with_the_same_bytes(
    site: Site, undisturbed: dict[str, str]
) -> None:
    aggregator = site.aggregator()
    site.submit("killed-outside")
    with JobsClient(site.admin, give_up_after_s=60.0) as jobs:
        for job in jobs.watch("killed-outside"):
            if job.open_round == 2:
                break
    os.kill(aggregator.pid, signal.SIGKILL)
    assert aggregator.wait(15)
    again = site.aggregator()
    try:
        assert site.outcome("killed-outside") == ("completed", [4] * ROUNDS, undisturbed), again.describe_log()
    finally:
        stop_all([again], 0.0, 15.0)


@pytest.mark.slow
def test_a_simulation_publishes_the_bytes_of_the_real_federation(site: Site, undisturbed: dict[str, str]) -> None:
    spec = site.spec("undisturbed")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        clients = {client: load_client_data(spec, client, site.data(client)) for client in CLIENTS}
        simulated = simulate(spec, clients)
    finally:
        torch.set_num_threads(threads)
    assert simulated.version is not None
    assert {scope: blob.digest for scope, blob in simulated.version.snapshots.items()} == undisturbed
