"""An accelerator that fails in mid-training: the agent stays, says so, and finishes the job when the device is back.

A real agent process, on a pretended device that fails as CUDA does: from one operation on, whatever this process asks
of it fails, while another process could use it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from tests.agents import Site, running_site
from tests.started import Started

ROOT = Path(__file__).parents[2]
AT_START = """
    from pathlib import Path

    import fedhft.training.device.choice as choice
    import fedhft_agent.offers as offers
    from fedhft.rpc.retry import Backoff
    from tests.pretend_device import Module, pretending

    here = pretending()
    here.__enter__()
    choice._ACCELERATORS = ("pretend",)
    offers.Backoff = lambda first_s, longest_s: Backoff(1.0, longest_s)  # half a minute otherwise
    works = Module.used
    broken = Path({broken!r})
    lost = []


    def used():
        if broken.is_file() and Module.operations > int(broken.read_text()):
            broken.unlink()
            lost.append(True)
            Module.fails_after = 0
        works()


    Module.used = used
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[Site]:
    with running_site(tmp_path_factory.mktemp("lost"), redis_url) as found:
        yield found


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_agent_outlives_the_loss_of_its_device_and_finishes_the_job_on_it(site: Site, tmp_path: Path) -> None:
    site.submit("lost", rounds={"deadline": "600s", "client_timeout": "600s", "join_timeout": "600s"})
    broken = tmp_path / "broken"
    broken.write_text("4000")
    (tmp_path / "sitecustomize.py").write_text(dedent(AT_START).format(broken=str(broken)))
    paths = os.pathsep.join([str(tmp_path), str(ROOT), os.environ.get("PYTHONPATH", "")])
    log = tmp_path / "agent.log"
    command = [
        sys.executable, "-m", "fedhft_agent", "--server", site.server, "--client", "ash", "--data",
        str(site.data("ash")), "--job", "lost", "--state-dir", str(tmp_path / "state"), "--threads", "1",
    ]  # fmt: skip
    agent = Started(log, command, {"PYTHONPATH": paths})
    try:
        agent.says(lambda said: "the device failed; trying again" in said, 200)
        assert agent.ends(400) == 0
    finally:
        agent.stop()
    assert site.get("lost").status == "completed"
    lines = [json.loads(line) for line in agent.said.splitlines() if line.startswith("{")]
    told = [line.get("message", "") for line in lines]
    assert "the device is back, but not in this process; the agent begins anew" in told
    assert told.count("trained") == 2  # no round twice
    failed = next(line for line in lines if line.get("message") == "the device failed; trying again")
    assert failed["code"] == "device_failed"
    assert "pretend:0: failed in the middle of work: CUDA error" in failed["detail"]
    assert {line["device"] for line in lines if line.get("message") == "base model loaded"} == {"pretend:0"}
    assert "Traceback" not in agent.said
