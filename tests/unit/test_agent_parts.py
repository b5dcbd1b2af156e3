"""Small parts of the agent that need no server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from fedhft_agent.offers import Offers
from fedhft_agent.state_directory import StateDirectory

from fedhft.errors import FedhftError
from fedhft.ids import JobId
from fedhft.plan import AdapterPlan
from fedhft.planning.memory import PROCESS_BYTES, streams, trained_values
from fedhft.process.signals import StopSignal
from fedhft.rpc.retry import Backoff, CallStoppedError
from fedhft.v1 import federation_pb2
from tests.light import light_schema


def offers(*names: str) -> list[federation_pb2.JobOffer]:
    return [federation_pb2.JobOffer(job=name) for name in names]


def plan(density: float = 1.0, depth: int = 2) -> AdapterPlan:
    return AdapterPlan("t", depth, density, 1.0, 0, train_a=True, train_b=True)


def test_a_job_that_went_wrong_is_left_alone_for_longer_each_time_and_others_are_taken() -> None:
    now = [0.0]
    chooser = Offers(backoff=Backoff(10.0, 100.0), clock=lambda: now[0])
    assert chooser.choose(offers("a", "b")).job == "a"
    assert chooser.failed("a", "no data") == (10.0, True)
    assert chooser.choose(offers("a", "b")).job == "b"
    assert chooser.choose(offers("a")) is None
    now[0] = 10.0
    assert chooser.choose(offers("a", "b")).job == "a"
    assert chooser.failed("a", "no data") == (20.0, False)
    chooser.ended("a")
    assert chooser.choose(offers("a")).job == "a"
    assert chooser.failed("a", "no data") == (10.0, True)


def test_a_named_job_is_the_only_one_taken() -> None:
    chooser = Offers(only=JobId("b"))
    assert chooser.choose(offers("a")) is None
    assert chooser.choose(offers("a", "b")).job == "b"


def test_what_a_plan_trains_is_counted_in_values() -> None:
    schema = light_schema(layers=2, width=16, rank=4)
    assert trained_values(plan(), schema) == 2 * (2 * 16 * 4) + 2 * 16 + 2
    assert trained_values(plan(density=0.5, depth=1), schema) == 2 * 8 * 4 + 2 * 16 + 2


def test_a_model_is_streamed_where_it_takes_more_than_half_of_what_the_process_leaves() -> None:
    assert streams(1000, PROCESS_BYTES + 1999)
    assert not streams(1000, PROCESS_BYTES + 2000)
    assert not streams(10**12, 0)


def test_a_state_directory_serves_one_agent_at_a_time_even_after_one_was_killed(tmp_path: Path) -> None:
    program = (
        "import sys, time, pathlib; from fedhft_agent.state_directory import StateDirectory\n"
        f"with StateDirectory(pathlib.Path({str(tmp_path)!r})): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(FedhftError, match="another agent is using it"), StateDirectory(tmp_path):
            pass
        other.kill()
        other.wait()
        with StateDirectory(tmp_path):
            pass


def test_another_specification_under_the_same_name_has_another_folder(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    assert state.job("job", b"\1" * 32) == state.job("job", b"\1" * 32)
    assert state.job("job", b"\1" * 32) != state.job("job", b"\2" * 32)


def test_state_of_jobs_that_ended_unseen_is_removed_after_a_while(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    offered, young, old = (state.job(name, b"\1" * 32) for name in ("offered", "young", "old"))
    long_ago = time.time() - 1000
    for folder in (offered, young, old):
        (folder / "job").mkdir(parents=True)
        file = folder / "job" / "memory"
        file.write_bytes(b"x")
        for path in (file, folder / "job", folder):
            os.utime(path, (long_ago, long_ago))
    os.utime(young / "job" / "memory")
    state.sweep([offered], older_than_s=500)
    assert (offered.exists(), young.exists(), old.exists()) == (True, True, False)


def test_a_signal_requests_a_stop_and_wakes_who_sleeps() -> None:
    heard = []
    with StopSignal() as stop:
        stop.on_request(lambda: heard.append(threading.current_thread()))
        threading.Timer(0.1, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
        started = time.monotonic()
        with pytest.raises(CallStoppedError):
            stop.sleep(30.0)
        assert time.monotonic() - started < 5.0
        assert stop.requested()
    assert heard
    assert heard[0] is not threading.main_thread()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_stop_requested_earlier_is_heard_at_once() -> None:
    stop = StopSignal()
    stop.request()
    heard = []
    stop.on_request(lambda: heard.append(True))
    assert heard == [True]
