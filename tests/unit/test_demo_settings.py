"""The job of each method is a pure function of the demo's settings."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from fedhft.datasets.federated import FederatedData
from fedhft.demo.settings import (
    DemoSettings,
    demo_data,
    demo_devices,
    demo_job,
    parse_override,
    profiles_file,
    tier_of_clients,
)
from fedhft.errors import ErrorCode, FedhftError
from fedhft.job import JobSpec
from fedhft.local.base_model import MINILM, base_model, packaged_minilm, verify
from fedhft.local.devices import MIDDLING, STRONG, WEAK
from fedhft.methods import Allocation, Combine
from fedhft.planning.tiers import tier_of
from tests.demo_jobs import CLIENTS, small_data

OUT = Path("out")


def job(of: str = "fedhft", data: FederatedData | None = None, **changes: Any) -> JobSpec:
    return demo_job(DemoSettings(out=OUT, **changes), of, data or small_data(), "some/model")


def test_a_simulation_has_no_connections_that_could_use_tls() -> None:
    with pytest.raises(FedhftError, match="leave out --tls or --simulate"):
        DemoSettings(out=OUT, tls=True, simulate=True).check()


def test_every_hidden_group_has_devices_of_every_tier() -> None:
    assert tier_of_clients(6, 3, 2) == (0, 0, 1, 1, 2, 2)
    assert tier_of_clients(4, 3, 1) == (0, 1, 2, 0)


@pytest.mark.parametrize("method", ["hetlora", "flexlora", "flora"])
def test_where_ranks_may_differ_smaller_devices_have_fewer_columns_in_place_of_rows(method: str) -> None:
    spec = job(method)
    assert {name: (tier.rank, tier.density) for name, tier in spec.tiers.items()} == {
        "density-1": (0, 1.0), "density-0.5": (4, 1.0), "density-0.25": (2, 1.0),
    }  # fmt: skip
    less = job(method, method=method, overrides=("adapter.rank=2", "tiers.density-1.rank=1"))
    assert [tier.rank for tier in less.tiers.values()] == [1, 1, 1]
    assert job("fedhft-paper").tiers["density-0.5"].density == 0.5


def test_the_job_names_its_clients_their_tiers_and_the_labels() -> None:
    spec = job(data=small_data((0, 0, 0, 0)))
    assert spec.clients == CLIENTS
    assert [tier_of(spec, client, 0) for client in CLIENTS] == ["density-1", "density-0.5", "density-0.25", "density-1"]
    assert spec.tiers["density-0.25"].density == 0.25
    assert spec.task.labels == ("no", "yes")
    assert spec.task.text_pair is None
    assert spec.rounds.min_clients == 4
    assert spec.model.name == "some/model"


def test_with_devices_nobodys_tier_is_named_and_plans_go_by_capacity() -> None:
    settings = DemoSettings(out=OUT)
    devices = demo_devices(settings, CLIENTS, 1)
    assert list(devices.values()) == [STRONG, MIDDLING, WEAK, STRONG]
    spec = demo_job(settings, "fedhft", small_data(), "some/model", devices)
    assert spec.client_tiers == {}
    assert spec.method.allocation is Allocation.CAPACITY
    tiers = [tier_of(spec, name, devices[name].memory) for name in CLIENTS]
    assert tiers == ["density-1", "density-0.5", "density-0.25", "density-1"]
    fedit = demo_job(settings, "fedit", small_data(), "some/model", devices)
    assert fedit.method.allocation is Allocation.UNIFORM  # what a method is compared with stays what it is


def test_with_devices_methods_of_unequal_ranks_give_smaller_ones_fewer_columns() -> None:
    settings = DemoSettings(out=OUT)
    devices = demo_devices(settings, CLIENTS, 1)
    spec = demo_job(settings, "hetlora", small_data(), "some/model", devices)
    assert spec.method.allocation is Allocation.TIERS
    ranks = [spec.tiers[tier_of(spec, name, devices[name].memory)].rank for name in CLIENTS]
    assert ranks == [0, 4, 2, 0]


def test_devices_of_one_memory_have_one_tier_and_those_of_none_the_last(tmp_path: Path) -> None:
    path = tmp_path / "devices.toml"
    path.write_text(f"[devices.box]\ncount = {len(CLIENTS)}\n")
    settings = DemoSettings(out=OUT, devices=str(path))
    devices = demo_devices(settings, CLIENTS, 1)
    spec = demo_job(settings, "fedhft", small_data(), "some/model", devices)
    assert {name: (tier.density, tier.min_memory) for name, tier in spec.tiers.items()} == {"density-1": (1.0, 0)}
    path.write_text(f'[devices.box]\ncount = {len(CLIENTS) - 1}\nmemory = "1GiB"\n[devices.other]\ncount = 1\n')
    spec = demo_job(settings, "fedhft", small_data(), "some/model", demo_devices(settings, CLIENTS, 1))
    assert [tier_of(spec, CLIENTS[0], memory) for memory in (1 << 30, 1 << 20, 0)] == [
        "density-1",
        "density-0.5",
        "density-0.5",
    ]


def test_a_simulation_holds_nobody_and_takes_a_file_of_profiles(tmp_path: Path) -> None:
    assert demo_devices(DemoSettings(out=OUT, simulate=True), CLIENTS, 1) == {}
    assert demo_devices(DemoSettings(out=OUT, devices="none"), CLIENTS, 1) == {}
    assert demo_devices(DemoSettings(out=OUT, compare=("fedit",)), CLIENTS, 1) == {}
    compared = DemoSettings(out=OUT, compare=("fedit",), devices="classes")
    assert demo_devices(compared, CLIENTS, 1)[CLIENTS[0]] is STRONG
    assert profiles_file(DemoSettings(out=OUT, simulate=True)) is None
    assert profiles_file(DemoSettings(out=OUT, devices="some.toml")) is None
    simulated = DemoSettings(out=OUT, simulate=True, devices="some.toml")
    assert profiles_file(simulated) == Path("some.toml")
    spec = demo_job(simulated, "fedhft", small_data(), "some/model", {})
    assert spec.method.allocation is Allocation.CAPACITY
    assert spec.client_tiers != {}


def test_rounds_that_are_planned_are_shorter_and_more() -> None:
    devices = demo_devices(DemoSettings(out=OUT), CLIENTS, 1)
    data = small_data()
    found = [
        demo_job(DemoSettings(out=OUT, rounds=given), "fedhft", data, "some/model", held).rounds.total
        for given in (None, 3)
        for held in (None, devices)
    ]
    assert found == [6, 12, 3, 3]


def test_settings_reach_the_job() -> None:
    spec = job(rounds=3, seed=11, epochs=2.0, learning_rate=1e-3, learning_rate_decay=0.5, clusters=3)
    assert (spec.rounds.total, spec.seed, spec.training.epochs) == (3, 11, 2.0)
    assert (spec.learning_rate(1), spec.learning_rate(2)) == (1e-3, 5e-4)
    assert spec.method.clusters == 3


def test_methods_have_rates_of_their_own_unless_one_is_given() -> None:
    assert job("full").training.learning_rate == 1e-4
    assert job("fedit").training.learning_rate == 3e-3
    assert job("full", learning_rate=5e-5).training.learning_rate == 5e-5


def test_clusters_are_asked_of_clustered_methods_only() -> None:
    assert job("fedhft-paper", method="fedhft-paper", clusters=3).method.clusters == 3
    assert job("fedit", clusters=3).method.clusters == 1
    assert job("local", clusters=3).method.combine is Combine.NONE


def test_overrides_reach_every_method_except_those_of_the_method_itself() -> None:
    overrides = ("server.eta=0.5", "method.trained=alternate", "wire.up=fp16")
    main = job("fedhft", overrides=overrides)
    other = job("fedit", overrides=overrides)
    assert (main.server.eta, main.method.trained, main.wire.up) == (0.5, "alternate", "fp16")
    assert (other.server.eta, other.method.trained, other.wire.up) == (0.5, "both", "fp32")


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("a.b=1", (("a", "b"), 1)),
        ("a=0.5", (("a",), 0.5)),
        ("a=true", (("a",), True)),
        ('a=["x", "y"]', (("a",), ["x", "y"])),
        ("a=fp16", (("a",), "fp16")),
        ("a=90s", (("a",), "90s")),
        ("a=b=c", (("a",), "b=c")),
    ],
)
def test_an_override_is_toml_or_else_text(text: str, parsed: object) -> None:
    assert parse_override(text) == parsed


@pytest.mark.parametrize("text", ["", "a", "=1", "a..b=1", ".a=1"])
def test_an_override_that_is_not_a_key_and_a_value_is_refused(text: str) -> None:
    with pytest.raises(FedhftError, match="not key=value"):
        parse_override(text)


def test_an_override_of_an_unknown_field_is_refused_by_name() -> None:
    with pytest.raises(FedhftError, match=r"training\.speed: unknown key") as caught:
        job(overrides=("training.speed=1",))
    assert caught.value.code is ErrorCode.INVALID_JOB
    with pytest.raises(FedhftError, match="not a section"):
        job(overrides=("seed.x=1",))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"method": "magic"}, "method"),
        ({"compare": ("fedit", "magic")}, "method"),
        ({"compare": ("fedhft",)}, "compare"),
        ({"clients": 1}, "clients"),
        ({"tiers": ()}, "tiers"),
        ({"tiers": (1.0, 0.0)}, "tiers"),
        ({"timeout_s": 0.0}, "timeout"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_field(changes: dict[str, object], field: str) -> None:
    with pytest.raises(FedhftError, match=f"^{field} = ") as caught:
        DemoSettings(out=OUT, **changes).check()  # type: ignore[arg-type]
    assert caught.value.code is ErrorCode.INVALID_ARGUMENT


def test_weaker_devices_have_less_data_in_the_generated_corpus() -> None:
    data = demo_data(DemoSettings(out=OUT))
    assert [len(client.train) for client in data.clients] == [240, 240, 120, 120, 60, 60]
    assert data.groups == (0, 1, 0, 1, 0, 1)
    turned = demo_data(DemoSettings(out=OUT, tiers=(0.25, 1.0)))
    assert [len(client.train) for client in turned.clients] == [120, 120, 240, 240, 120, 120]


def test_the_packaged_model_is_the_published_one() -> None:
    model = base_model(None)
    assert model.name == MINILM
    assert model.path == packaged_minilm()


def test_a_model_of_another_content_is_refused(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"something else")
    verify(weights, hashlib.sha256(b"something else").hexdigest())
    with pytest.raises(FedhftError, match="not the published model") as caught:
        verify(weights, "0" * 64)
    assert caught.value.code is ErrorCode.INVALID_MODEL
    with pytest.raises(FedhftError, match="cannot be read"):
        verify(tmp_path / "absent", "0" * 64)


def test_a_model_is_a_folder_or_a_hub_id(tmp_path: Path) -> None:
    assert base_model(str(tmp_path)).path == tmp_path.resolve()
    assert base_model("prajjwal1/bert-tiny").path is None
    with pytest.raises(FedhftError, match="is not a folder"):
        base_model(str(tmp_path / "absent"))
