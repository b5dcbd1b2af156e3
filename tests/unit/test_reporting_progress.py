"""How far a round is, and when it will be over: what can be said, and what is not said."""

from __future__ import annotations

import io
import json
import re
import time

import pytest
from rich.console import Console

from fedhft.reporting.progress import length, progress_of
from fedhft.reporting.table import RoundTable
from fedhft.v1 import jobs_pb2


def job(accepted: int = 0, seconds: float = 10.0, left: float = 590.0, done: tuple[float, ...] = ()) -> jobs_pb2.Job:
    number = len(done) + 1
    told = jobs_pb2.Job(job="j", status="running", open_round=number, accepted=accepted, asked=6)
    told.spec_json = json.dumps({"rounds": {"total": 5}})
    told.open.CopyFrom(jobs_pb2.OpenRound(round=number, target=4, seconds=seconds, seconds_left=left))
    told.history.extend(jobs_pb2.RoundSummary(round=1 + place, seconds=each) for place, each in enumerate(done))
    return told


def said(told: jobs_pb2.Job, total: int = 5) -> str:
    progress = progress_of(told, total)
    assert progress is not None
    return str(progress)


def test_before_the_first_update_nothing_is_guessed() -> None:
    assert said(job()) == "round 1 of 5 [----------] 0 of 4 clients, 10 s"


def test_in_the_first_round_the_pace_of_its_updates_counts() -> None:
    # one of four in 10 s: 40 s a round, 30 s left, and four more rounds
    assert (
        said(job(accepted=1))
        == "round 1 of 5 [##--------] 1 of 4 clients, 10 s, about 30 s left, 3 min 10 s for the job"
    )


def test_later_the_median_of_the_last_rounds_counts_whatever_one_slow_round_took() -> None:
    told = job(accepted=2, done=(30.0, 900.0, 30.0))
    assert said(told) == "round 4 of 5 [#####-----] 2 of 4 clients, 10 s, about 20 s left, 50 s for the job"


def test_no_round_is_promised_beyond_its_deadline() -> None:
    assert "about 5 s left" in said(job(left=5.0, done=(100.0,)))
    assert "due now" in said(job(seconds=200.0, left=400.0, done=(100.0,)))


def test_the_last_round_and_the_final_evaluation_promise_nothing_for_the_job() -> None:
    assert "for the job" not in said(job(done=(30.0,) * 4))
    assert said(job(done=(30.0,) * 5)).startswith("final evaluation [")


@pytest.mark.parametrize("change", [{"paused": "lunch"}, {"blocked": "the volume"}, {"open_round": 0}])
def test_a_job_that_waits_has_no_progress(change: dict[str, str | int]) -> None:
    told = job()
    for name, value in change.items():
        setattr(told, name, value)
    assert progress_of(told, 5) is None


def test_a_server_of_an_earlier_release_tells_no_times() -> None:
    told = job()
    told.ClearField("open")
    assert progress_of(told, 5) is None


def test_time_runs_on_between_two_messages() -> None:
    progress = progress_of(job(accepted=2, done=(30.0, 30.0)), 5)
    assert progress is not None
    later = progress.later(15.0)
    assert (later.elapsed, later.left, later.job_left) == (25.0, 5.0, 65.0)
    assert progress.later(500.0).left == 0.0


def test_without_a_terminal_a_round_is_told_once_when_it_opens() -> None:
    out = io.StringIO()
    table = RoundTable(Console(file=out, width=200), several=False)
    with table:
        table.show("j", job())
        table.show("j", job(accepted=1))
        table.show("j", job(done=(30.0,)))
    assert [line.split(" [")[0] for line in out.getvalue().splitlines() if "[" in line] == [
        "j: round 1 of 5",
        "j: round 2 of 5",
    ]


def test_a_terminal_sees_the_seconds_pass() -> None:
    out = io.StringIO()
    console = Console(file=out, width=100, force_terminal=True, color_system=None)
    with RoundTable(console, several=False) as table:
        table.show("j", job(accepted=2, done=(30.0,)))
        time.sleep(2.5)
    shown = " ".join(out.getvalue().split())
    left = [int(found) for found in re.findall(r"about (\d+) s left", shown)]
    assert left == sorted(left, reverse=True)
    assert left[0] - left[-1] >= 1


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (60, "1 min"), (200, "3 min 20 s"), (7500, "2 h 5 min")]
)
def test_lengths_of_time_are_told_in_two_units_at_most(seconds: float, text: str) -> None:
    assert length(seconds) == text
