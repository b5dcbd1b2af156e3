"""The section "By hand" of docs/operations.md, line by line, with real processes: it gives what a demo gives.

The lines name fixed ports, so they run in a network namespace of their own where the machine permits one. It takes some
minutes of two cores, so it is not part of `make test`: `make test-system` runs it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fedhft.datasets.federated import FederatedData
from fedhft.demo.settings import DemoSettings, demo_data
from fedhft.local.redis import find_server

ROOT = Path(__file__).resolve().parent.parent.parent
PORTS = (6379, 50051, 50052, 50053, 9101, 9102)
WALK_S = 2400
pytestmark = pytest.mark.timeout(WALK_S + 120)

DRIVER = """
set -euo pipefail
trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT
patient() { for _ in $(seq 600); do if "$@"; then return 0; fi; sleep 0.2; done; echo "gave up on: $*" >&2; return 1; }
answers() { (exec 3<>/dev/tcp/127.0.0.1/$1) 2>/dev/null; }
"""


def blocks() -> list[str]:
    """Every block of commands of the section, in order."""
    text = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    own = text.partition("\n## By hand\n")[2].partition("\n## ")[0]
    return re.findall(r"^```sh\n(.*?)^```", own, re.M | re.S)


def block(first_words: str) -> str:
    """The one block that begins so."""
    (found,) = [text for text in blocks() if text.startswith(first_words)]
    return found


def script() -> str:
    """The lines of the document in their order; around them only what a person does: waiting, another terminal."""
    parts = [DRIVER]
    parts.append(f"( {block('redis-server').strip()} ) > redis.log 2>&1 &\npatient answers 6379\n")
    for name in ("clusterer", "aggregator"):
        parts.append(f"( {block(f'fedhft {name}').strip()} ) > {name}.out 2> {name}.log &\n")
        parts.append(f"patient grep -q listening {name}.out\n")
    parts.append(block("fedhft config set"))
    parts.append(block("MODEL="))
    parts.append(block("fedhft job pause"))
    for number, line in enumerate(block("fedhft job watch").splitlines()):
        parts.append(f"{line} > line-{number}.out\n")
    submit = next(line for line in block("fedhft config set").splitlines() if " submit " in line)
    parts += [f"{submit}\n", block("fedhft job cancel")]
    return "".join(parts)


def in_a_namespace() -> list[str]:
    """What puts a command into a network of its own; empty where its ports are free here; skips where they are not."""
    own = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    tools = shutil.which("unshare") and shutil.which("ip")
    if tools and subprocess.run([*own, "true"], capture_output=True, timeout=30, check=False).returncode == 0:
        return own
    for port in PORTS:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                pytest.skip(f"port {port} is taken here, and this machine permits no network namespace")
    return []


def walk(folder: Path) -> None:
    """Run the script in a folder; what it started ends with it."""
    redis = find_server()
    if redis is None:
        pytest.skip("there is no redis-server")
    (folder / "examples").symlink_to(ROOT / "examples")
    (folder / "home").mkdir()
    bin_folders = [str(Path(sys.executable).parent), str(redis.parent), os.environ["PATH"]]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("FEDHFT_")}
    environment = {
        **inherited,
        "PATH": os.pathsep.join(bin_folders),
        "HOME": str(folder / "home"),
        "XDG_CONFIG_HOME": str(folder / "home" / "config"),
        "XDG_STATE_HOME": str(folder / "home" / "state"),
        "HF_HUB_OFFLINE": "1",
        "NO_COLOR": "1",
        "COLUMNS": "80",
    }
    with (folder / "walk.log").open("wb") as log:
        process = subprocess.Popen(
            [*in_a_namespace(), "bash", "-c", script()],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
        try:
            code = process.wait(WALK_S)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    logs = [*sorted(folder.glob("*.log")), *sorted(folder.glob("line-*.out"))]
    ends = [f"--- {path.name}\n{path.read_text(errors='replace')[-1500:]}" for path in logs]
    assert code == 0, "\n".join(ends)


def groups_found(job: Any) -> set[frozenset[str]]:
    """Clients by the cluster of their largest membership."""
    found: dict[int, set[str]] = {}
    for row in job["memberships"]["rows"]:
        largest = max(range(len(row["weights"])), key=row["weights"].__getitem__)
        found.setdefault(largest, set()).add(row["client"])
    return {frozenset(clients) for clients in found.values()}


def hidden_groups(data: FederatedData) -> set[frozenset[str]]:
    groups = {client.group for client in data.clients}
    return {frozenset(client.client for client in data.clients if client.group == group) for group in groups}


def test_the_documented_lines_give_clusters_tiers_and_a_shared_score(tmp_path: Path) -> None:
    data = demo_data(DemoSettings(out=tmp_path))
    data.write(tmp_path / "out/demo/data")  # as make demo leaves it
    walk(tmp_path)
    shown = {
        line.split()[2] if line.startswith("fedhft job") else "client": (tmp_path / f"line-{number}.out").read_text()
        for number, line in enumerate(block("fedhft job watch").splitlines())
    }
    job = json.loads(shown["get"])
    assert (job["status"], job["rounds_done"]) == ("completed", job["spec"]["rounds"]["total"])

    assert groups_found(job) == hidden_groups(data)
    tiers = {result["client"]: result["tier"] for result in job["results"]}
    assert tiers == {
        "firm-01": "strong", "firm-02": "strong", "firm-03": "middle",
        "firm-04": "middle", "firm-05": "small", "firm-06": "small",
    }  # fmt: skip
    assert all(entry["shared_before"] is not None for entry in job["history"])
    personal, shared = job["final"]["personal_before_mean"], job["final"]["shared_before"]
    assert personal > data.majority() + 0.2, "no better than guessing"
    assert shared > 0.4

    assert "round 1:" in shown["watch"]
    assert "tickets" in shown["list"]
    for client in (owner.client for owner in data.clients):
        assert client in shown["clusters"]
        assert client in shown["clients"]
        assert client in shown["client"]
    for happened in ("job submitted", "job paused", "until Monday", "job resumed", "round 1 opened", "job completed"):
        assert happened in " ".join(shown["events"].split())
    exported = {Path(line).name for line in shown["export"].splitlines()}
    assert exported == {"cluster-0", "cluster-1", "client-firm-01"}
    for name in exported:
        assert (tmp_path / "adapters" / name / "adapter_model.safetensors").is_file()
    assert "deleted" in shown["delete"]
    said = (tmp_path / "walk.log").read_text()
    assert "in use" in said
    assert "tickets: cancelled (wrong labels)" in said
