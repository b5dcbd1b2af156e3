"""deploy/compose as text; podman-compose runs it in tests/system/test_compose.py."""

from __future__ import annotations

import re

import yaml

from fedhft.process.settings import ProcessSettings, variable_of
from tests.deploy.objects import PROCESSES
from tests.deploy.pod_policies import VERSION
from tests.unit.test_house import ROOT

FOLDER = ROOT / "deploy/compose"
TEXT = (FOLDER / "compose.yaml").read_text(encoding="utf-8")
SERVICES = yaml.safe_load(TEXT)["services"]


def settings_of(service: str) -> type[ProcessSettings]:
    return PROCESSES[service.partition("-")[0]][0]


def test_every_setting_of_the_example_is_one_of_the_file() -> None:
    named = re.findall(r"^#(\w+)=", (FOLDER / ".env.example").read_text(encoding="utf-8"), re.M)
    assert set(named) == {*re.findall(r"(?<!\$)\$\{(\w+)", TEXT), "COMPOSE_PROFILES"}


def test_processes_get_settings_that_they_know_and_the_images_of_this_version() -> None:
    ours = [name for name in SERVICES if name.partition("-")[0] in PROCESSES]
    assert len(ours) == 5
    for name in ours:
        variables = {key for key in SERVICES[name]["environment"] if key.startswith("FEDHFT_")}
        assert variables <= {variable_of(setting) for setting in settings_of(name).model_fields}, name
        assert SERVICES[name]["image"].endswith(f":{VERSION}}}"), name
        assert "FEDHFT_TLS_AUTHORITY" in variables, f"{name} does not check who the other side is"


def test_every_process_is_confined_and_limited() -> None:
    for name, service in SERVICES.items():
        if name.partition("-")[0] in PROCESSES:
            assert service["read_only"], name
            assert service["cap_drop"] == ["ALL"], name
            assert service["mem_limit"], name


def test_prometheus_scrapes_every_process_by_the_port_of_its_image() -> None:
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text(encoding="utf-8"))
    scraped = {
        target for job in config["scrape_configs"] for each in job["static_configs"] for target in each["targets"]
    }
    ports = {"aggregator": 9101, "clusterer": 9102, "agent": 9103}
    wanted = {f"{name}:{ports[name.partition('-')[0]]}" for name in SERVICES if name.partition("-")[0] in PROCESSES}
    assert scraped == wanted
    for file in config["rule_files"]:
        assert (ROOT / "deploy/prometheus" / file.rpartition("/")[2]).is_file(), file
