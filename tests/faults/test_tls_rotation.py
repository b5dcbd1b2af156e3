"""A whole federation of real processes over mutual TLS, whose certificates are replaced in the middle of a job."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from fedhft.datasets.federated import ClientFiles
from fedhft.errors import ErrorCode, FedhftError
from fedhft.job import parse_job
from fedhft.jobs.client import JobsClient
from fedhft.local.federation import Federation, FederationLayout
from tests.models import rows, tiny_model

pytestmark = pytest.mark.slow

CLIENTS = ("ash", "birch")
ROUNDS = 6


def until(happened: Callable[[], object], what: str, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not happened():
        assert time.monotonic() < deadline, f"{what} did not happen within {timeout_s} s"
        time.sleep(0.05)


def files(folder: Path, client: str) -> ClientFiles:
    path = folder / f"{client}.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows(40, 7 * len(client))), encoding="utf-8")
    return ClientFiles(client, path, path, path)


def test_certificates_of_all_are_renewed_mid_job_old_ones_revoked_and_nothing_is_lost(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model", layers=2)
    federation = Federation(FederationLayout(tmp_path / "run", model, tls=True))
    spec = parse_job(
        {
            "name": "renewed",
            "model": {"name": str(model), "max_length": 32},
            "task": {"labels": ["bad", "good"]},
            "adapter": {"rank": 4},
            "method": {"preset": "fedhft", "clusters": 2},
            "training": {"learning_rate": 0.01, "batch_size": 8, "epochs": 10},
            "rounds": {"total": ROUNDS, "min_clients": 2, "quorum": 1.0, "deadline": "120s"},
        }
    )
    try:
        federation.start()
        authority = federation.certificates
        assert authority is not None
        federation.jobs.submit(spec)
        federation.start_agents(spec.name, [files(tmp_path, client) for client in CLIENTS])
        until(lambda: federation.jobs.get(spec.name).rounds_done >= 1, "the first round", 120.0)

        def logged(name: str, text: str) -> bool:
            return text in (tmp_path / "run/logs" / f"{name}.log").read_text(encoding="utf-8")

        first = {entry.identity.path: entry.serial for entry in authority.index().entries}
        for path in ("clusterer", "aggregator", "agent/ash"):
            authority.renew(authority.identity(path))
        # The agent takes its new certificate up with its next call; its connection shows the server's new one.
        until(lambda: logged("ash", "new TLS files are used"), "the agent's new certificate")
        until(lambda: logged("aggregator", "new TLS files are used"), "the aggregator's new certificate")
        job = federation.jobs.get(spec.name)
        assert job.rounds_done < ROUNDS, "the job was over before anything was renewed"
        for entry in authority.revoke(first["agent/ash"]):  # of the old certificate, which nobody uses any more
            until_ms = int(entry.not_after.timestamp() * 1000)
            federation.jobs.revoke(entry.serial, entry.identity.uri, until_ms, "renewed")
        job = federation.follow(spec.name, 200.0, lambda change: None)
        assert job.status == "completed"
        assert [entry.accepted for entry in job.history] == [2] * ROUNDS
        assert len(job.results) == 2
        with pytest.raises(FedhftError) as caught, JobsClient(federation.jobs.server, give_up_after_s=0.1) as nobody:
            nobody.list()
        assert caught.value.code is ErrorCode.SERVER_NEEDS_TLS
        page = urllib.request.urlopen(f"http://{federation.metrics}/metrics", timeout=5).read().decode()
        assert 'fedhft_refusals_total{code="certificate_revoked"} 0.0' in page
        assert 'fedhft_refusals_total{code="not_authorised"} 0.0' in page
    finally:
        federation.stop(patience_s=10.0)
