"""A whole job where every process may write its declared folders and nothing else, as on a read-only root."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from fedhft.jobs.client import JobsClient, is_over
from tests.agents import Site
from tests.models import tiny_model
from tests.sealed import AS_ROOT, HOMELESS, sealed
from tests.started import Started

pytestmark = [AS_ROOT, pytest.mark.timeout(300)]
ANYWHERE = ["/", "/tmp", "/dev/shm", "/var/tmp", str(Path(__file__).parent)]


def writes(command: tuple[str, ...], folder: str) -> bool:
    """Whether a program under this seal can make a file there."""
    program = f"import tempfile; tempfile.TemporaryFile(dir={folder!r}).write(b'x')"
    return subprocess.run([*command, sys.executable, "-c", program], capture_output=True, check=False).returncode == 0


def test_the_seal_leaves_the_declared_folders_and_nothing_else(tmp_path: Path) -> None:
    own, other = tmp_path / "own", tmp_path / "other"
    other.mkdir(mode=0o777)
    other.chmod(0o777)
    seal = sealed(own)
    assert writes(seal, str(own))
    assert [folder for folder in [*ANYWHERE, str(other)] if writes(seal, folder)] == []


@contextmanager
def running(name: str, seal: tuple[str, ...], arguments: list[str], folder: Path) -> Iterator[Started]:
    """A process under a seal, without a home and with a temporary folder that it cannot write."""
    command = [*seal, sys.executable, "-m", f"fedhft_{name}", "--metrics-port", "0", *arguments]
    process = Started(folder / f"{name}.log", command, {**HOMELESS, "TMPDIR": "/var/tmp"})
    try:
        yield process
    finally:
        process.stop()


def test_a_job_runs_where_only_blobs_and_the_agents_state_can_be_written(fresh_redis_url: str, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    free = ["--listen", "127.0.0.1:0", "--redis", fresh_redis_url]
    blobs, state = tmp_path / "blobs", tmp_path / "state"
    with ExitStack() as stack:
        clusterer = stack.enter_context(running("clusterer", sealed(), free, tmp_path))
        aggregator = stack.enter_context(
            running(
                "aggregator", sealed(blobs),
                [*free, "--admin-listen", "127.0.0.1:0", "--blobs", f"dir:{blobs}",
                 "--clusterer", clusterer.listening()["grpc"]],
                tmp_path,
            )
        )  # fmt: skip
        found = aggregator.listening()
        site = Site(tmp_path, found["grpc"], found["admin"], tiny_model(tmp_path / "model", layers=2))
        site.submit("sealed", rounds={"min_clients": 1}, evaluation={"final": True})
        agent = stack.enter_context(
            running(
                "agent", sealed(state),
                ["--server", site.server, "--client", "ash", "--data", str(site.data("ash")), "--state-dir", str(state),
                 "--threads", "1", "--once"],
                tmp_path,
            )
        )  # fmt: skip
        assert agent.ends(180) == 0, agent.said[-4000:]
        with JobsClient(site.admin) as jobs:
            job = jobs.get("sealed")
        assert is_over(job)
        assert (job.status, job.rounds_done) == ("completed", 2), aggregator.said[-4000:]
        for process in (clusterer, aggregator, agent):
            assert "Read-only file system" not in process.said, process.said[-4000:]
        assert list(blobs.rglob("*")), "tensors are on the volume"
        assert list(state.rglob("*")), "the agent kept its state"
