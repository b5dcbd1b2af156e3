"""Tasks: a table of kinds, what each says of itself without torch, and the algebra of its targets."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from fedhft.errors import ErrorCode, FedhftError
from fedhft.job_task import TaskSpec
from fedhft.scoring.metrics import KINDS, METRICS
from fedhft.training.tasks import Task, kind_for, task_of
from fedhft.training.tasks.multi_label import MultiLabel

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "tasks.md"
NAMED = TaskSpec(labels=("bad", "good", "mixed"))
NUMBER = TaskSpec(kind="regression")


def errors_of(task: Task, targets: list[float], logits: NDArray[np.float32] | None = None) -> NDArray[np.float64]:
    rows = np.arange(len(targets))
    given = np.zeros((len(targets), task.outputs), np.float32) if logits is None else logits
    return task.signature_errors(task.encode(targets))(rows, torch.from_numpy(given))


def test_every_kind_a_job_may_name_has_a_task() -> None:
    for kind in KINDS:
        assert isinstance(task_of(TaskSpec.model_construct(kind=kind, labels=("a", "b"))), Task)


def test_a_kind_without_a_task_is_refused_with_the_kinds_there_are() -> None:
    with pytest.raises(FedhftError, match=r"task\.kind = 'ranking'.*classification, .*causal-lm") as caught:
        task_of(TaskSpec.model_construct(kind="ranking"))
    assert caught.value.code is ErrorCode.INVALID_JOB


def test_a_task_reads_targets_and_says_its_card_without_loading_torch() -> None:
    program = (
        "import sys; from fedhft.job_task import TaskSpec; from fedhft.training.tasks import task_of\n"
        "for spec in (TaskSpec(labels=('a', 'b')), TaskSpec(kind='regression')):\n"
        "    task = task_of(spec)\n"
        "    print(task.auto_class, task.auto_arguments, task.pipeline_tag, task.peft_task_type, task.outputs)\n"
        "    one = task.encode([1.0])\n"
        "    print(task.labels_line(), task.split_by_class, task.target('1'), task.floor(one, one)[task.metrics[0]])\n"
        "print(sorted(set(sys.modules) & {'torch', 'transformers', 'peft'}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines() == [
        "AutoModelForSequenceClassification {'num_labels': 2} text-classification SEQ_CLS 2",
        "a, b True 1.0 1.0",
        "AutoModelForSequenceClassification {'num_labels': 1} text-classification SEQ_CLS 1",
        "none (regression) False 1.0 0.0",
        "[]",
    ]


def test_data_without_label_names_is_for_numbers() -> None:
    assert kind_for(("a", "b")) == "classification"
    assert kind_for(()) == "regression"


def test_the_baseline_is_the_commonest_training_label_and_of_several_the_smallest() -> None:
    task = task_of(NAMED)
    assert task.floor(task.encode([1, 1, 2, 2]), task.encode([1, 1, 1, 2]))["accuracy"] == 0.75
    assert task.floor(task.encode([2, 2, 1]), task.encode([1, 1, 1, 2]))["accuracy"] == 0.25


def test_the_score_of_numbers_is_their_correlation_and_zero_where_one_side_does_not_vary() -> None:
    task = task_of(NUMBER)
    logits = np.array([[1.0], [2.0], [4.0]], np.float32)

    def pearson(logits: NDArray[np.float32], targets: list[float]) -> float:
        return task.tally(logits, np.array(targets), np.ones(len(targets), np.int64)).metric("pearson")

    assert pearson(logits, [10.0, 20.0, 40.0]) == pytest.approx(1.0)
    assert pearson(-logits, [10.0, 20.0, 40.0]) == pytest.approx(-1.0)
    assert pearson(logits, [5.0, 5.0, 5.0]) == 0.0
    assert pearson(logits[:1], [5.0]) == 0.0


def test_signature_errors_weigh_every_class_alike_whatever_its_share() -> None:
    task = task_of(NAMED)
    even, uneven = [0.0, 1.0, 2.0], [0.0, 1.0, 1.0, 1.0, 2.0]
    by_class = [errors_of(task, targets)[np.array(targets) == 1.0].sum(0) for targets in (even, uneven)]
    np.testing.assert_allclose(by_class[0], by_class[1])
    np.testing.assert_allclose(by_class[0], [1 / 9, 1 / 9 - 1 / 3, 1 / 9])
    np.testing.assert_allclose(errors_of(task, uneven).sum(0), 0.0, atol=1e-15)


def test_signature_errors_of_a_single_class_come_from_the_logits() -> None:
    logits = np.array([[0.0, 0.0, 0.0], [9.0, -9.0, -9.0]], np.float32)
    errors = errors_of(task_of(NAMED), [0.0, 0.0], logits)
    np.testing.assert_allclose(errors, [[-2 / 3, 1 / 3, 1 / 3], [0.0, 0.0, 0.0]], atol=1e-7)


def test_signature_errors_of_numbers_are_distances_from_their_mean_and_zero_where_they_are_equal() -> None:
    task = task_of(NUMBER)
    np.testing.assert_allclose(errors_of(task, [1.0, 2.0, 6.0])[:, 0], [2 / 3, 1 / 3, -1.0])
    assert errors_of(task, [0.1] * 3).tolist() == [[0.0]] * 3


@pytest.mark.parametrize("section", re.findall(r"```toml\n\[task\]\n(.*?)```", DOCUMENT.read_text(), re.DOTALL))
def test_every_example_of_the_document_is_a_task(section: str) -> None:
    spec = TaskSpec(**tomllib.loads(section))
    assert task_of(spec).metrics


def test_the_document_names_every_metric_and_every_kind() -> None:
    text = DOCUMENT.read_text()
    assert [name for name in (*KINDS, *METRICS) if f"`{name}`" not in text] == []


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"kind": "classificaton", "labels": ("a", "b")}, "did you mean 'classification'"),
        ({"kind": "regression", "labels": ("a", "b")}, "regression has none"),
        ({"kind": "token-classification"}, "needs two or more distinct label names"),
        ({"kind": "multi-label"}, "needs one or more distinct label names"),
        ({"kind": "regression", "metrics": ("accuracy",)}, "regression has no 'accuracy'; choose from pearson"),
        ({"kind": "regression", "metrics": ("rmse", "pearson")}, "of 'rmse' less is better; put one of pearson"),
        ({"labels": ("a", "b"), "metrics": ("mcc", "mcc")}, "name each metric once"),
        ({"kind": "causal-lm", "text_pair": "b"}, "causal-lm has no pairs of texts"),
    ],
)
def test_a_task_that_cannot_be_is_refused_at_submission(fields: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        TaskSpec(**fields)  # type: ignore[arg-type]


def test_the_worst_score_is_that_of_the_first_metric() -> None:
    assert TaskSpec(labels=("a", "b")).least_score == 0.0
    assert TaskSpec(labels=("a", "b"), metrics=("mcc",)).least_score == -1.0
    assert TaskSpec(kind="regression").least_score == -1.0
    assert TaskSpec(kind="causal-lm").least_score == 0.0


def test_numbers_are_standardised_by_the_job_and_their_errors_are_in_units_of_the_data() -> None:
    task = task_of(TaskSpec(kind="regression", target_mean=10.0, target_std=4.0))
    targets = task.encode([10.0, 14.0, 2.0])
    assert targets.tolist() == [0.0, 1.0, -2.0]
    counted = task.tally(np.array([[0.5], [1.0], [-2.0]], np.float32), targets, np.ones(3, np.int64))
    assert counted.metric("rmse") == pytest.approx((2.0**2 / 3) ** 0.5)
    floor = task.floor(task.encode([10.0, 14.0]), targets)
    assert floor["pearson"] == 0.0
    assert floor["mae"] == pytest.approx((2 + 2 + 10) / 3)


def test_several_labels_are_a_list_or_names_in_one_field() -> None:
    task = task_of(TaskSpec(kind="multi-label", labels=("a", "b", "c")))
    assert isinstance(task, MultiLabel)
    for value in (["c", "a"], [2, 0], "c|a", "a | c"):
        assert task.target(value) == (0, 2)
    assert task.target([]) == task.target("") == ()
    for wrong, said in ((None, "is not a list"), (["a", "a"], "twice"), (["d"], "unknown label"), (3, "is not a list")):
        with pytest.raises(ValueError, match=said):
            task.target(wrong)
    assert task.encode([(0, 2), ()]).tolist() == [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    floor = task.floor(task.encode([(0,), (0, 1), (2,)]), task.encode([(0,), (1,)]))
    assert floor["accuracy"] == 0.5  # the first label, which most rows have
