"""Rendered Kubernetes objects as `podman kube play` 4.3 can run them, and what is lost on the way.

    kubectl kustomize OVERLAY | python -m tests.system.kube_play > pods.yaml

Podman plays Pods and ConfigMaps. Deployments and StatefulSets become Pods, Services names on the network, Secrets,
claims and emptyDirs named volumes. What has no counterpart is left out, and said on standard error.
"""

from __future__ import annotations

import base64
import copy
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import yaml

Object = dict[str, Any]

LEFT_OUT = {
    "Namespace": "podman has none; a network takes its place",
    "ServiceAccount": "there is no API server to have an account with",
    "PodDisruptionBudget": "nothing drains nodes",
    "NetworkPolicy": "podman's networks have no policies",
    "HorizontalPodAutoscaler": "nothing scales",
    "Ingress": "there is no ingress controller",
    "Gateway": "a custom resource, with nothing that acts on it",
    "TLSRoute": "a custom resource, with nothing that acts on it",
    "Issuer": "a custom resource, with nothing that acts on it",
    "Certificate": "a custom resource, with nothing that acts on it",
    "PodMonitor": "a custom resource, with nothing that acts on it",
    "ServiceMonitor": "a custom resource, with nothing that acts on it",
    "PrometheusRule": "a custom resource, with nothing that acts on it",
}
"""Kinds that podman cannot run, and why nothing takes their place."""
CHANGED = {
    "Deployment": "one Pod, whatever the number of replicas",
    "StatefulSet": "one Pod, whatever the number of replicas",
    "Service": "names of its pods on the network",
    "Secret": "a named volume with the group and mode that a kubelet gives its files",
    "PersistentVolumeClaim": "a named volume",
}
"""Kinds that become something else."""
_LOST_OF_PODS = ("topologySpreadConstraints", "terminationGracePeriodSeconds", "tolerations", "serviceAccountName")
_LOST_OF_CONTAINERS = ("startupProbe", "readinessProbe", "lifecycle")
_OF_CONTAINERS = ("runAsUser", "runAsGroup")
"""Fields of a pod's security context that podman reads from its containers."""
_PAGES = {"/healthz": "healthy", "/readyz": "ready"}


@dataclass(frozen=True)
class SecretVolume:
    """A volume to be made before the pods: file name -> content, all of group `group` with mode `mode`."""

    name: str
    files: dict[str, bytes]
    group: int
    mode: int


@dataclass
class Play:
    """What is to be played, one document per pod."""

    before: dict[str, str] = field(default_factory=dict)
    """Pods that have to end well before the others: podman 4.3 restarts init containers, or fails to remove them."""
    pods: dict[str, str] = field(default_factory=dict)
    """Name of a pod -> its YAML, ConfigMaps first."""
    names: dict[str, list[str]] = field(default_factory=dict)
    """Name of a pod -> further names on the network: those of its Services."""
    secrets: list[SecretVolume] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    """One sentence for each kind and field that was left out or changed."""


def translate(objects: Iterable[Object]) -> Play:
    """The play of a rendering. Raises ValueError for a kind that this script has never heard of."""
    objects = [copy.deepcopy(each) for each in objects]
    kinds = Counter(each["kind"] for each in objects)
    unknown = kinds.keys() - LEFT_OUT.keys() - CHANGED.keys() - {"ConfigMap", "Pod"}
    if unknown:
        raise ValueError(f"kinds = {sorted(unknown)}: nobody said what to do with them; add them to {__name__}")
    play = Play()
    play.said += [
        f"left out: {kinds[kind]} {kind}: {LEFT_OUT[kind]}" for kind in sorted(kinds.keys() & LEFT_OUT.keys())
    ]
    play.said += [f"changed: {kinds[kind]} {kind}: {CHANGED[kind]}" for kind in sorted(kinds.keys() & CHANGED.keys())]
    configs = {each["metadata"]["name"]: each for each in objects if each["kind"] == "ConfigMap"}
    secrets = {each["metadata"]["name"]: each for each in objects if each["kind"] == "Secret"}
    lost: Counter[str] = Counter()
    for each in objects:
        if each["kind"] in ("Deployment", "StatefulSet"):
            _add_pod(play, each, objects, configs, secrets, lost)
    play.said += [f"left out of pods: {count} {name}" for name, count in sorted(lost.items()) if count]
    return play


