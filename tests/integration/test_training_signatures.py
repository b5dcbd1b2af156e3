"""Signatures: equal for equal data, apart for labels that mean other things, blind to label shares."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedhft.adapter import Float32
from fedhft.datasets.client_data import ClientData
from fedhft.datasets.examples import Example
from fedhft.job import JobSpec
from fedhft.training.base import LoadedBase, load_base
from fedhft.training.network import Network
from fedhft.training.signatures import halves_of
from tests.models import rows, tiny_model
from tests.workers import data_of, job_for, plan, train_task, worker_for


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def spec(model: Path) -> JobSpec:
    return job_for(model)


@pytest.fixture(scope="module")
def base(spec: JobSpec) -> LoadedBase:
    return load_base(spec)


def client(offset: int, good: int, bad: int, flipped: bool = False) -> ClientData:
    """Rows of the good/bad task; in a flipped client the labels mean the opposite."""
    found = rows(4 * max(good, bad), offset)
    texts = {label: [row["text"] for row in found if row["label"] == label] for label in (0, 1)}
    made = [Example(text, None, 1.0 - flipped) for text in texts[1][:good]]
    made += [Example(text, None, float(flipped)) for text in texts[0][:bad]]
    return ClientData.of(made)


def signature(spec: JobSpec, base: LoadedBase, data: ClientData) -> Float32:
    return np.array(worker_for(spec, base=base, data=data).signature().whole, np.float32)


def test_signatures_are_unit_norm_and_repeat_to_the_bit(spec: JobSpec, base: LoadedBase) -> None:
    first = signature(spec, base, data_of())
    assert first.shape == (256,)
    assert np.linalg.norm(first) == pytest.approx(1.0, abs=1e-6)
    worker_for(spec, base=base).train(train_task())  # what was trained before leaves no trace
    assert signature(spec, base, data_of()).tobytes() == first.tobytes()


def test_clients_whose_labels_mean_the_same_are_closer_than_others(spec: JobSpec, base: LoadedBase) -> None:
    made = np.stack([signature(spec, base, client(60 * i, 30, 30, flipped=i >= 3)) for i in range(6)])
    cosines = made @ made.T
    group = np.arange(6) >= 3
    same = group[:, None] == group[None, :]
    apart = ~np.eye(6, dtype=bool)
    assert cosines[same & apart].min() > cosines[~same].max() + 0.5


def test_label_shares_do_not_hide_what_labels_mean(spec: JobSpec, base: LoadedBase) -> None:
    mostly_good, mostly_bad = client(0, 40, 8), client(100, 8, 40)
    flipped = client(200, 8, 40, flipped=True)  # as many rows of label 1 as mostly_good has
    signatures = [signature(spec, base, data) for data in (mostly_good, mostly_bad, flipped)]
    assert signatures[0] @ signatures[1] > 0.3
    assert signatures[0] @ signatures[2] < -0.3


def test_a_client_with_one_label_has_a_signature(spec: JobSpec, base: LoadedBase) -> None:
    one = signature(spec, base, client(0, 20, 0))
    assert np.linalg.norm(one) == pytest.approx(1.0, abs=1e-6)
    assert one @ signature(spec, base, client(60, 20, 0, flipped=True)) < 0


def both(spec: JobSpec, base: LoadedBase, data: ClientData) -> tuple[Float32, Float32]:
    halves = np.array(worker_for(spec, base=base, data=data).signature().halves, np.float32)
    return halves[:256], halves[256:]


def test_a_signature_is_that_of_its_two_halves_which_agree(spec: JobSpec, base: LoadedBase) -> None:
    first, second = both(spec, base, client(0, 30, 30))
    assert np.linalg.norm(first) == pytest.approx(1.0, abs=1e-6)
    assert np.linalg.norm(second) == pytest.approx(1.0, abs=1e-6)
    assert 0.2 < first @ second < 0.999999
    total = (first + second) / np.linalg.norm(first + second)
    np.testing.assert_allclose(signature(spec, base, client(0, 30, 30)), total, atol=1e-6)
    flipped = both(spec, base, client(60, 30, 30, flipped=True))
    assert max(half @ other for half in (first, second) for other in flipped) < 0


def test_a_half_whose_rows_are_of_one_class_is_zeros(spec: JobSpec, base: LoadedBase) -> None:
    for data in (client(0, 20, 0), client(0, 20, 1)):
        halves = both(spec, base, data)
        assert sum(bool(half.any()) for half in halves) == len({row.label for row in data.train}) - 1
        assert np.linalg.norm(signature(spec, base, data)) == pytest.approx(1.0, abs=1e-6)


def test_halves_split_every_class_evenly_and_by_the_seed(spec: JobSpec, base: LoadedBase) -> None:
    rows_ = Network.on(base, spec).encode(client(0, 21, 10).train, training=True)
    chosen = np.arange(len(rows_))
    first, second = halves_of(rows_, chosen, seed=1)
    assert sorted([*first, *second]) == chosen.tolist()
    for label in (0, 1):
        counts = [int((rows_.targets[half] == label).sum()) for half in (first, second)]
        assert abs(counts[0] - counts[1]) <= 1
    assert halves_of(rows_, chosen, seed=1)[0].tolist() == first.tolist()
    assert halves_of(rows_, chosen, seed=2)[0].tolist() != first.tolist()


def test_regression_has_signatures_that_follow_the_sign_of_the_target(model: Path) -> None:
    spec = job_for(model, task={"kind": "regression"})
    base = load_base(spec)
    texts = [(row["text"], 2.0 * row["label"] - 1.0) for row in rows(60)]
    one, other = (
        signature(spec, base, ClientData.of([Example(text, None, sign * value) for text, value in texts]))
        for sign in (1, -1)
    )
    assert one @ other == pytest.approx(-1.0, abs=1e-5)


def test_the_signature_is_kept_until_the_data_changes(spec: JobSpec, base: LoadedBase, tmp_path: Path) -> None:
    worker = worker_for(spec, tmp_path, base)
    first = worker.signature()
    file = tmp_path / "tiny" / "memory.safetensors"
    written = file.stat().st_mtime_ns
    assert worker_for(spec, tmp_path, base).signature() == first
    assert file.stat().st_mtime_ns == written
    changed = worker_for(spec, tmp_path, base, data_of(offset=99)).signature()
    assert changed != first


def test_methods_without_anchor_send_none_and_update_signatures_come_with_the_update(model: Path) -> None:
    assert worker_for(job_for(model, method="fedit")).signature() == ((), ())
    assert worker_for(job_for(model, method="fedit")).signature().halves == ()
    paper = worker_for(job_for(model, method="fedhft-paper"))
    assert paper.signature() == ((), ())
    draft = paper.train(train_task(planned=plan(density=0.5)))
    assert len(draft.signature) == 256
    assert np.linalg.norm(draft.signature) == pytest.approx(1.0, abs=1e-6)
    assert worker_for(job_for(model)).train(train_task()).signature == ()
    continued = worker_for(job_for(model, method={"preset": "fedhft", "signature": "update"}))
    assert len(continued.train(train_task()).signature) == 256


def test_update_signatures_of_opposite_tasks_point_apart(model: Path) -> None:
    spec = job_for(model, method="fedhft-paper")
    base = load_base(spec)
    made = [
        np.array(worker_for(spec, base=base, data=data).train(train_task(planned=plan(epochs=3))).signature)
        for data in (client(0, 24, 24), client(60, 24, 24), client(120, 24, 24, flipped=True))
    ]
    assert made[0] @ made[1] > made[0] @ made[2] + 0.2
