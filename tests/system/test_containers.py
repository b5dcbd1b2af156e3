"""The overlay `dev` with mutual TLS and three agents, played by podman; the aggregator is killed in mid-round.

What podman cannot play is left out by tests/system/kube_play.py, which says so. `-s` shows what it says.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from safetensors.numpy import load_file

from fedhft.certs.authority import Authority
from fedhft.errors import OUTCOMES, ErrorCode
from fedhft.local.base_model import MINILM, packaged_minilm
from tests.deploy.rendering import deployable, kustomize
from tests.models import rows
from tests.system import image_builds
from tests.system.kube_play import Play, translate
from tests.system.operators import ADMIN, Operator, accepted, address_of
from tests.system.podman import available, inspect, logs, network, podman, process_of, until

pytestmark = [pytest.mark.timeout(1800), pytest.mark.containers]
CLIENTS = ("firm-01", "firm-02", "firm-03")
NETWORK = "fedhft-play"
AGGREGATOR = "fedhft-aggregator-aggregator"
"""Name of its container."""
ROWS = 48
SERVICES = """apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
namespace: fedhft
resources: [../dev]
components: [../../components/mtls-files]
configMapGenerator:
  - {name: fedhft-aggregator, namespace: fedhft, behavior: merge, literals: [FEDHFT_INSECURE=]}
  - {name: fedhft-clusterer, namespace: fedhft, behavior: merge, literals: [FEDHFT_INSECURE=]}
secretGenerator:
  - name: fedhft-redis
    literals: ["fedhft_redis=redis://:word@fedhft-redis:6379/0", "auth.conf=requirepass word"]
    options: {disableNameSuffixHash: true}
"""
AGENT = """apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
namespace: fedhft
nameSuffix: -NAME
components: [../../components/agent]
patches:
  - patch: |
      apiVersion: v1
      kind: ConfigMap
      metadata: {name: fedhft-agent}
      data:
        FEDHFT_CLIENT: NAME
        FEDHFT_DATA: /data/NAME.jsonl
        FEDHFT_MODEL: /data/model
        FEDHFT_THREADS: "1"
secretGenerator:
  - name: fedhft-agent-tls
    files: [certs/tls.crt, certs/tls.key, certs/ca.crt]
    options: {disableNameSuffixHash: true}
"""


class Played:
    """A federation of pods, and an operator of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        overlays = deployable(folder / "k8s")
        self.certificates = overlays.parent / "components/mtls-files/certs"
        authority = Authority(self.certificates)
        authority.issue(authority.identity("operator/ops"), [], 90)
        (overlays / "play").mkdir()
        (overlays / "play/kustomization.yaml").write_text(SERVICES, encoding="utf-8")
        self.services = _play_of(overlays / "play")
        self.agents = []
        for client in CLIENTS:
            authority.issue(authority.identity(f"agent/{client}"), [], 90)
            (overlays / client).mkdir()
            shutil.copytree(self.certificates / "agent" / client, overlays / client / "certs")
            text = AGENT.replace("NAME", client)
            (overlays / client / "kustomization.yaml").write_text(text, encoding="utf-8")
            self.agents.append(_play_of(overlays / client))

    @property
    def infra(self) -> str:
        """The container that keeps the aggregator's network while its process is restarted."""
        return str(inspect("fedhft-aggregator", "pod")["InfraContainerID"])

    @property
    def operator(self) -> Operator:
        return Operator(self.infra, self.certificates / "operator/ops", MINILM)


def _play_of(overlay: Path) -> Play:
    return translate(each for each in yaml.safe_load_all(kustomize(overlay)) if each)


def play(what: Play, folder: Path) -> None:
    """Make the volumes of the secrets, then the pods; print what was left out."""
    print("\n".join(what.said))
    for secret in what.secrets:
        podman("volume", "create", secret.name)
        mount = Path(inspect(secret.name, "volume")["Mountpoint"])
        for name, content in secret.files.items():
            (mount / name).write_bytes(content)
            os.chown(mount / name, 0, secret.group)
            (mount / name).chmod(secret.mode)
    for pod, text in what.before.items():
        (folder / f"{pod}.yaml").write_text(text, encoding="utf-8")
        podman("kube", "play", "--network", NETWORK, folder / f"{pod}.yaml", timeout=300)
        (only,) = [
            one
            for one in podman(
                "pod", "inspect", pod, "--format", "{{range .Containers}}{{.Name}} {{end}}"
            ).stdout.split()
            if not one.endswith("-infra")
        ]
        code = podman("wait", only, timeout=300).stdout.strip()
        assert code == "0", logs(only)
        assert "0 failed" in logs(only)
        podman("pod", "rm", "-f", pod)
    for pod, text in what.pods.items():
        (folder / f"{pod}.yaml").write_text(text, encoding="utf-8")
        names = ",".join(f"alias={name}" for name in what.names[pod])
        podman("kube", "play", "--network", f"{NETWORK}:{names}", folder / f"{pod}.yaml", timeout=300)


