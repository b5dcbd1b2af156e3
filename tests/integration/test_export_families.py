"""Exports of every family of models and kind of task answer as what was trained, and `fedhft predict` reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.families import FAMILIES, REFUSED, TASKS, example_rows, write_family
from fedhft.adapter import AdapterState
from fedhft.datasets.client_data import ClientData
from fedhft.export.published import Exported, PublishedAdapters, write_adapters
from fedhft.job import JobSpec, parse_job
from fedhft.training.base import load_base
from fedhft.training.worker import ClientWorker
from fedhft.v1 import adapter_pb2, jobs_pb2
from fedhft.wire.codec import decode
from tests.cli_runner import run_cli
from tests.workers import plan, train_task

ROUNDING = 1e-5


def spec_for(path: Path, task: str, method: str) -> JobSpec:
    return parse_job(
        {
            "name": "families",
            "model": {"name": str(path), "max_length": 32},
            "task": TASKS[task].model_dump(mode="json"),
            "adapter": {"rank": 2, "alpha": 8},
            "method": method,
            "wire": {"up": "fp32", "down": "fp32"},
        }
    )


def exported(folder: Path, family: str, task: str, method: str = "fedit", merge: bool = False) -> Exported:
    """A job of one client and one round, exported."""
    path = write_family(folder / "base", family, task)
    spec = spec_for(path, task, method)
    rows = example_rows(task, 24)
    worker = ClientWorker(spec, "client-1", load_base(spec), ClientData.of(rows[:16], rows[16:], None))
    draft = worker.train(train_task(1, version=0, planned=plan(epochs=2), learning_rate=2e-2))
    delta = decode(draft.blob, worker.schema, kind=adapter_pb2.BLOB_KIND_UPDATE).delta
    state = AdapterState(1, 1, {"cluster-0": {key: matrix.dense() for key, matrix in delta}})
    assert max(float(np.abs(matrix.values).max()) for _, matrix in delta) > 1e-2  # something was learnt
    adapters = PublishedAdapters(spec, worker.schema, state, {})
    job = jobs_pb2.Job(job="families", rounds_done=1, clients=["client-1"])
    (one,) = write_adapters(adapters, folder / "out", job, merge=merge)
    return one


POSSIBLE = [
    (family, task)
    for task in TASKS
    for family in FAMILIES
    # Encoders read the text on both sides; and transformers has no such Gemma 3.
    if (family, task) not in REFUSED
]


@pytest.mark.parametrize(("family", "task"), POSSIBLE)
def test_an_export_answers_as_what_was_trained(tmp_path: Path, family: str, task: str) -> None:
    one = exported(tmp_path, family, task)
    assert one.checked is not None, one.unchecked
    assert one.checked.difference < ROUNDING


def rows_file(folder: Path, task: str, *, targets: bool = True) -> Path:
    lines = []
    for row in example_rows(task, 8, offset=40):
        value: dict[str, Any] = json.loads(row.to_json(TASKS[task].labels))
        if task == "causal-lm":
            value = {"prompt": row.text, "completion": row.text_pair}
        if not targets:
            value.pop("label")
        lines.append(json.dumps(value))
    path = folder / "rows.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


ANSWERS = {
    "classification": {"row", "label", "probability"},
    "multi-label": {"row", "labels"},
    "regression": {"row", "value"},
    "token-classification": {"row", "tags"},
    "causal-lm": {"row", "text"},
}


@pytest.mark.parametrize("merge", [False, True], ids=["adapter", "merged"])
@pytest.mark.parametrize("task", TASKS)
def test_predict_scores_rows_and_writes_what_the_model_says(tmp_path: Path, task: str, merge: bool) -> None:
    one = exported(tmp_path, "llama" if task == "causal-lm" else "bert", task, merge=merge)
    out = tmp_path / "answers.jsonl"
    rows = rows_file(tmp_path, task)
    done = run_cli(
        "predict",
        "--adapter",
        str(one.path),
        "--data",
        str(rows),
        "--out",
        str(out),
        "--most-tokens",
        "4",
        "-o",
        "json",
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["rows"], told["scored"]) == (8, True)
    assert list(told["metrics"]) == list(TASKS[task].measured)
    assert told["loss"] > 0
    answers = [json.loads(line) for line in out.read_text().splitlines()]
    assert [answer["row"] for answer in answers] == list(range(1, 9))
    assert all(set(answer) == ANSWERS[task] for answer in answers)
    if task == "classification":
        wanted = [json.loads(line)["label"] for line in rows.read_text().splitlines()]
        right = sum(answer["label"] == label for answer, label in zip(answers, wanted, strict=True)) / 8
        assert told["metrics"]["accuracy"]["value"] == right
    table = run_cli("predict", "--adapter", str(one.path), "--data", str(rows))
    assert table.returncode == 0
    assert f"families {one.path.name}: 8 rows\n" in table.stdout
    assert "loss" in table.stdout


def test_rows_without_targets_are_answered_and_not_scored(tmp_path: Path) -> None:
    one = exported(tmp_path, "bert", "classification")
    rows, out = rows_file(tmp_path, "classification", targets=False), tmp_path / "answers.jsonl"
    done = run_cli("predict", "--adapter", str(one.path), "--data", str(rows), "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert "without targets" in done.stdout
    assert len(out.read_text().splitlines()) == 8


@pytest.mark.parametrize(
    ("changed", "code", "said"),
    [
        (("--adapter", "absent"), 16, "no fedhft.json"),
        (("--data", "absent.jsonl"), 15, "absent.jsonl"),
        (("--out", "absent/answers.jsonl"), 14, "cannot be written"),
        (("--base-path", "/absent/base"), 16, "no such folder"),
    ],
)
def test_what_cannot_be_predicted_is_refused(tmp_path: Path, changed: tuple[str, str], code: int, said: str) -> None:
    one = exported(tmp_path, "bert", "classification")
    options = {"--adapter": str(one.path), "--data": str(rows_file(tmp_path, "classification")), **dict([changed])}
    done = run_cli("predict", *(part for option in options.items() for part in option))
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr


def test_a_broken_adapter_is_refused_by_name(tmp_path: Path) -> None:
    one = exported(tmp_path, "bert", "classification")
    (one.path / "adapter_model.safetensors").write_bytes(b"torn")
    done = run_cli("predict", "--adapter", str(one.path), "--data", str(rows_file(tmp_path, "classification")))
    assert done.returncode == 16
    assert "cannot be loaded" in done.stderr
