"""The table of `make bench-scores`, from runs that are kept already."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks import scores
from fedhft.reporting.result import run_result
from fedhft.v1 import jobs_pb2
from tests.demo_jobs import finished_job, spec_of


def kept(folder: Path, name: str, job: jobs_pb2.Job) -> None:
    """A run's result where the benchmark looks for it."""
    result = run_result(job, spec_of(), wall_seconds=1.0, aggregator_cpu_seconds=None, groups=None, adapters=())
    (folder / f"{name}.json").write_text(json.dumps({"runs": [asdict(result)]}))


def test_a_row_has_means_over_seeds_and_a_dash_for_what_was_not_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in (0, 1):
        kept(tmp_path, f"fedit-lr0.001-seed{seed}", finished_job(spec_of()))
    silent = finished_job(spec_of())  # as a simulation tells it: no sockets, no processes
    for entry in (*silent.history, silent.final):
        entry.socket_bytes_up = entry.socket_bytes_down = 0
    for client in silent.results:
        client.socket_bytes_sent = client.socket_bytes_received = client.peak_rss_bytes = 0
    for seed in (0, 1):
        kept(tmp_path, f"local-lr0.001-seed{seed}", silent)
    scores.main(
        ["--data", "unused", "--out", str(tmp_path), "--arms", "fedit; local", "--seeds", "0,1", "--rate", "1e-3"]
    )
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [dict(zip(scores.HEADS, row, strict=True))["bytes up"] for row in rows] == ["401", "-"]
    assert [dict(zip(scores.HEADS, row, strict=True))["agent peak MiB"] for row in rows] == ["4", "-"]
    assert rows[0][3] == "0.300 (0.300 to 0.300)"
