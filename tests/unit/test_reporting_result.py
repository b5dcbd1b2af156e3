"""The object a demo prints, field by field, and the report and plots made of the same runs."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fedhft.cli.demo import print_summary
from fedhft.job import JobSpec
from fedhft.reporting.plots import write_plots
from fedhft.reporting.report import MethodRun, fewest_rows, mean_over, write_report
from fedhft.reporting.result import DemoResult, run_result
from fedhft.reporting.table import RoundTable, shown, size
from fedhft.v1 import jobs_pb2
from tests.demo_jobs import CLIENTS, finished_job, small_data, spec_of

GROUPS = dict(zip(CLIENTS, (0, 0, 1, 1), strict=True))
DOCUMENTED = {
    "method": None, "seed": None, "rounds": None, "clients": None, "wall_seconds": None,
    "validation": {"before", "after", "mass_weighted"},
    "personal": {"before", "after"},
    "bytes": {"up_per_client_round", "down_per_client_round"},
    "agent_peak_rss_bytes": {"max", "mean"},
    "aggregator_cpu_seconds": None,
    "clusters": {"count", "adjusted_rand_index", "mean_max_membership"},
    "history": None,
    "adapters": None,
    "devices": None,
}  # fmt: skip


def summed(job: jobs_pb2.Job, spec: JobSpec, groups: dict[str, int] | None = GROUPS) -> dict[str, Any]:
    run = run_result(
        job, spec, wall_seconds=12.5, aggregator_cpu_seconds=2.25, groups=groups, adapters=["out/cluster-0"]
    )
    return json.loads(json.dumps(DemoResult((run,)).as_dict(), allow_nan=False))["runs"][0]


def test_a_run_has_exactly_the_documented_keys() -> None:
    run = summed(finished_job(spec_of()), spec_of())
    assert list(run) == list(DOCUMENTED)
    for key, inner in DOCUMENTED.items():
        if inner is not None:
            assert set(run[key]) == inner
    assert set(run["personal"]["before"]) == set(run["personal"]["after"]) == {"mean", "worst_tenth", "worst"}
    assert set(run["history"][0]) == {"round", "seconds", "validation", "bytes_up", "bytes_down"}


def test_every_figure_comes_from_its_own_field() -> None:
    run = summed(finished_job(spec_of()), spec_of())
    assert (run["method"], run["seed"], run["rounds"], run["clients"]) == ("fedhft", 3, 2, 4)
    assert (run["wall_seconds"], run["aggregator_cpu_seconds"]) == (12.5, 2.25)
    assert run["validation"] == pytest.approx({"before": 0.3, "after": 0.35, "mass_weighted": 0.31})
    assert run["personal"]["before"] == pytest.approx({"mean": 0.6, "worst_tenth": 0.55, "worst": 0.5})
    assert run["personal"]["after"] == pytest.approx({"mean": 0.9, "worst_tenth": 0.85, "worst": 0.8})
    assert run["agent_peak_rss_bytes"] == {"max": 4 * 2**20, "mean": 2.5 * 2**20}
    assert run["adapters"] == ["out/cluster-0"]


def test_bytes_are_all_that_clients_carried_over_all_accepted_updates() -> None:
    run = summed(finished_job(spec_of()), spec_of())
    assert run["bytes"]["up_per_client_round"] == (800 + 801 + 802 + 803) / 8
    assert run["bytes"]["down_per_client_round"] == (1600 + 1601 + 1602 + 1603) / 8


def test_a_rounds_validation_is_what_its_version_scored_in_the_next_one() -> None:
    history = summed(finished_job(spec_of()), spec_of())["history"]
    assert [entry["round"] for entry in history] == [1, 2]
    assert [entry["validation"] for entry in history] == pytest.approx([0.2, 0.3])
    assert [entry["bytes_down"] for entry in history] == [2000, 4000]
    assert [entry["seconds"] for entry in history] == [1.5, 3.0]


def test_a_rounds_bytes_up_are_those_the_next_report_has_counted() -> None:
    # Reports count sockets before their own update is sent: 1000 (joining), 2000 (first update), 3000 (second).
    history = summed(finished_job(spec_of()), spec_of())["history"]
    assert [entry["bytes_up"] for entry in history] == [1000 + 2000, 3000]


@pytest.mark.parametrize(
    ("memberships", "index", "largest"),
    [
        (((0.9, 0.1), (0.8, 0.2), (0.1, 0.9), (0.4, 0.6)), 1.0, 0.8),
        (((0.1, 0.9), (0.2, 0.8), (0.9, 0.1), (0.6, 0.4)), 1.0, 0.8),
        (((1.0, 0.0), (0.0, 1.0), (1.0, 0.0), (0.0, 1.0)), -0.5, 1.0),
        (((1.0,), (1.0,), (1.0,), (1.0,)), 0.0, 1.0),
    ],
)
def test_recovered_groups_have_index_one_under_any_numbering(
    memberships: tuple[tuple[float, ...], ...], index: float, largest: float
) -> None:
    clusters = summed(finished_job(spec_of(), memberships), spec_of())["clusters"]
    assert clusters["count"] == len(memberships[0])
    assert clusters["adjusted_rand_index"] == pytest.approx(index)
    assert clusters["mean_max_membership"] == pytest.approx(largest)


@pytest.mark.parametrize(("method", "count"), [("fedit", 1), ("full", 1), ("local", None)])
def test_clusters_are_null_where_a_method_has_none(method: str, count: int | None) -> None:
    spec = spec_of(method)
    clusters = summed(finished_job(spec), spec)["clusters"]
    assert clusters == {"count": count, "adjusted_rand_index": None, "mean_max_membership": None}


def test_without_hidden_groups_there_is_no_index() -> None:
    clusters = summed(finished_job(spec_of()), spec_of(), None)["clusters"]
    assert clusters == {"count": 2, "adjusted_rand_index": None, "mean_max_membership": 1.0}


def test_what_was_not_measured_is_null_and_never_nan() -> None:
    spec = spec_of()
    bare = jobs_pb2.Job(job=spec.name, rounds_done=1, clients=CLIENTS, history=[jobs_pb2.RoundSummary(round=1)])
    run = summed(bare, spec)
    assert run["validation"] == {"before": None, "after": None, "mass_weighted": None}
    assert run["personal"]["before"] == {"mean": None, "worst_tenth": None, "worst": None}
    assert run["bytes"] == {"up_per_client_round": None, "down_per_client_round": None}
    assert run["agent_peak_rss_bytes"] == {"max": None, "mean": None}
    assert run["history"] == [{"round": 1, "seconds": 0.0, "validation": None, "bytes_up": None, "bytes_down": None}]


def method_run(method: str) -> MethodRun:
    spec = spec_of(method)
    job = finished_job(spec)
    groups = GROUPS if method == "fedhft" else None
    return MethodRun(
        spec, job, run_result(job, spec, wall_seconds=1.0, aggregator_cpu_seconds=None, groups=groups, adapters=["x/y"])
    )


def test_the_clients_with_the_least_data_are_a_third_and_all_that_tie() -> None:
    assert fewest_rows(small_data()) == {"a-1", "b-1"}
    run = method_run("fedhft")
    assert mean_over(run, fewest_rows(small_data()), "personal_after") == pytest.approx((0.5 + 0.7) / 2)
    assert mean_over(run, frozenset({"a-1", "absent"}), "personal_after") is None


def test_the_report_names_every_method_score_client_and_adapter() -> None:
    text = write_report([method_run("fedhft"), method_run("local")], small_data(), {"Score by round": "plots/s.png"})
    rows = [re.split(r"\s*\|\s*", line.strip("| ")) for line in text.splitlines() if line.startswith("| ")]
    scores = {row[0]: row[1:] for row in rows if row[0] in ("fedhft", "local") and len(row) == 12}
    assert scores["fedhft"] == [
        "0.600",
        "0.550",
        "0.500",
        "0.900",
        "0.850",
        "0.800",
        "0.300",
        "0.350",
        "0.310",
        "0.420",
        "0.510",
    ]
    assert ["fedhft", "macro_f1", "0.580", "-", "0.290", "0.250"] in rows
    assert scores.keys() == {"fedhft", "local"}
    assert ["fedhft", "0.500", "0.600"] in rows
    assert ["a-1", "0", "1.000", "0.000"] in rows
    assert all(any(row[0] == client for row in rows) for client in CLIENTS)
    assert "adjusted Rand index 1.000" in text
    assert "![Score by round](plots/s.png)" in text
    assert "`x/y`" in text
    assert "majority label would score 0.500" in text


def a_large_job() -> jobs_pb2.Job:
    job = finished_job(spec_of())
    for entry in (*job.history, job.final):
        entry.payload_bytes_up, entry.payload_bytes_down, entry.seconds = 1023 << 10, 1023 << 20, 12345.6
    return job


@pytest.mark.parametrize("several", [True, False])
@pytest.mark.parametrize("width", [80, 120])
def test_the_table_of_rounds_takes_every_round_once_and_says_what_it_has_no_room_for(several: bool, width: int) -> None:
    job = a_large_job()
    console = Console(file=io.StringIO(), width=width, record=True)
    table = RoundTable(console, several)
    rows = [*table.take_in("fedhft-paper", job), *table.take_in("fedit", job)]
    assert [row[:2] for row in rows[:3]] == [("fedhft-paper", name) for name in ("1", "2", "final")]
    assert table.take_in("fedit", job) == []
    table.print()
    printed = console.export_text()
    missing = {80: ["loss", "scoring", "layers", "waiting"] if several else ["scoring", "waiting"], 120: []}[width]
    if missing:  # there is no room for what matters least, and with a name in front for less, and that is said
        rows = [
            tuple(cell for place, cell in enumerate(row) if place not in ((6, 10, 11, 12) if several else (10, 12)))
            for row in rows
        ]
        assert f"not shown, for want of room: {', '.join(missing)}" in " ".join(printed.split())
    else:
        assert "want of room" not in printed
    assert all(" ".join(row if several else row[1:]) in " ".join(printed.split()) for row in rows)
    assert all(len(line) <= width for line in printed.splitlines())


@pytest.mark.parametrize("several", [True, False])
def test_the_table_of_rounds_leaves_out_columns_in_60_columns_and_says_which(several: bool) -> None:
    console = Console(file=io.StringIO(), width=60, record=True)
    table = RoundTable(console, several)
    (first, *_) = table.take_in("fedhft-paper", a_large_job())
    table.print()
    printed = console.export_text()
    assert all(len(line.rstrip()) <= 60 for line in printed.splitlines())
    told = " ".join(printed.split())
    assert "not shown, for want of room: " in told
    assert told.rpartition(": ")[2].endswith("clusters")
    line = next(line for line in printed.splitlines() if line.strip().startswith("fedhft-paper" if several else "1 "))
    cells = line.replace(" MiB", "MiB").replace(" GiB", "GiB").split()
    kept = [cell.replace(" ", "") for cell in (first if several else first[1:])]
    assert cells == [cell for cell in kept if cell in cells]
    assert len(cells) >= 6
    assert "…" not in printed


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_summary_of_a_demo_is_never_cut(width: int) -> None:
    console = Console(file=io.StringIO(), width=width, record=True)
    runs = tuple(method_run(name).result for name in ("fedhft", "fedhft-paper"))
    print_summary(console, DemoResult(runs))
    printed = console.export_text()
    assert all(len(line.rstrip()) <= width for line in printed.splitlines())
    assert "…" not in printed
    assert ("want of room" in printed) is (width == 60)


def test_tables_of_the_report_have_as_many_cells_as_heads() -> None:
    text = write_report([method_run("fedhft"), method_run("fedit")], small_data(), {})
    for block in re.findall(r"(?:^\|.*\n)+", text, re.M):
        assert len({line.count("|") for line in block.splitlines()}) == 1


def test_plots_are_drawn_as_png_files(tmp_path: Path) -> None:
    written = write_plots([method_run("fedhft"), method_run("local")], small_data(), tmp_path)
    assert set(written) == {
        "Score by round", "Bytes per client and round", "Personal score of every client", "Memberships",
    }  # fmt: skip
    for path in written.values():
        assert path.read_bytes().startswith(b"\x89PNG")


def test_a_plot_with_nothing_to_show_is_left_out(tmp_path: Path) -> None:
    run = method_run("fedit")
    silent = jobs_pb2.Job(job="demo-fedit", clients=CLIENTS)
    empty = dataclasses.replace(
        run,
        job=silent,
        result=run_result(silent, run.spec, wall_seconds=1.0, aggregator_cpu_seconds=None, groups=None, adapters=()),
    )
    assert write_plots([empty], small_data(), tmp_path) == {}


@pytest.mark.parametrize(
    ("count", "text"),
    [(None, "-"), (0, "0 B"), (999, "999 B"), (1536, "1.5 KiB"), (1023 << 10, "1.0 MiB"), (2**31, "2.00 GiB")],
)
def test_sizes_are_shown_in_powers_of_1024(count: float | None, text: str) -> None:
    assert size(count) == text


def test_an_absent_score_is_a_dash() -> None:
    assert (shown(None), shown(0.0)) == ("-", "0.000")
