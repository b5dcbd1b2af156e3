"""deploy/compose by podman-compose: the commands of its README, a job, and a Prometheus that has scraped everything.

Grafana's image cannot be had on a machine without a registry, so its profile stays off here.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from tests.deploy.rendering import K8S
from tests.models import rows, tiny_model
from tests.system import image_builds
from tests.system.operators import JOB
from tests.system.podman import available, environment, inspect, logs, podman, until
from tests.unit.test_house import ROOT

pytestmark = [pytest.mark.timeout(1800), pytest.mark.containers]
FOLDER = ROOT / "deploy/compose"
PROJECT = "fedhft-test"
CLIENTS = ("firm-01", "firm-02", "firm-03")
TARGETS = {"aggregator:9101", "clusterer:9102", "agent-01:9103", "agent-02:9103", "agent-03:9103"}
PROMETHEUS = "127.0.0.1:19090"


def blocks() -> list[list[str]]:
    """The README's blocks of commands that are to be run, line by line."""
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    return [block.splitlines() for block in re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S)]


class Composed:
    """A copy of deploy/, as a person would have it, with rows, a model and a job file."""

    def __init__(self, folder: Path) -> None:
        shutil.copytree(ROOT / "deploy", folder / "deploy", ignore=shutil.ignore_patterns(K8S.name))
        self.folder = folder / "deploy/compose"
        (self.folder / "data").mkdir()
        (self.folder / "jobs").mkdir()
        for number, client in enumerate(CLIENTS):
            lines = "".join(json.dumps(row) + "\n" for row in rows(40, 50 * number))
            (self.folder / f"data/{client}.jsonl").write_text(lines, encoding="utf-8")
        tiny_model(self.folder / "data/model", layers=2)
        text = JOB.format(name="composed", model="/data/model", rounds=2, clients=len(CLIENTS))
        (self.folder / "jobs/job.toml").write_text(text, encoding="utf-8")
        for path in (folder, *folder.parents[:2], *self.folder.rglob("*")):
            path.chmod(path.stat().st_mode | (0o055 if path.is_dir() else 0o044))

    def run(self, line: str, timeout: float = 300) -> str:
        """What a line of the README prints, with podman-compose. Fails the test when it fails."""
        program = Path(sys.executable).with_name("podman-compose")
        line = line.replace("docker compose", f"{program} --project-name {PROJECT}").replace("NAME", "composed")
        done = subprocess.run(
            ["sh", "-ec", line], cwd=self.folder, capture_output=True, text=True, timeout=timeout, check=False,
            env={**environment(), "COMPOSE_PROFILES": ""},
        )  # fmt: skip
        assert done.returncode == 0, f"{line}: {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    def container(self, service: str) -> str:
        return f"{PROJECT}_{service}_1"


def ask(query: str) -> list[dict[str, Any]]:
    """Series that Prometheus has for a query; none while it does not answer."""
    url = f"http://{PROMETHEUS}/api/v1/query?" + urllib.parse.urlencode({"query": query})
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return list(json.load(answer)["data"]["result"])
    except OSError:
        return []


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Composed]:
    available()
    pytest.importorskip("podman_compose", reason="podman-compose is in the extra `dev`: run make venv")
    image_builds.redis()
    image_builds.ours()
    made = Composed(tmp_path_factory.mktemp("compose"))
    (first, *_) = blocks()
    assert first[0] == "cp .env.example .env"
    made.run(first[0])
    with (made.folder / ".env").open("a", encoding="utf-8") as file:
        file.write(
            f"PROMETHEUS_IMAGE={image_builds.prometheus()}\nPROMETHEUS_PORT={PROMETHEUS.partition(':')[2]}\n"
            "FEDHFT_PORT=15051\nFEDHFT_MODEL=/data/model\nHF_HUB_OFFLINE=1\nFEDHFT_THREADS=1\n"
        )
    down = "docker compose --profile agents --profile ops down --volumes"
    made.run(down)
    try:
        yield made
    finally:
        for service in ("certs", "aggregator", "clusterer", "agent-01", "prometheus"):
            print(f"--- {service}\n{logs(made.container(service))[-1500:]}")
        made.run(down)


def test_the_commands_of_the_readme_make_a_federation_that_prometheus_sees(composed: Composed) -> None:
    first, agents, job, other = blocks()
    for line in first[1:]:
        composed.run(line)
    probe = ("exec", composed.container("aggregator"), "fedhft", "probe")
    until("the aggregator is ready", lambda: podman(*probe, check=False).returncode == 0, 90, 1.0)
    for line in [*agents, *job]:
        composed.run(line)
    mount = Path(inspect(f"{PROJECT}_adapters", "volume")["Mountpoint"])
    found = list(mount.rglob("adapter_model.safetensors"))
    assert found
    assert all(load_file(file) for file in found)

    until("all are scraped", lambda: {s["metric"]["instance"] for s in ask("up == 1")} == TARGETS, 60, 1.0)
    published = 'sum(fedhft_rounds_total{outcome="published"})'
    until("two rounds are in Prometheus", lambda: [s["value"][1] for s in ask(published)] == ["2"], 60, 1.0)
    assert [s for s in ask('fedhft_agent_socket_bytes_total{job="agent"}') if float(s["value"][1]) > 0]

    said = composed.run(other[0])
    assert "agent/firm-04" in said


def test_down_ends_all_and_keeps_the_volumes(composed: Composed) -> None:
    composed.run("docker compose --profile agents --profile ops down")
    left = podman("ps", "-a", "--filter", f"label=com.docker.compose.project={PROJECT}", "--quiet").stdout
    assert left == ""
    assert f"{PROJECT}_redis" in podman("volume", "ls", "--quiet").stdout.split()
