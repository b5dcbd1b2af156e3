"""The runbook's commands, in their order, while a job runs: above all a backup that is really restored.

It goes on where docs/install.md ends, with the commands of that page and the programs of this environment.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.documented import Block, shell_blocks
from tests.system.terminals import Staying, Terminal, own_network, taken

INSTALL, RUNBOOK = "docs/install.md", "docs/runbook.md"
PORTS = (6379, 50051, 50052, 50053, 50061, 50063, 9101, 9102, 9111)
BLOCK_S, START_S, JOB_S = 600.0, 180.0, 900.0
ROUNDS = 6
pytestmark = pytest.mark.timeout(3600)


@pytest.fixture
def before() -> Iterator[tuple[str, ...]]:
    with own_network() as prefix:
        if not prefix and (used := taken(PORTS)):
            pytest.skip(f"ports of the runbook are in use here: {used}")
        yield prefix


class Walk:
    """Somebody at a machine: one terminal for people, and one for each program that stays."""

    def __init__(self, folder: Path, before: tuple[str, ...]) -> None:
        self._logs, self._before = folder, before
        self.walk = folder / "fedhft" / "walk"
        activate = folder / "fedhft/.venv/bin/activate"
        activate.parent.mkdir(parents=True)
        exports = [f'export PATH="{Path(sys.executable).parent}:$PATH"']
        if os.environ.get("PYTHONPATH"):
            exports.append(f'export PYTHONPATH="{os.environ["PYTHONPATH"]}"')
        activate.write_text("\n".join(exports) + "\n", encoding="utf-8")
        self.people = Terminal(folder / "fedhft", folder / "people.log", before)
        self.people.type(". .venv/bin/activate", BLOCK_S)
        self.stays: list[Staying] = []

    def type(self, block: Block) -> str:
        return self.people.type(block.text, BLOCK_S)

    def start(self, block: Block) -> list[Staying]:
        started = []
        for line in block.lines:
            started.append(Staying(line, self.walk, self._before, self._logs / f"terminal-{len(self.stays)}.log"))
            self.stays.append(started[-1])
            started[-1].wait_listening(START_S)
        return started

    def job(self) -> Any:
        return json.loads(self.people.type("fedhft job get first -o json", BLOCK_S))

    def wait_rounds(self, count: int) -> Any:
        deadline = time.monotonic() + JOB_S
        while int((job := self.job())["rounds_done"]) < count:
            assert job["status"] not in ("failed", "cancelled"), job
            assert time.monotonic() < deadline, job
            time.sleep(1.0)
        return job

    def close(self) -> None:
        self.people.close()
        for one in self.stays:
            if one.process.poll() is None:
                one.process.kill()
                one.process.wait()


@pytest.fixture
def walk(tmp_path: Path, before: tuple[str, ...]) -> Iterator[Walk]:
    walking = Walk(tmp_path, before)
    yield walking
    walking.close()


def test_a_running_job_outlives_a_backup_a_restore_elsewhere_and_everything_else_on_the_page(walk: Walk) -> None:
    _, data, certificates, services, ready, job, _, agents, _ = shell_blocks(INSTALL)
    pause, copy, restore, restored, look, second, other, renew, renewed, add, remove, _ = shell_blocks(RUNBOOK)

    walk.type(data)
    walk.type(certificates)
    old = walk.start(services)
    walk.type(ready)
    assert "total = 2\n" in job.text
    walk.people.type(job.text.replace("total = 2\n", f"total = {ROUNDS}\n"), BLOCK_S)  # there must be a middle of it
    trainers = walk.start(agents)
    walk.wait_rounds(1)
    walk.type(pause)

    # Back up: services first, agents stay.
    for service in reversed(old[1:]):
        assert service.interrupt() == 0
    walk.type(copy)
    assert old[0].process.wait(30) == 0, "redis-cli has stopped it"
    assert all(agent.process.poll() is None for agent in trainers)

    # Restore elsewhere: what was there before is gone.
    for name in ("redis", "blobs"):
        (walk.walk / name).rename(walk.walk / f"lost-{name}")
    walk.type(restore)
    running = walk.start(restored)
    (health,) = shell_blocks("docs/operations.md", "Health")
    assert walk.type(health) == '{"ready": true, "reason": ""}\n'
    assert "127.0.0.1:9101 is ready" in (said := walk.type(look))
    assert "first" in said
    then = walk.job()
    assert 1 <= int(then["rounds_done"]) < ROUNDS, "the job was to be in its middle"

    (helper,) = walk.start(second)
    assert "first" in walk.type(other)
    assert "agent/firm-01" in walk.type(renew)
    assert re.search(r'^fedhft_tls_reloads_total\{outcome="used"\} [1-9]', walk.type(renewed), re.M)
    assert "firm-01" in walk.type(add)
    assert "contract ended" in walk.type(remove)
    # One of the two aggregators dies in the middle; the other goes on with the job.
    assert helper.interrupt() == 0
    ended = walk.wait_rounds(ROUNDS)
    assert [agent.process.wait(JOB_S) for agent in trainers] == [0, 0, 0], [agent.said for agent in trainers]
    while ended["status"] != "completed":
        ended = walk.job()
    assert [each["round"] for each in ended["history"]][:ROUNDS] == list(range(1, ROUNDS + 1)), "every round once"
    for agent in trainers:
        assert "Traceback" not in agent.said
    for service in reversed(running):
        assert service.interrupt() == 0
