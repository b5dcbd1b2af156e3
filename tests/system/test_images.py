"""The images: their sizes, and what must and must not be in them."""

from __future__ import annotations

import json
import re

import pytest

from tests.system import image_builds
from tests.system.image_builds import SERVICES, base, command_in, size
from tests.system.podman import inspect
from tests.unit.test_house import ROOT

pytestmark = [pytest.mark.timeout(1800), pytest.mark.containers]
MIB = 1 << 20
LARGEST = {"aggregator": 260 * MIB, "clusterer": 260 * MIB, "agent": round(1.2 * 1024 * MIB)}
"""Of a server above its base, of the agent with it."""
ANYBODY = ("--user", "54321:54321", "--read-only", "--cap-drop", "ALL")
"""A user id that no image knows, on a root that nobody may write."""


@pytest.fixture(scope="module", autouse=True)
def _built() -> None:
    image_builds.ours()


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_is_small(service: str) -> None:
    whole = size(f"fedhft-{service}")
    above = whole - size(base())
    print(f"fedhft-{service}: {whole / MIB:.0f} MiB, {above / MIB:.0f} MiB above its base")
    assert (whole if service == "agent" else above) <= LARGEST[service]


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_runs_as_any_user_on_a_read_only_root(service: str) -> None:
    code, said = command_in(f"fedhft-{service}", "python", "-m", f"fedhft_{service}", "--help", options=ANYBODY)
    assert code == 0, said
    assert "FEDHFT_TLS_CERTIFICATE" in said
    code, said = command_in(f"fedhft-{service}", "fedhft", "--version", options=ANYBODY)
    assert code == 0, said
    version = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M)
    assert version is not None
    assert version[1] in said


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_has_no_tool_to_change_it_and_nobody_s_tests(service: str) -> None:
    tools = "pip pip3 gcc cc g++ make ld curl wget"
    code, said = command_in(f"fedhft-{service}", "sh", "-c", f"command -v sh; for t in {tools}; do command -v $t; done")
    assert said.split() == ["/usr/bin/sh"], f"{code}: {said}"
    code, said = command_in(
        f"fedhft-{service}", "python", "-c",
        "import importlib.util, json, pathlib, sysconfig\n"
        "root = pathlib.Path(sysconfig.get_path('purelib'))\n"
        "tests = [str(p) for p in root.glob('*/**/tests') if p.is_dir()]\n"
        "found = [p for p in ('pip', 'setuptools', 'torch', 'redis', 'pyarrow') if importlib.util.find_spec(p)]\n"
        "print(json.dumps([tests, found]))",
    )  # fmt: skip
    assert code == 0, said
    tests, found = json.loads(said)
    assert tests == []
    assert found == (["setuptools", "torch"] if service == "agent" else ["redis"])


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_says_what_it_is(service: str) -> None:
    config = inspect(f"fedhft-{service}", "image")["Config"]
    labels = {name.removeprefix("org.opencontainers.image."): text for name, text in config["Labels"].items()}
    assert labels["title"] == f"fedhft {service}"
    assert labels["licenses"] == "Apache-2.0"
    assert f'version = "{labels["version"]}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert config["User"] == "10001:10001"
    assert inspect(f"fedhft-{service}", "image")["Healthcheck"]["Test"][:3] == ["CMD", "fedhft", "probe"]


def test_an_agent_trains_in_its_image() -> None:
    """Nothing that was left out of the image is missed when torch computes."""
    program = (
        "import torch, transformers\n"
        "x = torch.randn(4, 8, requires_grad=True)\n"
        "torch.nn.functional.gelu(torch.nn.Linear(8, 2)(x)).sum().backward()\n"
        "print(tuple(x.grad.shape))\n"
    )
    code, said = command_in("fedhft-agent", "python", "-c", program, options=(*ANYBODY, "--tmpfs", "/tmp"))
    assert (code, said.strip().splitlines()[-1]) == (0, "(4, 8)"), said


def test_the_bill_of_materials_lists_what_is_in_each_image() -> None:
    image_builds.make("sbom", f"WHEELS={image_builds.wheels()}", f"BASE={base()}")
    for service in SERVICES:
        told = json.loads((ROOT / f"out/sbom/fedhft-{service}.json").read_text(encoding="utf-8"))
        assert told["bomFormat"] == "CycloneDX"
        listed = {part["name"].lower().replace("_", "-"): part["version"] for part in told["components"]}
        listed[told["metadata"]["component"]["name"]] = told["metadata"]["component"]["version"]
        code, said = command_in(
            f"fedhft-{service}", "python", "-c",
            "import importlib.metadata as m, json\n"
            "print(json.dumps({d.name.lower().replace('_', '-'): d.version for d in m.distributions()}))",
        )  # fmt: skip
        assert code == 0, said
        assert listed == json.loads(said), service
        assert {"grpcio", "fedhft"} <= listed.keys()
