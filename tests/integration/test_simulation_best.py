"""A simulated job ends early as a real one does, and tells what scoring took."""

from __future__ import annotations

from pathlib import Path

from fedhft.simulation.run import simulate
from tests.models import tiny_model
from tests.workers import data_of, job_for


def test_a_simulation_ends_early_by_the_scores_of_its_clients_and_evaluates_its_last_version(tmp_path: Path) -> None:
    spec = job_for(
        tiny_model(tmp_path / "base"),
        method="fedit",
        rounds={"total": 9, "min_clients": 2},
        stopping={"patience": 2, "min_delta": 0.99},
        evaluation={"rows": 5},
    )
    done = simulate(spec, {"a": data_of(), "b": data_of(offset=48)})
    assert (done.job.rounds_done, done.job.final.round) == (3, 4)
    assert done.job.reason.startswith("ended early: 2 scored rounds without a version better than 0, accuracy")
    assert (done.job.best.version, done.job.best.round) == (0, 1)
    assert done.version is not None
    assert done.version.version == 3
    assert all(entry.evaluate_seconds_mean > 0 for entry in (*done.job.history, done.job.final))


def test_patience_with_a_job_that_learns_changes_nothing(tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "base")
    rules = {"rounds": {"total": 2, "min_clients": 2}, "training": {"learning_rate": 0.02, "epochs": 3}}
    clients = {"a": data_of(), "b": data_of(offset=48)}
    plain = simulate(job_for(path, method="fedit", **rules), clients)
    patient = simulate(job_for(path, method="fedit", **rules, stopping={"patience": 1, "metric": "loss"}), clients)
    assert (patient.job.rounds_done, patient.job.reason) == (2, "")
    assert patient.job.best.version == 2
    assert plain.version is not None
    assert patient.version is not None
    assert patient.version.snapshots == plain.version.snapshots
