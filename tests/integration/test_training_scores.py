"""What a worker scores: its own rows and shared ones, before and after training, whatever the task."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedhft.adapter import SHARED
from fedhft.datasets.client_data import ClientData
from fedhft.datasets.examples import Example
from fedhft.job import JobSpec
from fedhft.training.base import LoadedBase, load_base
from fedhft.v1 import federation_pb2 as pb
from tests.models import tiny_model
from tests.workers import data_of, evaluate_task, job_for, plan, published, score_of, train_task, worker_for

WHOLE = pb.Shard(index=0, count=1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def spec(model: Path) -> JobSpec:
    return job_for(model)


@pytest.fixture(scope="module")
def base(spec: JobSpec) -> LoadedBase:
    return load_base(spec)


def test_evaluation_scores_before_and_after_one_more_training_and_remembers_nothing(
    spec: JobSpec, base: LoadedBase, tmp_path: Path
) -> None:
    worker = worker_for(spec, tmp_path, base)
    for scope, version in ((SHARED, 1), ("cluster-0", 1), ("cluster-1", 2)):
        worker.apply(*published(worker, scope, version, scale=1.0))
    worker._state = worker._state.__class__(adapters=worker._state.adapters)
    memory = worker._state
    scores, measured = worker.evaluate(evaluate_task(1, (1.0, 0.0), (0.5, 0.5)))
    assert measured.steps == 12
    rows = {(s.split, s.moment, s.view): s.rows for s in scores}
    personal, shared = pb.Score.SPLIT_PERSONAL, pb.Score.SPLIT_SHARED
    before, after = pb.Score.MOMENT_BEFORE, pb.Score.MOMENT_AFTER
    own, weighted = pb.Score.VIEW_OWN, pb.Score.VIEW_MASS_WEIGHTED
    assert rows == {
        (personal, before, own): 16,
        (personal, after, own): 16,
        (shared, before, own): 20,
        (shared, after, own): 20,
        (shared, before, weighted): 5,
    }
    assert score_of(scores, personal, after).loss < score_of(scores, personal, before).loss
    assert worker.pending() is None
    assert (worker._state.rows, worker._state.carried, worker._state.round) == (memory.rows, memory.carried, 0)
    # The mass-weighted mixture is another model: with the same rows it scores another loss.
    task = evaluate_task(1, (1.0, 0.0), (0.5, 0.5))
    task.shared_mass_weighted.CopyFrom(WHOLE)
    scores, _ = worker.evaluate(task)
    assert score_of(scores, shared, before, weighted).loss != score_of(scores, shared, before).loss


def test_shards_cover_the_shared_rows_once(spec: JobSpec, base: LoadedBase) -> None:
    worker = worker_for(spec, base=base)
    scores = [worker.train(train_task(shared=pb.Shard(index=index, count=3))).scores[0] for index in range(3)]
    assert [s.rows for s in scores] == [7, 7, 6]
    whole = worker.train(train_task(shared=WHOLE)).scores[0]
    assert sum(s.loss * s.rows for s in scores) / 20 == pytest.approx(whole.loss, rel=1e-5)


def test_a_client_without_holdout_or_shared_rows_reports_no_such_score(spec: JobSpec, base: LoadedBase) -> None:
    worker = worker_for(spec, base=base, data=ClientData.of(data_of().train))
    assert worker.has_shared_validation is False
    assert worker.train(train_task(evaluate=True, shared=WHOLE)).scores == []


def test_the_majority_score_is_that_of_the_commonest_training_label(spec: JobSpec, base: LoadedBase) -> None:
    rows = data_of().train
    train = [row for row in rows if row.label == 1.0] + [row for row in rows if row.label == 0.0][:5]
    holdout = [row for row in rows if row.label == 0.0][:9] + [row for row in rows if row.label == 1.0][:3]
    worker = worker_for(spec, base=base, data=ClientData.of(train, holdout))
    assert worker.train(train_task(evaluate=True)).scores[0].majority == 0.25


# -- other tasks


def test_regression_is_scored_by_correlation_and_squared_error(model: Path) -> None:
    spec = job_for(model, task={"kind": "regression"}, training={"batch_size": 8})
    rows = [Example(row.text, None, 2.0 * row.label - 1.0 + 0.1 * (i % 3)) for i, row in enumerate(data_of(60).train)]
    worker = worker_for(spec, data=ClientData.of(rows[:48], rows[48:]))
    draft = worker.train(train_task(planned=plan(epochs=10), learning_rate=2e-2, evaluate=True))
    before, after = draft.scores
    assert before.majority == after.majority == 0.0
    assert after.loss < 0.7 * before.loss
    assert after.value > 0.5
    assert worker.schema.labels == ()
    assert worker.schema.head[0].shape == (1, 32)


@pytest.mark.parametrize("architecture", ["bert", "llama"])
def test_the_second_text_of_a_pair_is_read(tmp_path: Path, architecture: str) -> None:
    spec = job_for(tiny_model(tmp_path, architecture), architecture, task={"labels": ["no", "yes"], "text_pair": "b"})
    rows = [Example("the cat works", text, 0.0) for text in ("a dog fails", "the film shines")]
    one, other = (worker_for(spec, data=ClientData.of([row], [row])) for row in rows)
    task = train_task(evaluate=True)
    assert one.train(task).scores[0].loss != other.train(task).scores[0].loss
    if architecture == "bert":
        assert one._train.rows[0].types is not None
        assert one._train.rows[0].types.tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 1]


@pytest.mark.parametrize("every", [pb.Shard(index=1, count=2), WHOLE])
def test_a_round_scores_at_most_the_rows_of_its_budget_and_always_the_same_ones(
    model: Path, base: LoadedBase, every: pb.Shard
) -> None:
    budget = worker_for(job_for(model, evaluation={"rows": 7}), base=base)
    first, again = (budget.train(train_task(number, evaluate=True, shared=every)) for number in (1, 2))
    assert [score.rows for score in first.scores] == [7, 7, 7]
    assert [score.loss for score in again.scores[:2]] == [score.loss for score in first.scores[:2]]
    assert {score.rows for score in budget.evaluate(evaluate_task(3))[0]} == {16, 20, 5}, "in the end all count"


def test_fewer_rows_than_the_budget_are_all_scored(model: Path, base: LoadedBase) -> None:
    plain = worker_for(job_for(model), base=base).train(train_task(1, evaluate=True, shared=WHOLE))
    budget = worker_for(job_for(model, evaluation={"rows": 20}), base=base).train(
        train_task(1, evaluate=True, shared=WHOLE)
    )
    assert list(budget.scores) == list(plain.scores)
