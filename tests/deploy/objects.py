"""Looking at rendered objects: pods, containers, selectors, quantities, the environment of a process."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fedhft_agent.settings import AgentSettings
from fedhft_aggregator.settings import AggregatorSettings
from fedhft_clusterer.settings import ClustererSettings

from fedhft.process.settings import ProcessSettings
from tests.deploy.rendering import Object
from tests.unit.test_house import ROOT

WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob", "Pod", "ReplicaSet")
PROCESSES: dict[str, tuple[type[ProcessSettings], str]] = {
    "aggregator": (AggregatorSettings, "aggregator"),
    "clusterer": (ClustererSettings, "clusterer"),
    "agent": (AgentSettings, "client_agent"),
}
"""Containers that are processes of ours: their settings, and the folder of services/ with their image."""


@dataclass(frozen=True)
class Workload:
    """Something that makes pods."""

    object: Object

    @property
    def name(self) -> str:
        return str(self.object["metadata"]["name"])

    @property
    def title(self) -> str:
        return f"{self.object['kind']} {self.name}"

    @property
    def labels(self) -> dict[str, str]:
        """Those of its pods."""
        return dict(self.object["spec"]["template"]["metadata"]["labels"])

    @property
    def pod(self) -> Object:
        return dict(self.object["spec"]["template"]["spec"])

    @property
    def containers(self) -> list[Object]:
        return [*self.pod.get("initContainers", []), *self.pod["containers"]]

    @property
    def container(self) -> Object:
        """Its only container that goes on running."""
        (only,) = self.pod["containers"]
        return only

    @property
    def ports(self) -> dict[str, int]:
        return {port["name"]: port["containerPort"] for each in self.containers for port in each.get("ports", [])}

    @property
    def replicas(self) -> int:
        return int(self.object["spec"].get("replicas", 1))

    @property
    def process(self) -> type[ProcessSettings] | None:
        """The settings of our process in it, if it is one of ours."""
        return PROCESSES[self.container["name"]][0] if self.container["name"] in PROCESSES else None


def workloads(objects: list[Object]) -> list[Workload]:
    return [Workload(each) for each in objects if each["kind"] in WORKLOADS]


def of_kind(objects: list[Object], *kinds: str) -> list[Object]:
    return [each for each in objects if each["kind"] in kinds]


def find(objects: list[Object], kind: str, name: str) -> Object:
    """The object of a kind whose name is `name`, or that with the hash of its content at the end."""
    (found,) = [o for o in of_kind(objects, kind) if re.fullmatch(rf"{name}(-[a-z0-9]{{10}})?", o["metadata"]["name"])]
    return found


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a label selector (matchLabels, matchExpressions) takes in these labels. An empty one takes in all."""
    for key, value in selector.get("matchLabels", {}).items():
        if labels.get(key) != value:
            return False
    for rule in selector.get("matchExpressions", []):
        key, values = rule["key"], rule.get("values", [])
        holds = {
            "In": labels.get(key) in values,
            "NotIn": labels.get(key) not in values,
            "Exists": key in labels,
            "DoesNotExist": key not in labels,
        }[rule["operator"]]
        if not holds:
            return False
    return True


def quantity(text: str | int | float) -> float:
    """A Kubernetes quantity as a number: cores, bytes."""
    number, unit = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", str(text)).groups()  # type: ignore[union-attr]
    scale = {"": 1, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
    return float(number) * scale[unit]


def environment(objects: list[Object], container: Object) -> dict[str, str]:
    """FEDHFT_ and other variables that a container gets, those of its image first."""
    found = dict(image_variables(container["name"]))
    for source in container.get("envFrom", []):
        found.update(find(objects, "ConfigMap", source["configMapRef"]["name"])["data"])
    for entry in container.get("env", []):
        found[entry["name"]] = str(entry.get("value", ""))
    return found


def image_variables(process: str) -> dict[str, str]:
    """What the image of a process of ours sets itself."""
    if process not in PROCESSES:
        return {}
    return dict(re.findall(r"\b(FEDHFT_\w+)=(\S+)", _instructions(process, "ENV")))


def image_user(process: str) -> str:
    """UID:GID that the image runs as."""
    return _instructions(process, "USER").strip()


def _instructions(process: str, word: str) -> str:
    text = (ROOT / "services" / PROCESSES[process][1] / "Dockerfile").read_text(encoding="utf-8")
    return " ".join(re.findall(rf"^{word} (.*)$", re.sub(r"\\\n", " ", text), re.M))


def config_values(objects: list[Object]) -> Iterator[tuple[str, str, str]]:
    """(ConfigMap, key, value), comments left out."""
    for each in of_kind(objects, "ConfigMap"):
        for key, value in each.get("data", {}).items():
            yield each["metadata"]["name"], key, re.sub(r"^ *#.*$", "", value, flags=re.M)
