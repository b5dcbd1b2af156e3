"""What checkov and hadolint say about manifests and Dockerfiles.

`make test-deploy` installs both, in a place of their own: checkov pins many packages that others here need newer.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.rendering import K8S, OVERLAYS, Object, render
from tests.unit.test_house import ROOT

SCANNED = (*OVERLAYS, "dev, agent", "edge, gpu-agent")
"""Renderings with every workload, as somebody applies them."""
CONFIGURATION = K8S / ".checkov.yaml"


def program(name: str) -> str:
    """Where a scanner is. Skips the test where it is absent."""
    own = Path(sys.prefix) / "scanners/bin"
    found = shutil.which(name, path=os.pathsep.join([str(own), os.environ.get("PATH", "")]))
    if found is None:
        pytest.skip(f"{name} is not installed; make test-deploy installs it")
    return found


def checkov(folder: Path, *options: str) -> tuple[int, dict[str, set[str]], int]:
    """Exit code, names of the resources by each check that failed, and how many checks passed."""
    done = subprocess.run(
        [program("checkov"), "-d", folder, *options, "--output", "json"],
        capture_output=True, text=True, timeout=240, check=False, env={**os.environ, "LOG_LEVEL": "ERROR"},
    )  # fmt: skip
    report: Any = json.loads(done.stdout)
    failed: dict[str, set[str]] = {}
    for each in report["results"]["failed_checks"]:
        failed.setdefault(each["check_id"], set()).add(f"{each['resource']}: {each['check_name']}")
    return done.returncode, failed, report["summary"]["passed"]


def write(folder: Path, renderings: dict[str, list[Object]]) -> Path:
    for name, objects in renderings.items():
        (folder / f"{name.replace(', ', '-')}.yaml").write_text(yaml.safe_dump_all(objects), encoding="utf-8")
    return folder


def test_checkov_finds_what_the_list_explains_and_nothing_else(tmp_path: Path) -> None:
    skipped = set(yaml.safe_load(CONFIGURATION.read_text(encoding="utf-8"))["skip-check"])
    folder = write(tmp_path, {name: render(name) for name in SCANNED})
    _, failed, passed = checkov(folder, "--framework", "kubernetes", "--skip-download")
    assert {check: found for check, found in failed.items() if check not in skipped} == {}
    assert skipped - failed.keys() == set(), "these find nothing any more: take them off the list"
    assert passed > 200


def test_checkov_as_the_list_says_fails_for_a_privileged_container(tmp_path: Path) -> None:
    objects = [each for each in render("dev") if each["kind"] == "Deployment"]
    security = objects[0]["spec"]["template"]["spec"]["containers"][0]["securityContext"]
    security.update(privileged=True, allowPrivilegeEscalation=True)
    code, failed, _ = checkov(write(tmp_path, {"dev": objects}), "--config-file", str(CONFIGURATION))
    assert code == 1
    assert "CKV_K8S_16" in failed, "Container should not be privileged"
    assert not failed.keys() & {"CKV_K8S_43", "CKV_K8S_15"}


def dockerfiles() -> list[Path]:
    found = [*ROOT.glob("services/*/Dockerfile"), *(ROOT / "deploy").rglob("*Dockerfile*")]
    return sorted(path for path in found if path.is_file())


@pytest.mark.parametrize("path", dockerfiles(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_hadolint_has_nothing_to_say_about_a_dockerfile(path: Path) -> None:
    done = subprocess.run([program("hadolint"), path], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_hadolint_finds_a_fault(tmp_path: Path) -> None:
    assert len(dockerfiles()) >= 3
    faulty = tmp_path / "Dockerfile"
    faulty.write_text(dockerfiles()[0].read_text(encoding="utf-8") + "\nMAINTAINER somebody\n", encoding="utf-8")
    done = subprocess.run([program("hadolint"), faulty], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "DL4000" in done.stdout
