"""The manifests of deploy/k8s as `kubectl kustomize` renders them: overlays, components, some combinations."""

from __future__ import annotations

import atexit
import functools
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from fedhft.certs.authority import Authority
from tests.unit.test_house import ROOT

Object = dict[str, Any]
"""One rendered Kubernetes object."""

K8S = ROOT / "deploy/k8s"
OVERLAYS = tuple(sorted(path.name for path in (K8S / "overlays").iterdir()))
COMPONENTS = tuple(sorted(path.name for path in (K8S / "components").iterdir()))
COMBINED = {
    # What documents and comments tell people to combine: name -> (what it stands on, components).
    "prod, hpa": ("../prod", ["hpa"]),
    "prod, blobs-pvc": ("../prod", ["blobs-pvc"]),
    "prod, ingress-passthrough": ("../prod", ["ingress-passthrough"]),
    "prod, page": ("../prod", ["page"]),
    "prod, gateway": ("../prod", ["gateway"]),
    "prod, agent": ("../prod", ["agent"]),
    "prod, external-redis": ("../prod", ["external-redis"]),
    "base, mtls-files, monitoring, network-policy": ("../../base", ["mtls-files", "monitoring", "network-policy"]),
    "dev, agent": ("", []),  # by taking the marks of the comment away
    "edge, gpu-agent": ("", []),  # by exchanging the component
}
NAMES = (*OVERLAYS, *(f"base, {name}" for name in COMPONENTS), *COMBINED)
"""Every rendering."""


def render(name: str) -> list[Object]:
    """A fresh copy of the objects of one rendering. Skips the test where kubectl cannot render."""
    return list(yaml.load_all(_rendered(name), Loader=yaml.CSafeLoader))


def deployable(folder: Path) -> Path:
    """A copy of deploy/k8s with the certificates that mtls-files needs; returns its overlays.

    Beside it goes what its monitoring takes in: deploy/grafana.
    """
    shutil.copytree(K8S, folder, ignore=shutil.ignore_patterns("certs"))
    shutil.copytree(K8S.parent / "grafana", folder.parent / "grafana", dirs_exist_ok=True)
    authority = Authority.init(folder / "components/mtls-files/certs", "fedhft.example")
    for line in (K8S / "components/mtls-files/kustomization.yaml").read_text(encoding="utf-8").splitlines():
        if found := re.match(r"# +fedhft certs issue (\w+) --dir certs(.*)", line):
            authority.issue(authority.identity(found[1]), re.findall(r"--host (\S+)", found[2]), 90)
    return folder / "overlays"


@functools.cache
def _rendered(name: str) -> str:
    return kustomize(_overlays() / _folder(name))


def kustomize(folder: Path) -> str:
    """What `kubectl kustomize FOLDER` prints. Fails the test when it is refused."""
    done = subprocess.run([kubectl(), "kustomize", folder], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@functools.cache
def kubectl() -> str:
    """The program. Skips the test where it is absent, or too old for components."""
    found = shutil.which("kubectl")
    if found is None:
        pytest.skip("kubectl is not installed, so manifests cannot be rendered")
    command = [found, "version", "--client"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    version = re.search(r"Kustomize Version: v(\d+)", said.stdout)
    if version is None or int(version[1]) < 5:
        pytest.skip("this kubectl has no kustomize 5; install kubectl 1.27 or later")
    return found


@functools.cache
def _overlays() -> Path:
    kubectl()
    folder = tempfile.TemporaryDirectory(prefix="fedhft-deploy-")
    atexit.register(folder.cleanup)
    overlays = deployable(Path(folder.name) / "k8s")
    for name in COMPONENTS:
        _write(overlays / f"base-{name}", "../../base", [name])
    for name, (base, components) in COMBINED.items():
        if base:
            _write(overlays / _folder(name), base, components)
    marked = "# components:\n#   - ../../components/agent"
    _edit(overlays, "dev", "dev, agent", marked, marked.replace("# ", "").replace("#", ""))
    _edit(overlays, "edge", "edge, gpu-agent", "../../components/agent", "../../components/gpu-agent")
    return overlays


def _folder(name: str) -> str:
    return name.replace(", ", "-")


def _write(folder: Path, base: str, components: list[str]) -> None:
    folder.mkdir()
    lines = ["resources:", f"- {base}", "components:", *(f"- ../../components/{name}" for name in components)]
    (folder / "kustomization.yaml").write_text("\n".join(lines), encoding="utf-8")


def _edit(overlays: Path, source: str, name: str, old: str, new: str) -> None:
    shutil.copytree(overlays / source, overlays / _folder(name))
    file = overlays / _folder(name) / "kustomization.yaml"
    text = file.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"overlays/{source} no longer says {old!r}"
    file.write_text(text.replace(old, new), encoding="utf-8")
