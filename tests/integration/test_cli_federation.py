"""Commands about a federation at work: its clients, what happened, exports of a version, waiting for a job."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fedhft.errors import OUTCOMES, ErrorCode
from fedhft.v1 import federation_pb2, jobs_pb2
from tests.aggregator import Aggregator, serving
from tests.cli_runner import Done, run_cli
from tests.hostile.federation import attacked
from tests.light import LightClient, light_job


async def ask(aggregator: Aggregator, *arguments: str) -> Done:
    """A command, in a thread: the server is on this loop."""
    return await asyncio.to_thread(run_cli, *arguments, FEDHFT_ADMIN_SERVER=aggregator.address)


async def told(aggregator: Aggregator, *arguments: str) -> Any:
    done = await ask(aggregator, *arguments, "-o", "json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


async def test_a_removed_client_leaves_its_jobs_and_delivers_nothing_until_it_enrolls_again(
    fresh_redis_url: str,
) -> None:
    async with attacked(fresh_redis_url, "removal", rounds={"min_clients": 3}) as federation:
        aggregator, gone = federation.aggregator, federation.mallory
        for client in (federation.alice, federation.bob, gone):
            await client.enter()
        task = await gone.train_task()
        known = {one["client"]: one for one in (await told(aggregator, "client", "list"))["clients"]}
        assert set(known) == {"alice", "bob", "mallory"}
        assert (known["mallory"]["enrolled"], known["mallory"]["jobs"]) == (True, ["removal"])
        assert known["mallory"]["seen_seconds"] < 60

        removed = await ask(aggregator, "client", "remove", "mallory", "--reason", "moved away")
        assert "mallory: removed; it was in removal" in removed.stdout
        assert "fedhft certs revoke agent/mallory" in removed.stderr
        assert await gone.refused(gone.deliver(task)) is ErrorCode.NOT_ENROLLED
        assert await gone.refused(gone.next_task(0)) is ErrorCode.NOT_ENROLLED
        assert (await ask(aggregator, "client", "list", "-o", "name")).stdout.split() == ["alice", "bob"]
        again = await ask(aggregator, "client", "remove", "mallory")
        assert again.returncode == OUTCOMES[ErrorCode.NOT_ENROLLED].exit_code
        assert "is neither enrolled nor in a job that is not over" in again.stderr

        await gone.enter()  # as the document says: it may come back
        events = (await told(aggregator, "job", "events", "removal"))["events"]
        of_it = [(one["kind"], one["text"]) for one in events if one["client"] == "mallory"]
        assert of_it == [("joined", ""), ("left", "moved away"), ("joined", "")]


async def test_the_events_of_a_job_tell_its_life_in_order(fresh_redis_url: str) -> None:
    async with attacked(fresh_redis_url, "life", evaluation={"final": True}) as federation:
        aggregator = federation.aggregator
        assert (await ask(aggregator, "job", "pause", "life", "--reason", "lunch")).returncode == 0
        assert (await ask(aggregator, "job", "resume", "life")).returncode == 0
        await federation.honest_complete()
        answer = await told(aggregator, "job", "events", "life")
        kinds = [(one["kind"], one["round"]) for one in answer["events"] if not one["client"]]
        assert kinds == [
            ("submitted", 0), ("paused", 0), ("resumed", 0), ("running", 0), ("opened", 1), ("published", 1),
            ("opened", 2), ("published", 2), ("evaluating", 0), ("opened", 3), ("evaluated", 3), ("completed", 0),
        ]  # fmt: skip
        times = [one["at_ms"] for one in answer["events"]]
        assert times == sorted(times)
        assert times[-1] <= answer["now_ms"]
        table = " ".join((await ask(aggregator, "job", "events", "life")).stdout.split())
        assert "job paused lunch" in table
        assert "round 1 published 2 of 2 clients" in table
        newest = await told(aggregator, "job", "events", "life", "--last", "1")
        assert [one["kind"] for one in newest["events"]] == ["completed"]
        unknown = await ask(aggregator, "job", "events", "nobody")
        assert unknown.returncode == OUTCOMES[ErrorCode.UNKNOWN_JOB].exit_code


async def test_jobs_are_listed_by_state_and_with_their_ages(fresh_redis_url: str) -> None:
    async with serving(fresh_redis_url) as aggregator:
        for name in ("one", "two", "three"):
            await aggregator.submit(light_job(name))
        await ask(aggregator, "job", "cancel", "two")
        await ask(aggregator, "job", "pause", "three")
        for states, expected in (
            (["waiting"], ["one", "three"]),
            (["paused"], ["three"]),
            (["cancelled", "paused"], ["two", "three"]),
            (["failed"], []),
            ([], ["one", "two", "three"]),
        ):
            flags = [part for state in states for part in ("--status", state)]
            assert (await ask(aggregator, "job", "list", *flags, "-o", "name")).stdout.split() == expected
        listed = (await told(aggregator, "job", "list"))["jobs"]
        assert all(0 <= one["age_seconds"] < 60 for one in listed)
        assert "no jobs in this state" in (await ask(aggregator, "job", "list", "--status", "failed")).stdout
        assert (await ask(aggregator, "job", "list", "--status", "done")).returncode == 2


async def test_the_version_before_the_last_can_be_exported_and_earlier_ones_are_refused(
    fresh_redis_url: str, tmp_path: Path
) -> None:
    async with attacked(fresh_redis_url, "versions", rounds={"total": 3}, evaluation={"final": True}) as federation:
        await federation.honest_complete()
        aggregator = federation.aggregator
        weights = {}
        for version in ("2", "3", "0"):
            out = tmp_path / version
            answer = await told(aggregator, "job", "export", "versions", "--out", str(out), "--version", version)
            assert answer["version"] == int(version or 3) or version == "0"
            weights[version] = (out / "cluster-0" / "adapter_model.safetensors").read_bytes()
        assert weights["3"] == weights["0"] != weights["2"]
        cards = {version: (tmp_path / version / "cluster-0" / "README.md").read_text() for version in weights}
        assert "No score" in cards["2"]  # the final evaluation scored version 3
        assert "2 rounds, version 2" in cards["2"]
        assert "No score" not in cards["3"]
        gone = await ask(aggregator, "job", "export", "versions", "--out", str(tmp_path / "1"), "--version", "1")
        assert gone.returncode == OUTCOMES[ErrorCode.INVALID_ARGUMENT].exit_code
        assert "version = 1: is not kept whole by the server, which keeps 2 and 3" in gone.stderr
        assert not (tmp_path / "1").exists()


async def test_a_job_that_gets_no_better_ends_early_and_its_best_version_is_listed_and_exported(
    fresh_redis_url: str, tmp_path: Path
) -> None:
    rules = {"rounds": {"total": 30}, "stopping": {"patience": 4}, "evaluation": {"final": False}}
    async with attacked(fresh_redis_url, "best", **rules) as federation:
        aggregator, clients = federation.aggregator, (federation.alice, federation.bob)
        early = await ask(aggregator, "job", "export", "best", "--out", str(tmp_path / "early"), "--version", "best")
        assert early.returncode == OUTCOMES[ErrorCode.JOB_NOT_RUNNING].exit_code
        assert "no version was scored yet" in early.stderr
        for client in clients:
            await client.enter()
        for score in (0.1, 0.2, 0.9, 0.5, 0.6, 0.7, 0.8):
            for client in clients:
                task = await client.train_task()
                assert task.evaluate
                blob = client.update(task)
                header = client.header(task, blob)
                header.scores.add(
                    split=federation_pb2.Score.SPLIT_PERSONAL, moment=federation_pb2.Score.MOMENT_BEFORE,
                    view=federation_pb2.Score.VIEW_OWN, value=score, loss=0.5, rows=4,
                )  # fmt: skip
                await client.push(header, [(0, blob)])
        ended = await aggregator.ended("best")
        assert (ended.status, ended.rounds_done) == ("completed", 7)

        (listed,) = (await told(aggregator, "job", "list"))["jobs"]
        expected = {"version": 2, "score": 0.9, "by": "accuracy (personal)", "round": 3, "waited": 4}
        assert listed["best"] == expected
        shown = (await ask(aggregator, "job", "get", "best")).stdout
        assert "completed (ended early: 4 scored rounds without a version better than 2" in shown
        assert "best version: 2, accuracy (personal) 0.9, measured in round 3, 4 scored since" in shown
        assert "2 (0.900)" in (await ask(aggregator, "job", "list")).stdout

        out = tmp_path / "chosen"
        answer = await told(aggregator, "job", "export", "best", "--out", str(out), "--version", "best")
        assert answer["version"] == 2
        card = (out / "cluster-0" / "README.md").read_text()
        assert "the best version of its job by accuracy (personal): 0.9 over all clients of round 3" in card
        other = await ask(aggregator, "job", "export", "best", "--out", str(tmp_path / "3"), "--version", "3")
        assert "which keeps 2 and 6 and 7" in other.stderr
        wrong = await ask(aggregator, "job", "export", "best", "--out", str(tmp_path / "x"), "--version", "newest")
        assert wrong.returncode == 2
        assert "'newest' is not a version" in wrong.stderr


async def test_a_watch_notices_an_update_within_a_round_and_says_how_far_it_is(fresh_redis_url: str) -> None:
    async with attacked(fresh_redis_url, "progress", rounds={"deadline": "60s"}) as federation:
        for client in (federation.alice, federation.bob):
            await client.enter()
        task = await federation.alice.train_task()
        seen: list[jobs_pb2.Job] = []

        async def until(accepted: int) -> None:
            async for job in federation.aggregator.jobs.Watch(jobs_pb2.WatchJobRequest(job="progress"), timeout=30):
                seen.append(job)
                if job.open_round and job.accepted == accepted:
                    return

        watching = asyncio.create_task(until(1))
        await asyncio.sleep(0.5)
        await federation.alice.deliver(task)
        async with asyncio.timeout(10):  # a heartbeat would take 15 s
            await watching
        last = seen[-1]
        assert (last.open.target, last.asked) == (2, 2)
        assert 0 < last.open.seconds_left <= 60
        assert 0 < last.open.seconds < 60
        assert last.age_seconds >= last.open.seconds


async def test_a_watch_that_has_nothing_to_tell_is_silent(fresh_redis_url: str) -> None:
    async with serving(fresh_redis_url) as aggregator:
        await aggregator.submit(light_job("quiet"))
        messages: list[jobs_pb2.Job] = []

        async def watch() -> None:
            async for job in aggregator.jobs.Watch(jobs_pb2.WatchJobRequest(job="quiet"), timeout=30):
                messages.append(job)

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(watch(), 8)  # looked at twice, and no heartbeat
        assert len(messages) == 1


def write_job(folder: Path, name: str) -> str:
    spec = light_job(name, rounds={"deadline": "30s"})
    file = folder / f"{name}.toml"
    file.write_text(
        f'name = "{name}"\nmodel = {{name = "light"}}\ntask = {{labels = ["a", "b"]}}\nadapter = {{rank = 4}}\n'
        'method = {preset = "fedhft", clusters = 1}\nevaluation = {final = false}\n'
        f"rounds = {{total = {spec.rounds.total}, min_clients = 2, deadline = '30s', join_timeout = '60s'}}\n"
    )
    return str(file)


async def test_submit_waits_for_the_end_of_a_job(fresh_redis_url: str, tmp_path: Path) -> None:
    async with serving(fresh_redis_url) as aggregator:
        file = write_job(tmp_path, "awaited")
        waiting = asyncio.create_task(ask(aggregator, "job", "submit", file, "--wait", "-o", "json"))
        spec = light_job("awaited")
        for _ in range(100):
            if await aggregator.store.jobs():
                break
            await asyncio.sleep(0.1)
        clients: list[LightClient] = [aggregator.client(name, spec) for name in ("alice", "bob")]
        async with asyncio.timeout(60):
            await asyncio.gather(*(client.work() for client in clients))
            done = await waiting
        assert done.returncode == 0, done.stderr
        job = json.loads(done.stdout)
        assert (job["job"], job["status"], len(job["history"])) == ("awaited", "completed", 2)

        other = write_job(tmp_path, "ended")
        waiting = asyncio.create_task(ask(aggregator, "job", "submit", other, "--wait"))
        for _ in range(100):
            if len(await aggregator.store.jobs()) == 2:
                break
            await asyncio.sleep(0.1)
        await aggregator.jobs.Cancel(jobs_pb2.CancelJobRequest(job="ended", reason="no"), timeout=10)
        async with asyncio.timeout(60):
            done = await waiting
        assert done.returncode == OUTCOMES[ErrorCode.JOB_FAILED].exit_code
        assert "ended: submitted" in done.stdout
        assert "job ended ended as cancelled: no" in done.stderr


async def test_who_interrupts_a_wait_is_told_that_the_job_goes_on(fresh_redis_url: str, tmp_path: Path) -> None:
    async with serving(fresh_redis_url) as aggregator:
        file = write_job(tmp_path, "goes-on")
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "fedhft.cli", "job", "submit", file, "--wait", "--server", aggregator.address,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "XDG_CONFIG_HOME": str(tmp_path)},
        )  # fmt: skip
        assert process.stdout is not None
        async with asyncio.timeout(60):
            assert await process.stdout.readline() == b"goes-on: submitted\n"
            await asyncio.sleep(0.5)
            process.send_signal(signal.SIGINT)
            _, err = await process.communicate()
        assert process.returncode == 130, err.decode()
        assert b"the job is submitted; watch it with `fedhft job watch goes-on`" in err
        assert b"Traceback" not in err
        assert (await aggregator.get("goes-on")).status == "waiting"