def _add_pod(
    play: Play, each: Object, objects: list[Object], configs: Object, secrets: Object, lost: Counter[str]
) -> None:
    name, template = each["metadata"]["name"], each["spec"]["template"]
    spec = template["spec"]
    context = spec.get("securityContext", {})
    for key in _LOST_OF_PODS:
        lost[key] += spec.pop(key, None) is not None
    containers = [*spec.get("initContainers", []), *spec["containers"]]
    for one in containers:
        for key in _LOST_OF_CONTAINERS:
            lost[key] += one.pop(key, None) is not None
        own = one.setdefault("securityContext", {})
        own.update({key: context[key] for key in _OF_CONTAINERS if key in context and key not in own})
        one.pop("ports", None)  # they only tell; podman would publish each of them on the host
        _ask_by_exec(one, lost)
        for entry in one.get("args", []):
            if "$(" in entry:  # podman leaves them as they are
                values = {variable["name"]: variable["value"] for variable in one.get("env", [])}
                one["args"] = [_filled(word, values) for word in one["args"]]
                break
    claims = [claim["metadata"]["name"] for claim in each["spec"].get("volumeClaimTemplates", [])]
    volumes = [_volume(play, name, volume, secrets, context) for volume in spec.get("volumes", [])]
    volumes += [_claim(claim, f"{claim}-{name}-0") for claim in claims]
    spec["volumes"] = volumes
    needed = {source["configMapRef"]["name"] for one in containers for source in one.get("envFrom", [])}
    needed |= {volume["configMap"]["name"] for volume in volumes if "configMap" in volume}
    first = spec.pop("initContainers", [])
    maps = [configs[config] for config in sorted(needed)]
    for one in first:
        lost["initContainer (a Pod that runs to its end before)"] += 1
        own = f"{name}-{one['name']}"
        alone = {**spec, "containers": [one], "restartPolicy": "Never"}
        play.before[own] = yaml.safe_dump_all([*maps, _pod(own, {}, alone)], sort_keys=False)
    play.pods[name] = yaml.safe_dump_all([*maps, _pod(name, template["metadata"]["labels"], spec)], sort_keys=False)
    play.names[name] = [
        service["metadata"]["name"]
        for service in objects
        if service["kind"] == "Service"
        and service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
    ]


def _pod(name: str, labels: Object, spec: Object) -> Object:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": spec}


def _ask_by_exec(container: Object, lost: Counter[str]) -> None:
    """Liveness by a command: podman makes `curl` of httpGet, which our images do not have."""
    probe = container.get("livenessProbe", {})
    page = probe.pop("httpGet", {}).get("path")
    if page is not None:
        probe["exec"] = {"command": ["fedhft", "probe", "--page", _PAGES[page]]}
        lost["livenessProbe by httpGet (asked by `fedhft probe` instead)"] += 1
    elif "exec" not in probe:
        lost["livenessProbe by tcpSocket"] += container.pop("livenessProbe", None) is not None


def _filled(word: str, values: dict[str, str]) -> str:
    for name, value in values.items():
        word = word.replace(f"$({name})", value)
    return word


def _volume(play: Play, pod: str, volume: Object, secrets: Object, context: Object) -> Object:
    """A volume of a pod as podman has it; all pods share the names of podman's volumes."""
    name = volume["name"]
    if "emptyDir" in volume:
        return _claim(name, f"{pod}-{name}")
    if "secret" not in volume:
        return dict(volume)
    source = volume["secret"]
    if source["secretName"] in secrets:
        held = _content(secrets[source["secretName"]])
        items = source.get("items") or [{"key": key, "path": key} for key in held]
        files = {item["path"]: held[item["key"]] for item in items}
        made = SecretVolume(f"{pod}-{name}", files, context.get("fsGroup", 0), source.get("defaultMode", 0o644))
        play.secrets.append(made)
    return _claim(name, f"{pod}-{name}")


def _claim(name: str, volume: str) -> Object:
    return {"name": name, "persistentVolumeClaim": {"claimName": volume}}


def _content(secret: Object) -> dict[str, bytes]:
    encoded = {key: base64.b64decode(value) for key, value in secret.get("data", {}).items()}
    return {**encoded, **{key: value.encode() for key, value in secret.get("stringData", {}).items()}}


if __name__ == "__main__":
    played = translate(each for each in yaml.safe_load_all(sys.stdin) if each)
    print("---\n".join([*played.before.values(), *played.pods.values()]))
    print("\n".join(played.said), file=sys.stderr)
