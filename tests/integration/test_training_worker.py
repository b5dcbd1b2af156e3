"""ClientWorker: drafts, acknowledgement, restarts, error feedback, versions, evaluation."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest

from fedhft.adapter import SHARED, Part, TensorKey
from fedhft.datasets.client_data import ClientData
from fedhft.datasets.examples import Example
from fedhft.errors import ErrorCode, FedhftError
from fedhft.job import JobSpec
from fedhft.training.base import LoadedBase, load_base
from fedhft.training.learner import TrainingStopped
from fedhft.v1 import adapter_pb2
from fedhft.v1 import federation_pb2 as pb
from fedhft.wire.codec import decode
from tests.models import ARCHITECTURES, tiny_model
from tests.workers import data_of, evaluate_task, job_for, plan, published, reference, score_of, train_task, worker_for

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


def test_layer_steps_are_counted_by_what_batches_hold(spec: JobSpec, base: LoadedBase) -> None:
    """A step of short rows is little of a step: all steps of an epoch are as many as it has, whoever drew which."""
    short, long = (Example(text, None, float(label)) for text, label in (("good", 1), ("bad " * 30, 0)))
    worker = worker_for(spec, base=base, data=ClientData.of([short, long] * 24, [short] * 4))
    steps = worker.steps(worker.plan(plan()))
    counted = []
    for seed in range(8):
        one = plan()
        one.max_steps = 1
        counted.append(worker.train(train_task(seed=seed, planned=one)).measurements.durations.backward_layer_steps)
    layers = worker.schema.layers
    assert max(counted) > 5 * min(counted)
    whole = worker.train(train_task(seed=9)).measurements.durations
    assert whole.backward_layer_steps == pytest.approx(layers * steps)
    assert whole.forward_layer_steps == pytest.approx(layers * steps)
    scoring = worker.train(train_task(seed=9, evaluate=True)).measurements.durations
    assert scoring.scoring_batches == pytest.approx(2 * (scoring.forward_layer_steps / layers - steps) / 2)
    assert 0 < scoring.scoring_batches < 8 / spec.training.batch_size  # short rows, before and after


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
    worker._stand_at(pb.ViewSource(version=2, memberships=(0.25, 0.75)), (0.25, 0.75), worker.plan(plan()))
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
