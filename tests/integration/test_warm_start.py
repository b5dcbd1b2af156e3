"""A job that begins with an adapter: its first scores are the last of the job that made it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedhft.adapter import Part
from fedhft.errors import ErrorCode, FedhftError
from fedhft.export.adapter_values import read_adapter, starting_tensors
from fedhft.export.published import write_adapters
from fedhft.job import JobSpec
from fedhft.simulation.run import Simulated, simulate
from fedhft.training.base import load_base
from fedhft.training.schema import build_schema
from fedhft.v1 import jobs_pb2
from tests.agents import InProcessAgent, Site, running_site
from tests.cli_runner import run_cli
from tests.models import tiny_model
from tests.workers import data_of, job_for

CLIENTS = {"a": data_of(), "b": data_of(offset=64)}
ROUNDS = {"total": 2, "min_clients": 2, "quorum": 1.0}
SECTIONS: dict[str, Any] = {
    "rounds": ROUNDS,
    "training": {"learning_rate": 0.03, "epochs": 3.0},
    "evaluation": {"every": 1, "final": True},
    "wire": {"up": "fp32", "down": "fp32"},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model") / "bert", layers=2)


@pytest.fixture(scope="module")
def ended(model: Path) -> Simulated:
    return simulate(job_for(model, method="fedit", **SECTIONS), CLIENTS)


@pytest.fixture(scope="module")
def exported(ended: Simulated, tmp_path_factory: pytest.TempPathFactory) -> Path:
    assert ended.adapters is not None
    (one,) = write_adapters(ended.adapters, tmp_path_factory.mktemp("out"), ended.job)
    assert one.checked is not None
    return one.path


def continued(model: Path, origin: Path | str, method: str | dict[str, Any] = "fedit", **sections: Any) -> JobSpec:
    given: dict[str, Any] = {**SECTIONS, "seed": 99, "method": method, **sections}
    adapter = {"rank": 4, "alpha": 8, "targets": ["query", "value"], "from": str(origin), **given.pop("adapter", {})}
    return job_for(model, adapter=adapter, **given)


@pytest.mark.parametrize("method", ["fedit", "fedhft", "ffa-lora", "fedhft-paper", "hetlora", "flexlora"])
def test_the_first_round_begins_where_the_adapter_stood(
    model: Path, ended: Simulated, exported: Path, method: str
) -> None:
    chosen = {"preset": method, "clusters": 1} if "fedhft" in method else method
    again = simulate(continued(model, exported, chosen), CLIENTS)
    last, first = ended.job.final, again.job.history[0]
    assert first.personal_before_mean == pytest.approx(last.personal_before_mean)
    assert first.personal_loss_before_median == pytest.approx(last.personal_loss_before_median, rel=1e-4)
    anew = ended.job.history[0]
    assert abs(anew.personal_loss_before_median - last.personal_loss_before_median) > 0.05


def test_clusters_begin_as_copies_of_the_one_adapter(model: Path, ended: Simulated, exported: Path) -> None:
    spec = continued(model, exported, method={"preset": "fedhft", "clusters": 2})
    clients = {**CLIENTS, "c": data_of(offset=128), "d": data_of(offset=192)}
    again = simulate(spec, clients)
    assert again.version is not None
    assert again.version.clusters == 2
    first = again.job.history[0]
    assert first.personal_loss_before_median == pytest.approx(ended.job.final.personal_loss_before_median, rel=0.2)
    assert again.job.final.personal_loss_before_median < first.personal_loss_before_median


def test_another_alpha_keeps_the_function(model: Path, ended: Simulated, exported: Path) -> None:
    again = simulate(continued(model, exported, adapter={"alpha": 32}), CLIENTS)
    first = again.job.history[0]
    assert first.personal_loss_before_median == pytest.approx(ended.job.final.personal_loss_before_median, rel=1e-4)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"adapter": {"rank": 8}}, "adapter.rank = 8: the adapter of .* has rank 4 at .*; set it to 4"),
        ({"adapter": {"targets": ["query"]}}, "adapter.targets = 'query': the adapter of .* also adapts .*value"),
        ({"adapter": {"depth": 1}}, "adapter.targets = .* also adapts .*layer.0"),
        ({"adapter": {"targets": ["query", "value", "key"]}}, "does not adapt .*key"),
        ({"method": "fedsa-lora"}, "adapter.from = .*: method fedsa-lora shares no whole adapter"),
        ({"method": "local"}, "adapter.from = .*: method local shares no whole adapter"),
        (
            {"adapter": {"from": "elsewhere@3"}},
            "adapter.from = 'elsewhere@3': is not a folder, and a simulation has no",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_its_field(
    model: Path, exported: Path, sections: dict[str, Any], message: str
) -> None:
    with pytest.raises(FedhftError, match=message) as refused:
        simulate(continued(model, exported, **sections), CLIENTS)
    assert refused.value.code is ErrorCode.INVALID_ARGUMENT


def test_another_base_model_is_refused(exported: Path, tmp_path: Path) -> None:
    other = tiny_model(tmp_path / "other", layers=2, seed=1)
    with pytest.raises(FedhftError, match=r"model.name = .*: its digest is .*, the adapter of .* was trained on"):
        simulate(continued(other, exported), CLIENTS)


def test_a_head_for_other_labels_begins_anew(model: Path, exported: Path) -> None:
    values = read_adapter(exported)
    spec = continued(model, exported, task={"labels": ["x", "y"]})
    schema = build_schema(load_base(spec), spec)
    tensors, left_out = starting_tensors(spec, schema, values, {})
    assert left_out == "its head is for another task, so the job's head begins anew"
    assert {key.part for key in tensors} == {Part.A, Part.B}
    known, nothing = starting_tensors(spec, schema, replace(values, labels=None), {})
    assert (nothing, Part.HEAD in {key.part for key in known}) == ("", True)


# -- on a server


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[Site]:
    with running_site(tmp_path_factory.mktemp("site"), redis_url) as found:
        yield found


def play(site: Site, spec: JobSpec) -> jobs_pb2.Job:
    with InProcessAgent(site, spec) as agent:
        assert agent.run().status == "completed"
    return site.get(spec.name)


def test_a_finished_job_goes_on_under_another_name_with_new_rows(site: Site, tmp_path: Path) -> None:
    scored = {"evaluation": {"every": 1, "final": True}, "method": {"preset": "fedit", "clusters": 1}}
    first = play(site, site.submit("first", **scored))
    spec = site.job("second", **scored, adapter={"rank": 4, "from": "first@2"}, seed=5)
    toml = tmp_path / "second.toml"
    toml.write_text(_toml(json.loads(spec.canonical())))
    done = run_cli("job", "submit", str(toml), "--server", site.admin, "-o", "name")
    assert done.stdout.strip() == "second"
    again = play(site, spec)
    assert again.history[0].personal_loss_before_median == pytest.approx(
        first.final.personal_loss_before_median, rel=2e-2
    )
    repeated = run_cli("job", "submit", str(toml), "--server", site.admin, "-o", "name")
    assert repeated.stdout.strip() == "second"


def test_a_job_that_names_an_adapter_and_brings_none_is_refused(site: Site) -> None:
    with pytest.raises(FedhftError, match=r"adapter.from = 'first': the adapter and the schema have to come with"):
        site.submit("third", adapter={"rank": 4, "from": "first"})


def _toml(raw: dict[str, Any]) -> str:
    """A job as TOML: values are written as JSON, which TOML reads where there is no null."""
    lines = [f"{key} = {json.dumps(value)}" for key, value in raw.items() if not isinstance(value, dict)]
    for section, table in raw.items():
        if isinstance(table, dict) and section != "tiers" and table:
            lines.append(f"[{section}]")
            lines += [f"{key} = {json.dumps(value)}" for key, value in table.items() if value is not None]
    return "\n".join(lines) + "\n"