def forget() -> None:
    """Remove what an earlier run may have left."""
    agents = [f"fedhft-agent-{each}{end}" for each in CLIENTS for end in ("", "-check")]
    podman(
        "pod", "rm", "--force", "--ignore", "--time", "0",
        "fedhft-redis", "fedhft-clusterer", "fedhft-aggregator", *agents, check=False,
    )  # fmt: skip
    left = podman("volume", "ls", "--quiet").stdout.split()
    ours = [name for name in left if re.match(r"(data-|state-)?fedhft-(?!test)", name)]  # those are of test_compose.py
    if ours:
        podman("volume", "rm", "-f", *ours, check=False)


def supply_rows() -> None:
    """The claim that an agent's owner supplies: rows, and a copy of the base model."""
    podman("volume", "create", "fedhft-agent-data")
    mount = Path(inspect("fedhft-agent-data", "volume")["Mountpoint"])
    for number, client in enumerate(CLIENTS):
        # Unequal ones, so that updates of a round do not come at once: a test kills between them.
        lines = "".join(json.dumps(row) + "\n" for row in rows(ROWS * (1 + 2 * number), 300 * number))
        (mount / f"{client}.jsonl").write_text(lines, encoding="utf-8")
    shutil.copytree(packaged_minilm(), mount / "model")


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    available()
    image_builds.redis()
    image_builds.ours()
    folder = tmp_path_factory.mktemp("play")
    forget()
    with network(NETWORK):
        try:
            site = Played(folder)
            supply_rows()
            play(site.services, folder)
            until("the aggregator answers `fedhft probe`", _ready, 90, 1.0)
            yield site
        finally:
            for name in ("fedhft-redis-redis", AGGREGATOR, *(f"fedhft-agent-{client}-agent" for client in CLIENTS)):
                (folder / f"{name}.log").write_text(logs(name), encoding="utf-8")
            print(f"logs: {folder}")
            forget()


def _ready() -> bool:
    return podman("exec", AGGREGATOR, "fedhft", "probe", check=False).returncode == 0


def test_a_killed_aggregator_costs_nothing_and_is_restarted(played: Played) -> None:
    ops = played.operator
    podman("healthcheck", "run", AGGREGATOR)
    ops.submit(played.folder, "first", rounds=3, clients=len(CLIENTS))
    assert ops.refused("job", "list") == OUTCOMES[ErrorCode.CLIENT_CERTIFICATE_REFUSED].exit_code
    with ThreadPoolExecutor(len(CLIENTS)) as pool:
        list(pool.map(lambda agent: play(agent, played.folder), played.agents))
    victim, address = process_of(AGGREGATOR), address_of(played.infra, NETWORK)
    seen = until("round 2 has an update", lambda: n if (n := accepted(address)) > len(CLIENTS) else 0, 600, 0.05)
    os.kill(victim, signal.SIGKILL)
    assert seen < 2 * len(CLIENTS), "the kill came after round 2"
    print(f"killed in round 2, after {seen - len(CLIENTS)} of its {len(CLIENTS)} updates")
    until("it is restarted by policy", lambda: inspect(AGGREGATOR)["RestartCount"] >= 1, 30)
    until("it is ready again", _ready, 60)
    ops.fedhft("job", "watch", "first")
    after = ops.job("first")
    assert (after["status"], after["rounds_done"]) == ("completed", 3)
    print(json.dumps(after["history"], indent=1))


def test_adapters_are_exported_to_a_volume(played: Played) -> None:
    assert played.operator.job("first")["status"] == "completed"
    podman(
        "run", "--rm", "--read-only", "--user", "0:0", "--network", f"ns:/proc/{process_of(played.infra)}/ns/net",
        "-v", "fedhft-exported:/adapters", "-v", f"{played.certificates}/operator/ops:/ops:ro",
        "--entrypoint", "fedhft", "fedhft-aggregator:0.1.0", "job", "export", "first", "--out", "/adapters/first",
        "--server", ADMIN, "--tls-certificate", "/ops/tls.crt", "--tls-key", "/ops/tls.key",
        "--tls-authority", "/ops/ca.crt",
    )  # fmt: skip
    mount = Path(inspect("fedhft-exported", "volume")["Mountpoint"])
    found = sorted(mount.rglob("adapter_model.safetensors"))
    assert found
    for file in found:
        tensors = load_file(file)
        assert any(abs(tensor).max() > 0 for name, tensor in tensors.items() if "lora_B" in name)
        config = json.loads((file.parent / "adapter_config.json").read_text(encoding="utf-8"))
        assert config["base_model_name_or_path"] == MINILM


def test_a_second_job_runs(played: Played) -> None:
    played.operator.submit(played.folder, "second", rounds=1, clients=len(CLIENTS))
    played.operator.fedhft("job", "watch", "second")
    assert played.operator.job("second")["rounds_done"] == 1
    for client in CLIENTS:
        assert inspect(f"fedhft-agent-{client}-agent")["RestartCount"] == 0
