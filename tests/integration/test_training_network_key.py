"""A loaded base is shared by jobs whose network is the same, and by no others."""

from __future__ import annotations

import inspect
import json
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from fedhft_agent.connection import Connection, Peer
from fedhft_agent.settings import AgentSettings
from fedhft_agent.workplace import Workplace
from pydantic import BaseModel

from fedhft.datasets.client_data import ClientData, load_client_data, load_rows
from fedhft.ids import ClientId
from fedhft.job import JobSpec
from fedhft.plan import AdapterPlan
from fedhft.process.options import read_settings
from fedhft.process.signals import StopSignal
from fedhft.training.base import load_base, network_key
from fedhft.training.learner import train
from fedhft.training.network import Network
from fedhft.training.scores import predict
from fedhft.training.worker import ClientWorker
from tests.models import rows, tiny_model
from tests.workers import data_of, job_for, train_task, worker_for


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


# -- every field that matters is in the key


class Watched:
    """A section of a job that notes the path of every field read from it, also by its own properties."""

    def __init__(self, section: BaseModel, path: str, read: set[str]) -> None:
        self._section, self._path, self._read = section, path, read

    def __getattr__(self, name: str) -> Any:
        written = inspect.getattr_static(type(self._section), name, None)
        if isinstance(written, property) and written.fget is not None:
            return written.fget(self)
        found = getattr(self._section, name)
        if name not in type(self._section).model_fields:
            return found
        if isinstance(found, BaseModel):
            return Watched(found, f"{self._path}{name}.", self._read)
        self._read.add(self._path + name)
        return found


def fields_read_by_a_network(spec: JobSpec) -> set[str]:
    """Paths of the fields read while a network is loaded, built, trained, read back and scored."""
    read: set[str] = set()
    watched: Any = Watched(spec, "", read)
    network = Network(load_base(watched), watched)
    encoded = network.encode(data_of().train)
    one = AdapterPlan("t", network.schema.layers, 1.0, 1.0, 2, train_a=True, train_b=True)
    network.load({}, network.schema.layers, 1)
    train(
        network, encoded, one, {}, spec.training, learning_rate=1e-3, seed=1, importance=None, should_stop=lambda: False
    )
    network.delta(one, {})
    predict(network, encoded)
    return read


def with_another(section: Any, path: str) -> Any:
    """The section with another value in the field at `path`."""
    name, _, rest = path.partition(".")
    value = getattr(section, name)
    return section.model_copy(update={name: with_another(value, rest) if rest else other(value)})


def other(value: Any) -> Any:
    if isinstance(value, Enum):
        return next(member for member in type(value) if member is not value)
    if value is None or isinstance(value, str):
        return f"{value}, but another"
    return (*value, "another") if isinstance(value, tuple) else value + 1


@pytest.mark.parametrize("method", ["fedhft", "fedhft-paper", "full"])
def test_the_key_changes_with_every_field_that_a_network_reads(model: Path, method: str) -> None:
    spec = job_for(model, method=method)
    fields = fields_read_by_a_network(spec)
    assert {"model.name", "model.max_length", "task.labels", "method.start", "training.precision", "seed"} < fields
    assert ("adapter.dropout" in fields) is (method != "full")
    if method != "full":  # read by methods of the section, which are not watched
        fields |= {f"adapter.{name}" for name in ("alpha", "rank", "ranks", "scaling")}
    missing = [path for path in sorted(fields) if network_key(with_another(spec, path)) == network_key(spec)]
    assert missing == []


def test_the_key_leaves_out_how_long_and_with_whom_a_job_trains(model: Path) -> None:
    spec = job_for(model)
    longer = job_for(model, name="longer", rounds={"total": 9}, training={"learning_rate": 0.5, "batch_size": 3})
    assert network_key(longer) == network_key(spec)


def test_a_base_loaded_for_one_network_is_not_lent_to_a_job_with_another(model: Path) -> None:
    base = load_base(job_for(model, training={"precision": "bf16"}))
    with pytest.raises(ValueError, match="a network that differs from job tiny's"):
        Network.on(base, job_for(model))


# -- in the agent


@pytest.fixture
def workplace(tmp_path: Path, model: Path) -> Workplace:
    data = tmp_path / "train.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows(48)), encoding="utf-8")
    given = ["--server", "localhost:1", "--client", "client-1", "--data", str(data), "--holdout", str(data)]
    given += ["--model", str(model), "--threads", "1", "--state-dir", str(tmp_path)]
    return Workplace(read_settings(AgentSettings, given))


def worker_of(workplace: Workplace, spec: JobSpec, folder: Path) -> ClientWorker:
    stop = StopSignal()
    connection = Connection(Peer("localhost:1", ClientId("client-1")), stop)
    settings = workplace._settings
    data = load_client_data(spec, settings.client, settings.data, settings.holdout)
    return workplace.session(connection, stop, spec, data, folder)._worker


def test_an_agent_that_served_a_bf16_job_trains_the_next_one_in_the_precision_it_asks_for(
    workplace: Workplace, model: Path, tmp_path: Path
) -> None:
    half = job_for(model, name="half", training={"precision": "bf16"})
    full = job_for(model, name="full")
    data = ClientData.of(load_rows(tmp_path / "train.jsonl", full.task))
    alone = {spec.name: worker_for(spec, data=data).train(train_task()).blob for spec in (half, full)}
    assert alone["half"] != alone["full"]
    for spec in (half, full, half):
        trained = worker_of(workplace, spec, tmp_path / "state").train(train_task())
        assert trained.blob == alone[spec.name], spec.name


def test_an_agent_keeps_its_base_for_the_next_job_with_the_same_network(
    workplace: Workplace, model: Path, tmp_path: Path
) -> None:
    networks = [
        worker_of(workplace, job_for(model, name=name, **sections), tmp_path / "state")._network
        for name, sections in (("one", {}), ("two", {"rounds": {"total": 9}}), ("three", {"seed": 12}))
    ]
    assert networks[0] is networks[1]
    assert networks[2] is not networks[1]
