"""Every wheel that the images are built from exists for aarch64 as well, or is pure Python."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.system import image_builds

pytestmark = [pytest.mark.timeout(1800), pytest.mark.containers]
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64")


def found(requirement: str, report: Path) -> str:
    """The wheel that an aarch64 machine would install, by its file name; empty where the index has none."""
    done = subprocess.run(
        [
            sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--no-deps",
            "--target", report.parent / "none", "--only-binary=:all:", "--python-version", "3.11",
            "--implementation", "cp", *(word for name in PLATFORMS for word in ("--platform", name)),
            "--report", report, requirement,
        ],
        capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        return ""
    (item,) = json.loads(report.read_text(encoding="utf-8"))["install"]
    return str(item["download_info"]["url"]).rpartition("/")[2]


def test_every_wheel_with_machine_code_has_one_for_aarch64(tmp_path: Path) -> None:
    names = sorted(path.name for path in image_builds.wheels().glob("*.whl"))
    pure = [name for name in names if name.endswith("-none-any.whl")]
    machine = [name for name in names if name not in pure]
    assert {"torch", "numpy", "grpcio", "pyarrow"} <= {name.partition("-")[0] for name in machine}
    missing = []
    for name in machine:
        package, version = name.split("-")[:2]
        # The local part of a version, +cpu, says how a wheel for x86-64 was built.
        requirement = f"{package}=={version.partition('+')[0]}"
        wheel = found(requirement, tmp_path / "report.json")
        print(f"{requirement}: {wheel or 'none'}")
        if not wheel.endswith("_aarch64.whl"):
            missing.append(requirement)
    print(
        f"{len(names)} wheels: {len(pure)} pure, {len(machine)} with machine code, without aarch64: {missing or 'none'}"
    )
    assert missing == []
