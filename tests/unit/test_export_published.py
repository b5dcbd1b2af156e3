"""What a job's last version is written as: a directory per cluster, and per client asked for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedhft.adapter import AdapterSchema, AdapterState, Parameter, Part, Slot, TensorKey
from fedhft.errors import ErrorCode, FedhftError
from fedhft.export.description import read_description
from fedhft.export.published import PublishedAdapters, write_adapters
from tests.demo_jobs import CLIENTS, finished_job, spec_of

QUERY = "encoder.layer.0.query"
SCHEMA = AdapterSchema(
    "base", "tokenizer", "tiny", ("no", "yes"), 1, (Slot(QUERY, 0, 4, 4, 8),), (Parameter("classifier.weight", (2, 4)),)
)


def published() -> PublishedAdapters:
    """Two clusters whose B is all ones and all threes."""
    key = TensorKey(QUERY, Part.B)
    scopes = {f"cluster-{j}": {key: np.full((4, 8), 1.0 + 2.0 * j, np.float32)} for j in range(2)}
    rows = dict(zip(CLIENTS, ((1.0, 0.0), (0.75, 0.25), (0.0, 1.0), (0.0, 1.0)), strict=True))
    return PublishedAdapters(spec_of(), SCHEMA, AdapterState(2, 2, scopes), rows)


def b_of(directory: Path) -> float:
    values = load_file(directory / "adapter_model.safetensors")[f"base_model.model.{QUERY}.lora_B.weight"]
    assert len(np.unique(values)) == 1
    return float(values[0, 0])


def test_every_cluster_and_every_client_asked_for_has_a_directory_with_its_own_tensors_and_card(tmp_path: Path) -> None:
    exported = write_adapters(published(), tmp_path, finished_job(spec_of()), "hub/base", ("a-2", "a-2"), check=False)
    written = [one.path for one in exported]
    assert written == [tmp_path / name for name in ("cluster-0", "cluster-1", "client-a-2")]
    assert [b_of(path) for path in written] == [1.0, 3.0, 1.5]
    cards = [(path / "README.md").read_text() for path in written]
    assert ["score over 2 of 4 clients" in card for card in cards] == [True, True, False]
    assert "| 0.450 | 0.550 |" in cards[0]  # a-1 and a-2
    assert "| 0.650 | 0.750 |" in cards[1]  # b-1 and b-2
    assert "| 0.500 | 0.600 |" in cards[2]
    told = [read_description(path) for path in written]
    assert [(one.name, one.clients, one.weights) for one in told] == [
        ("cluster-0", 2, (1.0, 0.0)),
        ("cluster-1", 2, (0.0, 1.0)),
        ("client-a-2", 1, (0.75, 0.25)),
    ]
    assert [score.mean for score in told[1].scores if score.rows == "held-out"] == [0.65, 0.75]
    assert (told[0].task.labels, told[0].num_labels, told[0].max_length) == (("no", "yes"), 2, 128)
    config = json.loads((written[0] / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["task_type"]) == ("hub/base", "SEQ_CLS")


def test_one_adapter_for_everybody_weighs_clusters_by_the_rows_of_their_clients(tmp_path: Path) -> None:
    job = finished_job(spec_of())
    job.final.shared_mass_weighted = 0.625
    samples = dict(zip(CLIENTS, (10, 10, 10, 10), strict=True))
    (one,) = write_adapters(published(), tmp_path, job, "hub/base", check=False, samples=samples)
    assert one.path == tmp_path / "mass-weighted"
    assert b_of(one.path) == 1.0 * 1.75 / 4 + 3.0 * 2.25 / 4
    assert read_description(one.path).weights == (1.75 / 4, 2.25 / 4)
    card = (one.path / "README.md").read_text()
    assert "one adapter for everybody" in card
    assert "This one scored 0.625 on the common rows" in card
    assert "score over all 4 clients |" in card
    capped = {**samples, CLIENTS[0]: 10**9}  # limits.sample_cap bounds what one client can claim, here as in a round
    (two,) = write_adapters(published(), tmp_path / "capped", job, "hub/base", check=False, samples=capped)
    assert 1.0 < b_of(two.path) < b_of(one.path)


def test_what_cannot_be_compared_here_is_written_and_the_reason_is_told(tmp_path: Path) -> None:
    (one, _) = write_adapters(published(), tmp_path, finished_job(spec_of()), "hub/base", base_path="/absent/base")
    assert one.checked is None
    assert "no such folder" in one.unchecked
    assert read_description(one.path).checked is None
    with pytest.raises(FedhftError, match="no such folder") as caught:
        write_adapters(published(), tmp_path, finished_job(spec_of()), base_path="/absent/base", check=True)
    assert caught.value.code is ErrorCode.INVALID_MODEL


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('{"format": 2}', "export the adapter again"),
        ("[]", "export the adapter again"),
        ("{", "not JSON"),
        (None, "no fedhft.json"),
    ],
)
def test_a_folder_that_was_not_exported_is_refused(tmp_path: Path, text: str | None, named: str) -> None:
    if text is not None:
        (tmp_path / "fedhft.json").write_text(text)
    with pytest.raises(FedhftError, match=named) as caught:
        read_description(tmp_path)
    assert caught.value.code is ErrorCode.INVALID_MODEL


def test_a_client_that_is_not_in_the_job_is_refused_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(FedhftError, match="choose from a-1, a-2, b-1, b-2") as caught:
        write_adapters(published(), tmp_path, finished_job(spec_of()), clients=("c",))
    assert caught.value.code is ErrorCode.INVALID_ARGUMENT
    assert list(tmp_path.iterdir()) == []
