"""The clock of the store's machine is set by two hours, forwards or back, in the middle of a round.

Real processes: a Redis that runs under libfaketime, so that its TIME and its expiries move while ours do not, two
aggregators, a clusterer, light agents. Each job must complete, soon, with every acknowledged update in its round.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
import redis

from benchmarks import chaos_site
from benchmarks.chaos_site import AGGREGATORS, JobTrace, Site, Size, job_of
from fedhft.local.redis import EmbeddedRedis
from fedhft.v1 import jobs_pb2

LIBRARIES = sorted(str(found) for found in Path("/usr/lib").glob("**/faketime/libfaketimeMT.so.1"))
pytestmark = pytest.mark.skipif(not LIBRARIES, reason="libfaketime is not installed (apt-get install faketime)")

HOURS = 3600
BOUND_S = 90.0
"""Longest time for a job that takes seconds; a wait for the clock to catch up would take hours."""
LAST = "client-2"
"""The client that a round waits for while the clock is set."""


class SetClockRedis(EmbeddedRedis):
    """A Redis whose clock can be set."""

    def __init__(self, directory: Path, port: int = 0) -> None:
        super().__init__(directory, port)
        directory.mkdir(parents=True, exist_ok=True)
        self._clock = directory / "clock"
        self.set_clock(0)

    def start(self) -> None:
        faked = {
            "LD_PRELOAD": LIBRARIES[0],
            "FAKETIME_TIMESTAMP_FILE": str(self._clock),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",  # setting a clock does not move this one either
        }
        with mock.patch.dict(os.environ, faked):
            super().start()

    def set_clock(self, seconds: int) -> None:
        """So far from ours, from now on."""
        new = self._clock.with_suffix(".new")
        new.write_text(f"{seconds:+d}", encoding="utf-8")
        new.replace(self._clock)

    def ahead_s(self) -> float:
        """How far its clock is ahead of ours."""
        with redis.Redis.from_url(self.url) as client:
            seconds, micros = client.time()
            return float(seconds + micros / 1e6 - time.time())


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[SetClockRedis]:
    """Collects the Redis of a site, whose clock can then be set."""
    made: list[SetClockRedis] = []

    def make(directory: Path) -> SetClockRedis:
        made.append(SetClockRedis(directory))
        return made[-1]

    monkeypatch.setattr(chaos_site, "EmbeddedRedis", make)
    return made


def follow(site: Site, name: str, reached: Callable[[jobs_pb2.Job], bool]) -> None:
    """Wait until a job is where it should be."""
    deadline = time.monotonic() + BOUND_S
    with site.admin(BOUND_S) as jobs:
        while time.monotonic() < deadline:
            if any(job.job == name for job in jobs.list()) and reached(jobs.get(name)):
                return
            time.sleep(0.1)
    raise AssertionError(f"job {name} does not come that far")


def no_deaths(site: Site) -> None:
    """Only the clock is set."""


def aggregators_die(site: Site) -> None:
    """Whoever held the job's lease is gone, and what is left of the lease is in the store."""
    for name in AGGREGATORS:
        site.kill(name)


def redis_dies(site: Site) -> None:
    """As when a machine is restarted with another clock: Redis reads its file by the new one."""
    site.kill("redis")


def run_and_set(site: Site, clock: SetClockRedis, seconds: int, deaths: Callable[[Site], None]) -> JobTrace:
    """A job of four rounds; in its second, with one update to come, the clock is set and processes die."""
    spec = job_of(1, 0 if seconds > 0 else 1, site.size)
    traces: list[JobTrace] = []
    running = threading.Thread(target=lambda: traces.append(site.run_job(spec, BOUND_S)), daemon=True)
    running.start()
    follow(site, spec.name, lambda job: job.rounds_done >= 1)
    site.kill(LAST)
    follow(site, spec.name, lambda job: job.open_round >= 2 and job.accepted == site.size.clients - 1)
    before = dict(site.kills)
    deaths(site)
    clock.set_clock(seconds)
    if site.kills["redis"] > before["redis"]:
        site.start("redis")
    if site.kills["aggregator"] > before["aggregator"]:
        for name in AGGREGATORS:
            site.start(name)
    time.sleep(2.0)  # for whoever acts on the new time
    assert clock.ahead_s() == pytest.approx(seconds, abs=5)
    site.start(LAST)
    running.join(BOUND_S + 30)
    assert traces, "the job could not be followed"
    (finished,) = site.traces(traces)
    return finished


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seconds", "deaths"),
    [
        (2 * HOURS, no_deaths), (-2 * HOURS, no_deaths), (-2 * HOURS, aggregators_die), (2 * HOURS, redis_dies),
    ],
)  # fmt: skip
def test_a_job_completes_and_keeps_what_it_acknowledged(
    seconds: int, deaths: Callable[[Site], None], clock: list[SetClockRedis], tmp_path: Path
) -> None:
    size = Size(clients=3, rounds=4)
    with Site(tmp_path, size) as site:
        trace = run_and_set(site, clock[0], seconds, deaths)
        acknowledged = site.acknowledged()
        assert site.ended == []
    assert trace.status == "completed"
    assert [round_.accepted for round_ in trace.rounds] == [size.clients] * size.rounds
    folded = {(client, n, digest) for n, round_ in enumerate(trace.rounds, 1) for client, digest in round_.updates}
    assert {(client, number, digest) for client, _, number, digest in acknowledged} == folded
    assert trace.seconds < 60
