"""Somebody who submits jobs to an aggregator in a container, by our command line, with a certificate or without one."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.system.podman import inspect, process_of

ADMIN = "127.0.0.1:50053"
JOB = """name = "{name}"
[model]
name = "{model}"
max_length = 32
[task]
labels = ["bad", "good"]
[adapter]
rank = 4
[method]
preset = "fedhft"
clusters = 1
[rounds]
total = {rounds}
min_clients = {clients}
quorum = 1.0
deadline = "10m"
join_timeout = "15m"
[evaluation]
final = false
"""


@dataclass(frozen=True)
class Operator:
    """Whoever has `files` (tls.crt, tls.key, ca.crt), on the loopback of the container `place`."""

    place: str
    files: Path
    model: str
    """Of the jobs submitted."""

    def command(self, *arguments: str | Path, certified: bool = True) -> list[str]:
        """Our command line, run where `kubectl port-forward` would end."""
        own = ["--tls-certificate", f"{self.files}/tls.crt", "--tls-key", f"{self.files}/tls.key"]
        return [
            "nsenter", "--net", "--target", str(process_of(self.place)), sys.executable, "-m", "fedhft.cli",
            *map(str, arguments), "--server", ADMIN, "--tls-authority", f"{self.files}/ca.crt",
            *(own if certified else []),
        ]  # fmt: skip

    def fedhft(self, *arguments: str | Path, timeout: float = 300) -> str:
        """What a command prints. Fails the test when it is refused."""
        done = subprocess.run(self.command(*arguments), capture_output=True, text=True, timeout=timeout, check=False)
        assert done.returncode == 0, f"{arguments}: {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr}"
        return done.stdout

    def refused(self, *arguments: str) -> int:
        """Exit code of a command without a certificate."""
        command = self.command(*arguments, certified=False)
        return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode

    def submit(self, folder: Path, name: str, rounds: int, clients: int) -> None:
        """Submit a two-class job for rows of tests.models."""
        file = folder / f"{name}.toml"
        text = JOB.format(name=name, model=self.model, rounds=rounds, clients=clients)
        file.write_text(text, encoding="utf-8")
        self.fedhft("job", "submit", file)

    def job(self, name: str) -> dict[str, Any]:
        return dict(json.loads(self.fedhft("job", "get", name, "--format", "json")))


def address_of(place: str, network: str) -> str:
    """Where a container is on a network."""
    return str(inspect(place)["NetworkSettings"]["Networks"][network]["IPAddress"])


def accepted(address: str) -> int:
    """Updates that the aggregator there has recorded since it was started; 0 while it does not answer."""
    try:
        with urllib.request.urlopen(f"http://{address}:9101/metrics", timeout=5) as page:
            text = page.read().decode()
    except OSError:
        return 0
    return round(sum(map(float, re.findall(r"^fedhft_updates_accepted_total\{.*\} (\S+)$", text, re.M))))
