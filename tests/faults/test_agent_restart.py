"""The agent is killed (SIGKILL) at the worst moments; what it trained arrives once and is not trained again.

Real processes: Redis, aggregator, agent, with a real (tiny) model. The aggregator is frozen (SIGSTOP) where a test
needs an update that is trained and cannot be delivered.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fedhft.local.processes import ServiceProcess, stop_all
from fedhft.local.redis import EmbeddedRedis
from tests.agents import ENVIRONMENT, Site, free_address
from tests.models import tiny_model

LONG = {"epochs": 20.0}
"""A training of a second or more."""


class Processes:
    """One site's processes; the aggregator can be killed and started again at its address."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        self._listen, self._admin = free_address(), free_address()
        self._folder = folder
        self._redis_url = redis_url
        self._all: list[ServiceProcess] = []
        self.site = Site(folder, self._listen, self._admin, tiny_model(folder / "model", layers=2))

    def aggregator(self, failpoint: str = "") -> ServiceProcess:
        process = ServiceProcess(
            "aggregator",
            "fedhft_aggregator",
            [
                "--redis",
                self._redis_url,
                "--listen",
                self._listen,
                "--admin-listen",
                self._admin,
                "--metrics-port",
                "0",
                "--takeover",
                "2",
            ],
            self._folder / f"aggregator-{len(self._all)}.log",
            {**ENVIRONMENT, "FEDHFT_FAILPOINT": failpoint},
        )
        self._all.append(process)
        process.wait_listening(60)
        return process

    def agent(self, *arguments: str) -> ServiceProcess:
        process = self.site.process("ash", *arguments)
        self._all.append(process)
        return process

    def stop(self) -> None:
        for process in self._all:
            if process.exit_code is None:
                os.kill(process.pid, signal.SIGCONT)
        stop_all(self._all, 0.0, 10.0)


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    with EmbeddedRedis(tmp_path / "redis") as redis:
        running = Processes(tmp_path, redis.url)
        try:
            yield running
        finally:
            running.stop()


def logged(process: ServiceProcess, message: str) -> list[dict[str, Any]]:
    """The log lines with this message."""
    lines = process.log.read_text(encoding="utf-8").splitlines()
    return [entry for entry in map(json.loads, lines) if entry.get("message") == message]


def until(happened: Callable[[], Any], what: str, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not happened():
        assert time.monotonic() < deadline, f"{what} did not happen within {timeout_s} s"
        time.sleep(0.01)


def drafts(site: Site) -> list[Path]:
    return [*(site.folder / "state-ash").rglob("draft.safetensors")]


def test_an_update_trained_before_the_agent_was_killed_is_delivered_once_and_not_retrained(
    processes: Processes,
) -> None:
    aggregator = processes.aggregator()
    site = processes.site
    site.submit("job", training=LONG)
    agent = processes.agent("--once")
    until(lambda: logged(agent, "training"), "training")
    os.kill(aggregator.pid, signal.SIGSTOP)
    until(lambda: drafts(site), "the end of training")
    agent.kill()
    os.kill(aggregator.pid, signal.SIGCONT)
    assert site.get("job").accepted == 0
    restarted = processes.agent("--once")
    job = site.ended("job")
    assert restarted.wait(30.0)
    assert restarted.exit_code == 0
    assert (job.status, [entry.accepted for entry in job.history]) == ("completed", [1, 1])
    assert [entry["round"] for entry in logged(restarted, "delivering an update trained before the restart")] == [1]
    assert [entry["round"] for entry in logged(restarted, "training")] == [2]


def test_an_update_recorded_but_never_acknowledged_is_counted_once_and_not_retrained(processes: Processes) -> None:
    aggregator = processes.aggregator("accepted@1")
    site = processes.site
    site.submit("job")
    agent = processes.agent("--once")
    assert aggregator.wait(60.0)
    agent.kill()
    processes.aggregator()
    restarted = processes.agent("--once")
    job = site.ended("job")
    assert restarted.wait(30.0)
    assert (job.status, [entry.accepted for entry in job.history]) == ("completed", [1, 1])
    accepted = logged(restarted, "update accepted")
    assert [(entry["round"], entry["repeated"]) for entry in accepted] == [(1, True), (2, False)]
    assert [entry["round"] for entry in logged(restarted, "training")] == [2]


def test_an_agent_killed_while_training_trains_the_round_anew(processes: Processes) -> None:
    processes.aggregator()
    site = processes.site
    site.submit("job", training=LONG)
    agent = processes.agent("--once")
    until(lambda: logged(agent, "training"), "training")
    agent.kill()
    assert drafts(site) == []
    restarted = processes.agent("--once")
    job = site.ended("job")
    assert restarted.wait(30.0)
    assert (job.status, [entry.accepted for entry in job.history]) == ("completed", [1, 1])
    assert [entry["round"] for entry in logged(restarted, "training")] == [1, 2]


def test_an_agent_asked_to_stop_ends_between_two_batches_and_goes_on_later(processes: Processes) -> None:
    processes.aggregator()
    site = processes.site
    site.submit("job", training=LONG, rounds={"total": 1})
    agent = processes.agent("--once")
    until(lambda: logged(agent, "training"), "training")
    agent.terminate()
    assert agent.wait(10.0)
    assert agent.exit_code == 0
    assert len(logged(agent, "stopped")) == 1
    assert logged(agent, "trained") == []
    restarted = processes.agent("--once")
    assert site.ended("job").status == "completed"
    assert restarted.wait(30.0)
    assert restarted.exit_code == 0
