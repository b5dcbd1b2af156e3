"""What local training minimises: weights of classes, smoothed labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

from fedhft.datasets.client_data import ClientData
from fedhft.datasets.examples import Example
from fedhft.errors import ErrorCode, FedhftError
from fedhft.job import parse_job
from fedhft.job_sections import TrainingSpec
from fedhft.job_task import TaskSpec
from fedhft.training.objective import class_weights, objective_of
from fedhft.training.tasks import task_of
from fedhft.training.tasks.interface import place_targets
from fedhft.v1 import federation_pb2 as pb
from tests.models import rows, tiny_model
from tests.workers import job_for, plan, train_task, worker_for

LABELS = ("a", "b", "c", "d")
TASK = task_of(TaskSpec(labels=LABELS))


@given(st.lists(st.integers(0, 3), min_size=1, max_size=50))
def test_balanced_weights_are_those_of_scikit_learn_for_the_labels_a_client_has(targets: list[int]) -> None:
    found = class_weights("balanced", LABELS, np.array(targets))
    present = np.unique(targets)
    expected = compute_class_weight("balanced", classes=present, y=targets)
    np.testing.assert_allclose(found[present], expected, rtol=1e-6)
    assert found[[label for label in range(4) if label not in present]].sum() == 0


@given(st.lists(st.integers(0, 3), min_size=1, max_size=50), st.sampled_from(["balanced", {"a": 3.0, "d": 0.1}]))
def test_a_clients_weights_are_one_in_the_mean_so_they_change_no_step_size(targets: list[int], chosen: Any) -> None:
    found = class_weights(chosen, LABELS, np.array(targets))
    assert float(found[np.array(targets)].mean()) == pytest.approx(1.0, rel=1e-5)


def test_a_table_weighs_labels_against_each_other_and_those_it_does_not_name_are_one() -> None:
    found = class_weights({"b": 4.0}, LABELS, np.array([0, 0, 1, 2]))
    assert found[1] / found[0] == pytest.approx(4.0)
    assert found[0] == found[2]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("chosen", ["balanced", {"a": 0.5, "c": 2.0}])
def test_over_all_rows_the_objective_is_torchs_weighted_cross_entropy(chosen: Any, smoothing: float) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(60, 4, generator=generator)
    targets = torch.randint(0, 4, (60,), generator=generator)
    targets[:40] = 0
    settings = TrainingSpec(class_weights=chosen, label_smoothing=smoothing)
    ours = objective_of(TASK, settings, targets.numpy())(logits, targets)
    weights = torch.from_numpy(class_weights(chosen, LABELS, targets.numpy()))
    each = nn.functional.cross_entropy(logits, targets, reduction="none", label_smoothing=smoothing)
    torch.testing.assert_close(ours, (each * weights[targets]).sum() / weights[targets].sum())
    if not smoothing:
        torch.testing.assert_close(ours, nn.CrossEntropyLoss(weight=weights)(logits, targets))


def test_smoothed_labels_are_torchs() -> None:
    logits, targets = torch.randn(9, 4, generator=torch.Generator().manual_seed(2)), torch.arange(9) % 4
    ours = objective_of(TASK, TrainingSpec(label_smoothing=0.2), targets.numpy())(logits, targets)
    torch.testing.assert_close(ours, nn.CrossEntropyLoss(label_smoothing=0.2)(logits, targets))


def test_without_either_the_objective_is_the_tasks_own_loss() -> None:
    assert objective_of(TASK, TrainingSpec(), np.array([0, 1])) == TASK.loss


def test_tags_are_weighed_at_every_word_and_a_batch_without_words_counts_nothing() -> None:
    task = task_of(TaskSpec(kind="token-classification", labels=("O", "B-X")))
    targets = place_targets([np.array([0, 0, 0], np.int32), np.array([1], np.int32)])
    objective = objective_of(task, TrainingSpec(class_weights="balanced"), targets)
    logits, wanted = torch.tensor([[2.0, 0.0]] * 4), torch.tensor([0, 0, 0, 1])
    each = nn.functional.cross_entropy(logits, wanted, reduction="none")
    torch.testing.assert_close(objective(logits, wanted), (each[:3].mean() + each[3]) / 2)
    assert float(objective(torch.zeros(0, 2), wanted[:0])) == 0.0


def unequal(path: Path, **training: Any) -> tuple[float, float]:
    """(loss before training, loss after) on held-out rows of the label that one training row in sixteen has."""
    texts = [Example(row["text"], None, float(row["label"])) for row in rows(400)]
    rare, common = ([one for one in texts if one.label == label] for label in (0.0, 1.0))
    data = ClientData.of(rare[:4] + common[:60], rare[10:30], None)
    worker = worker_for(job_for(path, training=training, method="fedit"), data=data)
    draft = worker.train(train_task(1, version=0, planned=plan(epochs=2), learning_rate=1e-2, evaluate=True))
    before, after = draft.scores
    assert (before.moment, after.moment) == (pb.Score.MOMENT_BEFORE, pb.Score.MOMENT_AFTER)
    return before.loss, after.loss


def test_balanced_training_learns_a_rare_label_and_scores_keep_the_plain_loss(tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "base")
    before, after = unequal(path)
    before_balanced, after_balanced = unequal(path, class_weights="balanced")
    assert before_balanced == before, "what is shown is the task's loss, whatever is minimised"
    assert after_balanced < 0.8 * after


@pytest.mark.parametrize(
    ("task", "training", "said"),
    [
        ({"labels": ["a", "b"]}, {"class_weights": {"c": 2.0}}, "training.class_weights.c: not a label"),
        ({"labels": ["a", "b"]}, {"class_weights": {"a": 0.0}}, "training.class_weights.a = 0.0"),
        ({"labels": ["a", "b"]}, {"class_weights": "even"}, "training.class_weights = 'even'"),
        ({"kind": "regression"}, {"class_weights": "balanced"}, "regression does not"),
        ({"kind": "regression"}, {"label_smoothing": 0.1}, "training.label_smoothing = 0.1"),
        ({"kind": "multi-label", "labels": ["a"]}, {"label_smoothing": 0.1}, "multi-label does not"),
        ({"kind": "causal-lm"}, {"class_weights": {"a": 2.0}}, "causal-lm does not"),
        ({"labels": ["a", "b"]}, {"label_smoothing": 1.0}, "less than 1"),
    ],
)
def test_where_neither_means_anything_the_job_is_refused(
    task: dict[str, Any], training: dict[str, Any], said: str
) -> None:
    job = {"name": "job", "model": {"name": "base"}, "task": task, "training": training}
    with pytest.raises(FedhftError) as refusal:
        parse_job(job)
    assert refusal.value.code is ErrorCode.INVALID_JOB
    assert said in refusal.value.message


def test_a_causal_model_may_have_smoothed_labels() -> None:
    job = {"name": "job", "model": {"name": "base"}, "task": {"kind": "causal-lm"}}
    assert parse_job({**job, "training": {"label_smoothing": 0.1}}).training.label_smoothing == 0.1
