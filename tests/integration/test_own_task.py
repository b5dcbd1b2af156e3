"""A task that an installed package brings: read, trained, scored and pooled like those of fedhft."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from benchmarks.families import example_rows, write_family
from fedhft.datasets.client_data import ClientData
from fedhft.errors import ErrorCode, FedhftError
from fedhft.job import JobSpec, parse_job
from fedhft.job_task import TaskSpec
from fedhft.simulation.run import Simulation
from fedhft.training.base import load_base
from fedhft.training.tasks import task_of

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "own_task.py"


def install(folder: Path, name: str, value: str) -> None:
    """A distribution with one entry point, as pip leaves it."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[fedhft.tasks]\n{value}\n")


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "site"
    install(folder, "own-stars", "stars = own_task:Stars")
    shutil.copy(EXAMPLE, folder)
    monkeypatch.syspath_prepend(folder)
    yield folder
    sys.modules.pop("own_task", None)


def job(path: Path) -> JobSpec:
    return parse_job(
        {
            "name": "stars",
            "model": {"name": str(path), "max_length": 32},
            "task": {"kind": "stars", "labels": ["bad", "good"]},
            "adapter": {"rank": 4},
            "method": "fedit",
            "rounds": {"total": 2, "min_clients": 2},
            "evaluation": {"final_shared": "sharded"},
            "training": {"learning_rate": 1e-2, "batch_size": 8},
        }
    )


def test_the_example_is_short_enough_to_read() -> None:
    assert len(EXAMPLE.read_text().splitlines()) < 60


def test_a_task_of_a_package_is_trained_and_its_metrics_are_shown(installed: Path, tmp_path: Path) -> None:
    spec = job(write_family(tmp_path / "model", "bert", "classification"))
    held = example_rows("classification", 12, 500)
    clients = {
        name: ClientData.of(example_rows("classification", 24, start), held, held)
        for name, start in (("a", 0), ("b", 100))
    }
    ended = asyncio.run(Simulation(spec, clients, load_base(spec)).run())
    final = ended.job.final
    assert [one.name for one in final.metrics] == ["within_one", "mean_distance"]
    within, distance = final.metrics
    assert within.shared_before == final.shared_before == 1.0  # of two labels none is further
    assert 0.0 <= distance.shared_before < 0.5
    assert distance.floor == pytest.approx(0.5)
    first = ended.job.history[0]
    assert final.shared_loss_before < first.shared_loss_before  # its own loss was trained


def test_an_unknown_kind_is_refused_at_submission_with_those_there_are(installed: Path) -> None:
    with pytest.raises(ValidationError, match="did you mean 'stars'"):
        TaskSpec(kind="star", labels=("a", "b"))
    with pytest.raises(ValidationError, match=r"unknown kind of task.*causal-lm, stars"):
        TaskSpec(kind="nonsense-kind")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("broken = own_task:Nothing", "cannot be imported"),
        ("broken = own_missing:Task", "cannot be imported"),
        ("broken = own_task:compute_loss", "is not a task"),
    ],
)
def test_a_package_that_cannot_be_used_is_named(installed: Path, value: str, said: str) -> None:
    install(installed, "broken", value)
    with pytest.raises(FedhftError, match=said) as caught:
        task_of(TaskSpec(kind="broken"))
    assert caught.value.code is ErrorCode.INVALID_JOB
    assert ";" in caught.value.message


def test_two_packages_with_one_kind_are_refused(installed: Path) -> None:
    install(installed, "more-stars", "stars = own_task:Stars")
    with pytest.raises(FedhftError, match="2 installed packages bring it"):
        task_of(TaskSpec(kind="stars", labels=("a", "b")))
