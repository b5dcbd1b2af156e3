"""What people are shown of jobs, clients and events is calm in 60, 80 and 120 columns: nothing is cut or squeezed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fedhft.cli import job_views
from fedhft.cli.output import Column, ago, print_table
from fedhft.v1 import capacity_pb2, clients_pb2, clustering_pb2, jobs_pb2

WIDTHS = (60, 80, 120)
REASON = "round 3 has 2 of 4 updates at its deadline, and was extended twice; give it more time, or a smaller quorum"


def jobs() -> None:
    job_views.print_jobs(
        [
            jobs_pb2.Job(job="tickets", status="running", rounds_done=12, clients=["a"] * 6, age_seconds=7000),
            jobs_pb2.Job(job="a-job-with-a-long-name-2026", status="running", paused="until Monday", age_seconds=5e5),
            jobs_pb2.Job(job="failed-one", status="failed", reason=REASON, age_seconds=99),
        ]
    )


def no_jobs() -> None:
    job_views.print_jobs([])


def clients() -> None:
    live = clients_pb2.JobClient(
        client="clinic-north-07", state=1, tier="strong", samples=123456, joined_seconds=4000, seen_seconds=2
    )
    declined = clients_pb2.JobClient(
        client="b", state=3, reason="most_rank = 4: the job has rank 8; its owner allows 4"
    )
    aside = clients_pb2.JobClient(client="c", state=2, set_aside="its bytes are damaged", seen_seconds=90_000)
    job_views.print_clients([live, declined, aside])


def measured_clients() -> None:
    device = capacity_pb2.Capacity(
        forward_ms=1234.5, backward_ms=0.0123, up=250e3, down=1.25e9, deepest=12, energy_joules=1e4
    )
    measured = clients_pb2.JobClient(client="clinic-north-07", state=1, tier="strong", samples=123456, capacity=device)
    job_views.print_clients([measured, clients_pb2.JobClient(client="b", state=2, set_aside="its bytes are damaged")])


def memberships() -> None:
    rows = [clustering_pb2.Membership(client=f"clinic-{n}", weights=[1 / 12] * 11 + [1 / 12 + 1e-9]) for n in range(3)]
    job_views.print_memberships("tickets", clustering_pb2.Memberships(version=3, round=2, clusters=12, rows=rows))


def events() -> None:
    told = [
        jobs_pb2.JobEvent(at_ms=1_790_000_000_000, kind="opened", round=3, text="6 clients"),
        jobs_pb2.JobEvent(at_ms=1_790_000_100_000, kind="set_aside", round=3, client="clinic-north-07", text=REASON),
        jobs_pb2.JobEvent(at_ms=1_790_000_200_000, kind="paused", text="until [bold]Monday[/bold]"),
    ]
    job_views.print_events(jobs_pb2.ListEventsResponse(events=told, now_ms=1_790_000_300_000))


VIEWS = (jobs, no_jobs, clients, measured_clients, memberships, events)


def shown(
    view: Callable[[], None], width: int | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> list[str]:
    if width is None:
        monkeypatch.delenv("COLUMNS", raising=False)
    else:
        monkeypatch.setenv("COLUMNS", str(width))
    view()
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.__name__)
def test_no_line_is_too_long_and_nothing_is_cut(
    view: Callable[[], None], width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = shown(view, width, monkeypatch, capsys)
    assert all(len(line.rstrip()) <= width for line in lines), lines
    assert "…" not in "".join(lines)


@pytest.mark.parametrize("width", WIDTHS)
def test_what_matters_most_is_there_at_every_width(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for view, words in (
        (jobs, ("tickets", "a-job-with-a-long-name-2026", "running, paused", "until Monday", "failed-one", "quorum")),
        (clients, ("clinic-north-07", "live", "declined", "silent")),
        (events, ("round 3 opened", "clinic-north-07 set aside in round 3", "[bold]Monday[/bold]", "quorum")),
        (memberships, ("clinic-0 11 0.083",)),
    ):
        text = " ".join(" ".join(shown(view, width, monkeypatch, capsys)).split())
        for word in words:
            assert word in text, (view, width)


def test_names_stay_on_one_line_and_only_free_text_wraps(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = shown(jobs, 60, monkeypatch, capsys)
    assert sum(line.startswith("failed-one") for line in lines) == 1
    assert sum(line.startswith("a-job-with-a-long-name-2026 ") for line in lines) == 1


def test_columns_that_are_left_out_are_named_and_come_back_with_more_room(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    narrow = shown(memberships, 60, monkeypatch, capsys)
    head = next(line for line in narrow if line.startswith("client")).split()
    assert head == ["client", "cluster", *map(str, range(len(head) - 2))]
    assert 3 < len(head) < 12
    left_out = " ".join(narrow).partition("not shown, for want of room: ")[2].partition(" 12 clusters;")[0]
    assert left_out.split(", ") == [str(cluster) for cluster in range(len(head) - 2, 12)]
    wide = shown(memberships, 400, monkeypatch, capsys)
    assert wide[1].split() == ["client", "cluster", *map(str, range(12))]
    assert "want of room" not in "".join(wide)


def test_a_pipe_gets_whole_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(jobs, None, monkeypatch, capsys)
    assert sum(REASON in line for line in lines) == 1


def test_a_column_of_text_that_says_nothing_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    print_table((Column("a"), Column("reason", text=True)), [("x", ""), ("y", "")])
    assert "reason" not in capsys.readouterr().out
    print_table((Column("a"), Column("reason", text=True)), [])
    assert "reason" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (172_800, "2 d"), (1e7, "116 d")]
)
def test_ages_are_told_in_their_largest_unit(seconds: float, text: str) -> None:
    assert ago(seconds) == text
