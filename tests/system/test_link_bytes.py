"""What an agent says its sockets carried is what crossed its link: a thin one, between two network namespaces."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fedhft.certs.authority import Authority
from fedhft.jobs.client import JobsClient, is_over
from fedhft.local.processes import ServiceProcess, stop_all
from fedhft.rpc.tls import TlsSettings
from tests.agents import ENVIRONMENT, Site
from tests.models import tiny_model
from tests.unit.test_house import ROOT

pytestmark = pytest.mark.timeout(600)
SPACE, HERE, THERE = "fedhft-link", "10.77.41.1", "10.77.41.2"
OURS, THEIRS = "fedhft-l0", "fedhft-l1"
RATE = ("rate", "1mbit", "burst", "16kb", "latency", "2000ms")
PAGES = 19103


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=30)


@contextmanager
def thin_link() -> Iterator[None]:
    """A namespace of its own behind a pair of interfaces, 1 Mbit/s in each direction."""
    subprocess.run(["ip", "netns", "delete", SPACE], capture_output=True, timeout=30, check=False)
    ip("netns", "add", SPACE)
    try:
        ip("link", "add", OURS, "type", "veth", "peer", "name", THEIRS, "netns", SPACE)
        ip("addr", "add", f"{HERE}/24", "dev", OURS)
        ip("link", "set", OURS, "up")
        for line in (f"addr add {THERE}/24 dev {THEIRS}", f"link set {THEIRS} up", "link set lo up"):
            ip("-n", SPACE, *line.split())
        shape = ["tc", "qdisc", "add", "dev"]
        subprocess.run([*shape, OURS, "root", "tbf", *RATE], check=True, timeout=30)
        inside = ["ip", "netns", "exec", SPACE]
        subprocess.run([*inside, *shape, THEIRS, "root", "tbf", *RATE], check=True, timeout=30)
        yield
    finally:
        subprocess.run(["ip", "link", "delete", OURS], capture_output=True, timeout=30, check=False)
        ip("netns", "delete", SPACE)


class Inside:
    """A Python process in the namespace, ended at the end."""

    def __init__(self, *arguments: str, log: Path) -> None:
        # nsenter, not `ip netns exec`: that one mounts a /sys of its own, which takes more rights.
        command = ["nsenter", f"--net=/run/netns/{SPACE}", sys.executable, "-m", *arguments]
        with log.open("wb") as stream:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env={**os.environ, **ENVIRONMENT}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=stream, text=True,
            )  # fmt: skip

    def __enter__(self) -> Inside:
        return self

    def __exit__(self, *failure: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def line(self) -> dict[str, Any]:
        """Its next line of JSON."""
        assert self.process.stdout is not None
        return dict(json.loads(self.process.stdout.readline()))

    def asked(self) -> dict[str, Any]:
        """Its answer to an empty line."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.line()


def reported(page: str, direction: str) -> float:
    (value,) = re.findall(rf'^fedhft_agent_socket_bytes_total\{{direction="{direction}"\}} (\S+)$', page, re.M)
    return float(value)


def test_bytes_of_sockets_are_bytes_on_the_link(tmp_path: Path, redis_url: str) -> None:
    if os.geteuid() != 0 or not all(map(shutil.which, ("ip", "tc", "nsenter"))):
        pytest.skip("a network namespace needs root, ip, tc and nsenter")
    authority = Authority.init(tmp_path / "certs", "fedhft.example")
    authority.issue(authority.identity("aggregator"), [HERE, "127.0.0.1"], 1)
    for holder in ("agent/ash", "operator/ops"):
        authority.issue(authority.identity(holder), [], 1)

    def tls(holder: str) -> list[str]:
        files = tmp_path / "certs" / holder
        return [
            "--tls-certificate", f"{files}/tls.crt", "--tls-key", f"{files}/tls.key",
            "--tls-authority", f"{files}/ca.crt",
        ]  # fmt: skip

    with thin_link():
        aggregator = ServiceProcess(
            "aggregator", "fedhft_aggregator",
            ["--redis", redis_url, "--listen", f"{HERE}:0", "--admin-listen", "127.0.0.1:0", "--metrics-port", "0",
             *tls("aggregator")],
            tmp_path / "aggregator.log", ENVIRONMENT,
        )  # fmt: skip
        try:
            found = aggregator.wait_listening(60)
            site = Site(tmp_path, found["grpc"], found["admin"], tiny_model(tmp_path / "model", layers=2))
            files = authority.holder(authority.identity("operator/ops"))
            operator = TlsSettings(files.certificate, files.key, files.authority)
            spec = site.job("thin", adapter={"rank": 16}, wire={"up": "fp32", "down": "fp32"}, rounds={"total": 3})
            with JobsClient(found["admin"], tls=operator) as jobs:
                jobs.submit(spec)
                port = found["grpc"].rpartition(":")[2]
                counter = Inside(
                    "tests.system.link_counter", THEIRS, port, f"127.0.0.1:{PAGES}/metrics",
                    log=tmp_path / "counter.log",
                )  # fmt: skip
                with counter:
                    assert counter.line() == {"listening": THEIRS}
                    agent = Inside(
                        "fedhft_agent", "--server", found["grpc"], "--client", "ash", "--data", str(site.data("ash")),
                        "--state-dir", str(tmp_path / "state"), "--threads", "1", "--metrics-port", str(PAGES),
                        *tls("agent/ash"), log=tmp_path / "agent.log",
                    )  # fmt: skip
                    with agent:
                        agent.line()
                        last = next(job for job in jobs.watch("thin") if is_over(job))
                        told = counter.asked()
        finally:
            stop_all([aggregator], 0.0, 15.0)
    assert (last.status, last.rounds_done) == ("completed", 3)
    assert told["lost"] == 0
    for direction in ("sent", "received"):
        link, sockets = told["link"][direction], reported(told["page"], direction)
        print(f"{direction}: {link} bytes on the link, {sockets:.0f} as reported, {sockets / link - 1:+.2%}")
        assert link > 20_000, "too few to say anything"
        assert abs(sockets / link - 1) <= 0.03
