"""`fedhft job events --follow` against a real aggregator: until the job ends, over a restart, and interrupted."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from fedhft.errors import OUTCOMES, ErrorCode
from fedhft.ids import JobId
from fedhft.jobs.client import JobsClient
from fedhft.jobs.events import follow_events
from fedhft.v1 import jobs_pb2
from tests.aggregator import Aggregator, serving
from tests.cli_runner import Done, run_cli
from tests.hostile.federation import attacked
from tests.light import light_job


async def ask(aggregator: Aggregator, *arguments: str) -> Done:
    """A command, in a thread: the server is on this loop."""
    return await asyncio.to_thread(run_cli, *arguments, FEDHFT_ADMIN_SERVER=aggregator.address)


async def test_events_are_told_as_they_come_until_the_job_has_completed(fresh_redis_url: str) -> None:
    async with attacked(fresh_redis_url, "followed") as federation:
        aggregator = federation.aggregator
        following = asyncio.create_task(ask(aggregator, "job", "events", "followed", "--follow", "-o", "json"))
        await federation.honest_complete()
        async with asyncio.timeout(30):
            done = await following
        assert (done.returncode, done.stderr) == (0, "")
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        whole = json.loads((await ask(aggregator, "job", "events", "followed", "-o", "json")).stdout)["events"]
        assert lines == whole
        assert [one["kind"] for one in lines][-1] == "completed"
        again = await ask(aggregator, "job", "events", "followed", "--follow", "--last", "2", "-o", "name")
        assert again.stdout.split() == [one["kind"] for one in whole[-2:]]
        table = await ask(aggregator, "job", "events", "followed", "-f", "--last", "1")
        assert table.stdout.rstrip().endswith("  job completed")


async def test_a_job_that_did_not_complete_has_its_own_exit_code(fresh_redis_url: str) -> None:
    async with serving(fresh_redis_url) as aggregator:
        await aggregator.submit(light_job("stopped"))
        following = asyncio.create_task(ask(aggregator, "job", "events", "stopped", "--follow"))
        await asyncio.sleep(0.5)
        await aggregator.jobs.Cancel(jobs_pb2.CancelJobRequest(job="stopped", reason="no more"), timeout=10)
        async with asyncio.timeout(30):
            done = await following
        assert done.returncode == OUTCOMES[ErrorCode.JOB_FAILED].exit_code
        assert done.stdout.splitlines()[-1].endswith("  job cancelled  no more")
        assert "job stopped ended as cancelled: no more" in done.stderr
        unknown = await ask(aggregator, "job", "events", "nobody", "--follow")
        assert unknown.returncode == OUTCOMES[ErrorCode.UNKNOWN_JOB].exit_code


async def test_a_server_that_is_restarted_meanwhile_costs_no_event(fresh_redis_url: str) -> None:
    async with serving(fresh_redis_url) as aggregator:
        await aggregator.submit(light_job("restarted"))
        port = aggregator.address
        kinds: list[str] = []
        began = asyncio.Event()
        loop = asyncio.get_running_loop()

        def follow() -> None:
            with JobsClient(port, give_up_after_s=30) as client:
                for news in follow_events(client, "restarted"):
                    kinds.extend(event.kind for event in news.events)
                    loop.call_soon_threadsafe(began.set)

        following = asyncio.create_task(asyncio.to_thread(follow))
        await asyncio.wait_for(began.wait(), 30)
    # While nobody listens, things happen in the store.
    async with serving(fresh_redis_url, listen=port) as aggregator:
        await aggregator.store.pause_job(JobId("restarted"), "meanwhile")
        await aggregator.store.resume_job(JobId("restarted"))
        await aggregator.jobs.Cancel(jobs_pb2.CancelJobRequest(job="restarted", reason="enough"), timeout=10)
        await asyncio.wait_for(following, 60)
    assert kinds == ["submitted", "paused", "resumed", "cancelled"]


async def test_who_interrupts_it_is_told_how_to_go_on(fresh_redis_url: str, tmp_path: Path) -> None:
    async with serving(fresh_redis_url) as aggregator:
        await aggregator.submit(light_job("goes-on"))
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "fedhft.cli", "job", "events", "goes-on", "--follow", "--server", aggregator.address,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "XDG_CONFIG_HOME": str(tmp_path)},
        )  # fmt: skip
        assert process.stdout is not None
        async with asyncio.timeout(60):
            assert b"job submitted" in await process.stdout.readline(), "it is shown at once, into a pipe too"
            process.send_signal(signal.SIGINT)
            _, err = await process.communicate()
        assert process.returncode == 130, err.decode()
        assert b"the job goes on; `fedhft job events goes-on --follow` shows it" in err
        assert b"Traceback" not in err


async def test_yaml_is_a_document_per_event(fresh_redis_url: str) -> None:
    import yaml

    async with serving(fresh_redis_url) as aggregator:
        await aggregator.submit(light_job("documents"))
        await aggregator.jobs.Cancel(jobs_pb2.CancelJobRequest(job="documents", reason="no"), timeout=10)
        done = await ask(aggregator, "job", "events", "documents", "-f", "-o", "yaml")
        told: list[Any] = [one for one in yaml.safe_load_all(done.stdout) if one]
        assert [one["kind"] for one in told] == ["submitted", "cancelled"]
