"""ClientWorker: drafts, acknowledgement, restarts, error feedback, versions, evaluation."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest

from fedhft.adapter import SHARED, Float32, MaskedDelta, MaskedMatrix, Part, TensorKey
from fedhft.datasets.client_data import ClientData
from fedhft.datasets.examples import Example
from fedhft.errors import ErrorCode, FedhftError
from fedhft.job import JobSpec
from fedhft.training.base import LoadedBase, load_base
from fedhft.training.learner import TrainingStopped
from fedhft.training.worker import ClientWorker
from fedhft.v1 import adapter_pb2
from fedhft.v1 import federation_pb2 as pb
from fedhft.wire.codec import decode, encode
from tests.models import ARCHITECTURES, tiny_model
from tests.unit.wire_examples import largest_code
from tests.workers import data_of, job_for, plan, reference, train_task, worker_for

UPDATE = adapter_pb2.BLOB_KIND_UPDATE
DELTA = adapter_pb2.BLOB_KIND_DELTA
SNAPSHOT = adapter_pb2.BLOB_KIND_SNAPSHOT
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


def published(
    worker: ClientWorker, scope: str, version: int, kind: int = DELTA, scale: float = 0.1
) -> tuple[adapter_pb2.BlobRef, bytes]:
    """A version that changed every tensor of a scope by random values, as the server publishes it."""
    generator = np.random.default_rng(version)
    parts = (Part.A,) if scope == SHARED else (Part.B, Part.HEAD)
    tensors = {}
    for key in worker.schema.keys:
        if key.part in parts:
            values = scale * generator.standard_normal(worker.schema.shape(key))
            tensors[key] = MaskedMatrix.full(values.astype(np.float32))
    data = encode(MaskedDelta(tensors), worker.schema, kind=kind, encoding="fp32", scope=scope, version=version)
    return reference(data, kind, scope, version), data


# -- updates


@pytest.mark.parametrize(
    ("method", "architecture"),
    [
        *itertools.product(["fedhft", "fedhft-paper", "fedit", "local", "full"], ARCHITECTURES),
        *itertools.product(["fedhft", "fedhft-paper"], ["gpt2", "modernbert"]),
    ],
)
def test_every_method_learns_on_every_architecture(tmp_path: Path, architecture: str, method: str) -> None:
    spec = job_for(tiny_model(tmp_path, architecture, layers=2), architecture, method, training={"batch_size": 8})
    rows = data_of().train
    worker = worker_for(spec, data=ClientData.of(rows, rows))
    rate = 3e-3 if method == "full" else 2e-2
    draft = worker.train(train_task(planned=plan(epochs=6), learning_rate=rate, evaluate=True))
    before, after = draft.scores
    assert (before.moment, after.moment) == (pb.Score.MOMENT_BEFORE, pb.Score.MOMENT_AFTER)
    assert before.rows == after.rows == 48
    assert before.majority == 0.5
    assert after.loss < before.loss - 0.05
    assert after.value > before.value
    assert draft.measurements.steps == 36
    assert draft.measurements.peak_rss_bytes > 50 * 2**20
    if method == "local":
        assert (draft.blob, draft.digest, draft.size) == (b"", "", 0)
    else:
        delta = decode(draft.blob, worker.schema, kind=UPDATE).delta
        assert draft.measurements.raw_bytes_sent == 4 * delta.values
        assert delta.norm() > 0


@pytest.mark.parametrize("method", ["fedhft", "fedhft-paper", "fedit", "full"])
def test_equal_seeds_give_equal_bytes_and_other_seeds_others(model: Path, method: str) -> None:
    spec = job_for(model, method=method)
    planned = plan(density=0.5 if method.startswith("fedhft") else 1.0)
    blobs = [worker_for(spec).train(train_task(planned=planned, seed=seed)).blob for seed in (1, 1, 2)]
    assert blobs[0] == blobs[1]
    assert blobs[0] != blobs[2]


def test_a_shared_base_carries_nothing_from_one_worker_to_the_next(spec: JobSpec, base: LoadedBase) -> None:
    alone = worker_for(spec).train(train_task(planned=plan(density=0.5))).blob
    worker_for(spec, base=base, data=data_of(offset=64)).train(train_task(seed=99))
    assert worker_for(spec, base=base).train(train_task(planned=plan(density=0.5))).blob == alone


def test_an_update_carries_what_the_plan_allows_and_no_more(spec: JobSpec, base: LoadedBase) -> None:
    worker = worker_for(spec, base=base)
    draft = worker.train(train_task(planned=plan(density=0.25, depth=1, a=False)))
    delta = decode(draft.blob, worker.schema, kind=UPDATE).delta
    kept = {key: matrix.kept for key, matrix in delta}
    top = [slot.name for slot in worker.schema.slots if slot.layer == 2]
    assert kept == {
        **{TensorKey(name, Part.B): 8 for name in top},
        TensorKey("classifier.weight", Part.HEAD): 2,
        TensorKey("classifier.bias", Part.HEAD): 2,
    }


def test_an_update_is_the_trained_values_minus_the_start(spec: JobSpec, model: Path) -> None:
    exact = job_for(model, wire={"up": "fp32", "error_feedback": False})
    worker = worker_for(exact)
    for scope in (SHARED, "cluster-0"):
        worker.apply(*published(worker, scope, 1))
    start = {**worker._state.adapters.scope(SHARED), **worker._state.adapters.scope("cluster-0")}
    draft = worker.train(train_task(2, 1, planned=plan()))
    delta = decode(draft.blob, worker.schema, kind=UPDATE).delta
    for key, matrix in delta:
        end = worker.schema.start_of(exact.seed, key) + start[key] + matrix.dense()
        np.testing.assert_allclose(worker._network.value(key), end, atol=1e-6)
        assert matrix.values.any(), key


def test_a_plan_outside_the_model_is_refused(spec: JobSpec, base: LoadedBase) -> None:
    with pytest.raises(FedhftError, match="depth 9 of 3 layers"):
        worker_for(spec, base=base).train(train_task(planned=plan(depth=9)))


def test_an_update_the_server_would_refuse_for_its_size_is_not_even_kept(
    spec: JobSpec, base: LoadedBase, tmp_path: Path
) -> None:
    worker = worker_for(spec, tmp_path, base)
    with pytest.raises(FedhftError, match="the update takes") as caught:
        worker.train(train_task(max_update_bytes=100))
    assert caught.value.code is ErrorCode.UPDATE_TOO_LARGE
    assert worker.pending() is None


def test_training_that_diverges_is_refused_by_name(model: Path) -> None:
    spec = job_for(model, method="full", training={"max_grad_norm": 1e9})
    with pytest.raises(FedhftError, match=r"the loss became (nan|inf)") as caught:
        worker_for(spec).train(train_task(learning_rate=1e30, planned=plan(epochs=4)))
    assert caught.value.code is ErrorCode.NON_FINITE


def test_training_stops_between_batches_and_leaves_no_draft(spec: JobSpec, base: LoadedBase, tmp_path: Path) -> None:
    worker = worker_for(spec, tmp_path, base)
    asked = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) > 2

    with pytest.raises(TrainingStopped):
        worker.train(train_task(), stop)
    assert len(asked) == 3
    assert worker.pending() is None
    assert worker.train(train_task()).blob == worker_for(spec, base=base).train(train_task()).blob


# -- error feedback


def test_what_coding_drops_is_sent_with_the_next_update(model: Path) -> None:
    spec = job_for(model, wire={"up": "int8", "error_feedback_decay": 1.0})
    worker = worker_for(spec)
    wanted: dict[TensorKey, Float32] = {}
    got: dict[TensorKey, Float32] = {}
    exact = worker_for(job_for(model, wire={"up": "fp32", "error_feedback": False}))
    for number in range(1, 6):
        task = train_task(number, version=0, planned=plan(), seed=number)
        draft = worker.train(task)
        for key, matrix in decode(draft.blob, worker.schema, kind=UPDATE).delta:
            got[key] = got.get(key, 0) + matrix.dense()
        for key, matrix in decode(exact.train(task).blob, worker.schema, kind=UPDATE).delta:
            wanted[key] = wanted.get(key, 0) + matrix.dense()
        worker.commit(draft)
    carried = worker._state.carried
    assert carried
    for key, total in wanted.items():
        np.testing.assert_allclose(got[key] + carried.get(key, 0), total, atol=1e-6)
        # One round's rounding error, not five rounds' worth.
        assert np.abs(got[key] - total).max() <= np.abs(carried.get(key, np.zeros(1))).max() + 1e-6


def test_error_of_rows_that_are_not_sent_waits_and_decays(model: Path) -> None:
    spec = job_for(model, wire={"error_feedback_decay": 0.5}, mask={"exploration": 0.0})
    worker = worker_for(spec)
    draft = worker.train(train_task(planned=plan(density=0.5)))
    worker.commit(draft)
    first = dict(worker._state.carried)
    draft = worker.train(train_task(2, version=0, planned=plan(density=0.5, depth=1)))
    worker.commit(draft)
    sent = {key for key, _ in decode(draft.blob, worker.schema, kind=UPDATE).delta}
    waiting = [key for key in first if key not in sent]
    assert waiting
    for key in waiting:
        np.testing.assert_array_equal(worker._state.carried[key], np.float32(0.5) * first[key])


@pytest.mark.parametrize("levels", [3, 127])
def test_an_update_is_coded_with_the_levels_of_the_job(model: Path, levels: int) -> None:
    worker = worker_for(job_for(model, wire={"up": "int8", "levels": levels}))
    blob = worker.train(train_task()).blob
    values = decode(blob, worker.schema, kind=UPDATE).delta.values
    assert 0.94 * levels - 0.5 <= largest_code(blob, values) <= levels


@pytest.mark.parametrize(
    ("method", "wire"), [("fedhft-paper", {"up": "int8"}), ("fedhft", {"up": "int8", "error_feedback": False})]
)
def test_no_error_is_carried_where_it_would_mean_nothing(model: Path, method: str, wire: dict[str, object]) -> None:
    worker = worker_for(job_for(model, method=method, wire=wire))
    worker.commit(worker.train(train_task()))
    assert worker._state.carried == {}


def test_restart_rounds_stochastically(model: Path) -> None:
    # Training draws on the task's seed too, so compare the codes of one delta: repeated with its seed, unlike nearest.
    worker = worker_for(job_for(model, method="fedhft-paper", wire={"up": "int8"}))
    draft = worker.train(train_task(planned=plan(epochs=2)))
    delta = worker._network.delta(worker.plan(plan(epochs=2)), {})
    coded = [
        encode(delta, worker.schema, kind=UPDATE, encoding="int8", group=64, version=0, rounding_seed=seed)
        for seed in (7, None)
    ]
    assert draft.blob == coded[0]
    assert draft.blob != coded[1]


# -- acknowledgement and restarts


def test_nothing_is_remembered_before_the_acknowledgement(spec: JobSpec, base: LoadedBase, tmp_path: Path) -> None:
    worker = worker_for(spec, tmp_path, base)
    draft = worker.train(train_task(planned=plan(density=0.5)))
    assert worker._state.rows == {}
    assert worker._state.carried == {}
    worker.abandon(draft)
    assert worker.pending() is None
    assert worker_for(spec, tmp_path, base).pending() is None
    assert worker._state.round == 0
    worker.commit(worker.train(train_task(planned=plan(density=0.5))))
    assert worker._state.round == 1
    assert worker._state.rows


def test_a_draft_survives_a_restart_byte_for_byte(spec: JobSpec, base: LoadedBase, tmp_path: Path) -> None:
    worker = worker_for(spec, tmp_path, base)
    draft = worker.train(train_task(planned=plan(density=0.5), evaluate=True))
    again = worker_for(spec, tmp_path, base)
    found = again.pending()
    assert found is not None
    assert (found.blob, found.digest, found.round, found.base_version) == (draft.blob, draft.digest, 1, 0)
    assert (found.scores, found.measurements) == (draft.scores, draft.measurements)
    again.commit(found)
    worker.commit(draft)
    third = worker_for(spec, tmp_path, base)
    assert third.pending() is None
    task = train_task(2, version=0, planned=plan(density=0.5))
    assert third.train(task).blob == again.train(task).blob == worker.train(task).blob


def test_a_draft_committed_just_before_a_kill_is_not_offered_again(
    spec: JobSpec, base: LoadedBase, tmp_path: Path
) -> None:
    worker = worker_for(spec, tmp_path / "a", base)
    draft = worker.train(train_task())
    saved = shutil.copy(tmp_path / "a" / "tiny" / "draft.safetensors", tmp_path / "saved")
    worker.commit(draft)
    shutil.copy(saved, tmp_path / "a" / "tiny" / "draft.safetensors")  # killed between the two steps of commit
    assert worker_for(spec, tmp_path / "a", base).pending() is None


def test_committing_twice_changes_nothing(spec: JobSpec, base: LoadedBase) -> None:
    worker = worker_for(spec, base=base)
    draft = worker.train(train_task(planned=plan(density=0.5)))
    worker.commit(draft)
    memory = worker._state
    worker.commit(draft)
    assert worker._state is memory


def test_adapters_survive_a_restart(spec: JobSpec, base: LoadedBase, tmp_path: Path) -> None:
    worker = worker_for(spec, tmp_path, base)
    for scope in (SHARED, "cluster-0"):
        worker.apply(*published(worker, scope, 1))
    worker.commit(worker.train(train_task(2, version=1)))
    again = worker_for(spec, tmp_path, base)
    assert again.held() == worker.held() == [("cluster-0", 1), (SHARED, 1)]
    task = train_task(3, version=1)
    assert again.train(task).blob == worker.train(task).blob


def test_a_folder_of_another_client_is_refused(spec: JobSpec, base: LoadedBase, tmp_path: Path) -> None:
    worker = worker_for(spec, tmp_path, base)
    worker.commit(worker.train(train_task()))
    with pytest.raises(FedhftError, match="belongs to client 'client-1', this is 'client-2'"):
        worker_for(spec, tmp_path, base, client="client-2")


def test_state_of_another_job_under_the_same_name_is_not_used(spec: JobSpec, model: Path, tmp_path: Path) -> None:
    worker = worker_for(spec, tmp_path)
    worker.commit(worker.train(train_task()))
    worker.train(train_task(2, version=0))
    other = worker_for(job_for(model, training={"batch_size": 4}), tmp_path)
    assert other._state.round == 0
    assert other.pending() is None


def test_a_draft_outlives_a_commit_that_could_not_be_written(spec: JobSpec, base: LoadedBase, tmp_path: Path) -> None:
    worker = worker_for(spec, tmp_path, base)
    draft = worker.train(train_task())
    in_the_way = tmp_path / "tiny" / "memory.tmp"
    in_the_way.mkdir()
    worker.commit(draft)
    assert (worker.pending(), worker._state.round) == (None, 1)
    in_the_way.rmdir()
    restarted = worker_for(spec, tmp_path, base)
    again = restarted.pending()
    assert again is not None
    assert (again.round, again.blob) == (1, draft.blob)  # delivered again, it is acknowledged as repeated
    restarted.commit(again)
    assert worker_for(spec, tmp_path, base)._state.round == 1


def test_damaged_state_is_moved_aside_and_the_worker_starts_afresh(
    spec: JobSpec, base: LoadedBase, tmp_path: Path
) -> None:
    worker = worker_for(spec, tmp_path, base)
    worker.commit(worker.train(train_task()))
    file = tmp_path / "tiny" / "memory.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    assert worker_for(spec, tmp_path, base)._state.round == 0
    assert [path.name for path in file.parent.iterdir()] == ["memory.safetensors.damaged"]


def test_a_job_begun_anew_under_the_same_name_starts_over(spec: JobSpec, base: LoadedBase, tmp_path: Path) -> None:
    worker = worker_for(spec, tmp_path, base)
    fresh = worker.train(train_task(planned=plan(density=0.5))).blob
    for number in (1, 2, 3):
        worker.commit(worker.train(train_task(number, version=0, planned=plan(density=0.5))))
    assert worker.train(train_task(planned=plan(density=0.5))).blob == fresh
    # Further on, what is held cannot be trusted: the task is refused once, and then everything is asked for.
    for number in (1, 2, 3):
        worker.commit(worker.train(train_task(number, version=0)))
    worker.apply(*published(worker, SHARED, 5))
    with pytest.raises(FedhftError) as caught:
        worker.train(train_task(4, version=3))
    assert caught.value.code is ErrorCode.STALE_VERSION
    assert worker.held() == []


# -- versions


def test_blobs_add_up_and_a_snapshot_replaces(spec: JobSpec, base: LoadedBase) -> None:
    worker = worker_for(spec, base=base)
    key = TensorKey(worker.schema.slots[0].name, Part.A)
    for version in (1, 2):
        worker.apply(*published(worker, SHARED, version))
    steps = [
        decode(published(worker, SHARED, v)[1], worker.schema, kind=DELTA).delta.tensors[key].dense() for v in (1, 2)
    ]
    np.testing.assert_array_equal(worker._state.adapters.scope(SHARED)[key], steps[0] + steps[1])
    assert worker.held() == [(SHARED, 2)]
    worker.apply(*published(worker, SHARED, 4, SNAPSHOT))
    snapshot = decode(published(worker, SHARED, 4, SNAPSHOT)[1], worker.schema, kind=SNAPSHOT).delta
    np.testing.assert_array_equal(worker._state.adapters.scope(SHARED)[key], snapshot.tensors[key].dense())
    assert worker.held() == [(SHARED, 4)]


def test_a_blob_that_is_not_what_was_announced_changes_nothing(spec: JobSpec, base: LoadedBase) -> None:
    worker = worker_for(spec, base=base)
    ref, data = published(worker, SHARED, 1)
    with pytest.raises(FedhftError) as caught:
        worker.apply(ref, data[:-1])
    assert caught.value.code is ErrorCode.DIGEST_MISMATCH
    with pytest.raises(FedhftError) as caught:
        worker.apply(reference(data, DELTA, "cluster-0", 1), data)
    assert caught.value.code is ErrorCode.MALFORMED_UPDATE
    with pytest.raises(FedhftError) as caught:
        worker.apply(reference(data[:40], DELTA, SHARED, 1), data[:40])
    assert caught.value.code is ErrorCode.MALFORMED_UPDATE
    assert worker.held() == []
    assert worker._state.adapters.scopes == {}


def test_scopes_in_use_count_as_complete_at_the_tasks_version(spec: JobSpec, base: LoadedBase) -> None:
    worker = worker_for(spec, base=base)
    worker.apply(*published(worker, "cluster-1", 2))
    worker.train(train_task(4, version=3, memberships=(0.0, 0.7, 0.3)))
    assert worker.held() == [("cluster-1", 3), ("cluster-2", 3), (SHARED, 3)]


def test_a_client_starts_from_its_mixture(spec: JobSpec, base: LoadedBase) -> None:
    worker = worker_for(spec, base=base)
    for scope, version in ((SHARED, 1), ("cluster-0", 1), ("cluster-1", 2)):
        worker.apply(*published(worker, scope, version, scale=0.5))
    key = TensorKey(worker.schema.slots[0].name, Part.B)
    first, second = (worker._state.adapters.scope(f"cluster-{j}")[key] for j in (0, 1))
    worker._state = worker._state.__class__(adapters=worker._state.adapters, held={}, signature=worker._state.signature)
    worker._stand_at(pb.ViewSource(version=2, memberships=(0.25, 0.75)), (0.25, 0.75))
    worker._load((0.25, 0.75), worker.plan(plan()), 3)
    np.testing.assert_allclose(worker._network.value(key), 0.25 * first + 0.75 * second, atol=1e-6)


# -- local


def test_local_keeps_its_own_adapter_across_rounds_and_restarts(model: Path, tmp_path: Path) -> None:
    spec = job_for(model, method="local", training={"batch_size": 8})
    worker = worker_for(spec, tmp_path)
    ends = []
    for number in (1, 2):
        draft = worker.train(train_task(number, version=0, planned=plan(epochs=4), learning_rate=2e-2, evaluate=True))
        worker.commit(draft)
        ends.append(draft.scores)
        worker = worker_for(spec, tmp_path)
    assert abs(ends[1][0].loss - ends[0][1].loss) < 1e-5  # round 2 begins where round 1 ended
    before, _ = worker.evaluate(evaluate_task(3))
    assert abs(score_of(before, pb.Score.SPLIT_PERSONAL, pb.Score.MOMENT_BEFORE).loss - ends[1][1].loss) < 1e-5


# -- evaluation


def evaluate_task(
    number: int, memberships: tuple[float, ...] = (1.0,), mass: tuple[float, ...] = (1.0,)
) -> pb.EvaluateTask:
    return pb.EvaluateTask(
        round=number,
        view=pb.ViewSource(version=0, memberships=memberships, mass_memberships=mass),
        plan=plan(epochs=4),
        learning_rate=2e-2,
        seed=3,
        shared=WHOLE,
        shared_mass_weighted=pb.Shard(index=1, count=4),
    )


def score_of(scores: list[pb.Score], split: int, moment: int, view: int = pb.Score.VIEW_OWN) -> pb.Score:
    found = [s for s in scores if (s.split, s.moment, s.view) == (split, moment, view)]
    assert len(found) == 1
    return found[0]


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
