"""What must hold of every pod. Each policy takes rendered objects and returns what is wrong, one line each."""

from __future__ import annotations

import re
import tomllib

from fedhft_agent.settings import AgentSettings

from tests.deploy.objects import (
    PROCESSES,
    environment,
    image_user,
    of_kind,
    quantity,
    selects,
    workloads,
)
from tests.deploy.rendering import Object
from tests.unit.test_house import ROOT

VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]


def restricted(objects: list[Object]) -> list[str]:
    """Pod Security "restricted", a read-only root, no token of the API server, no variables of Services."""
    wrong = []
    for each in workloads(objects):
        pod = each.pod
        security = pod.get("securityContext", {})
        if security.get("runAsNonRoot") is not True or security.get("runAsUser", 0) == 0:
            wrong.append(f"{each.title}: may run as root")
        if security.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            wrong.append(f"{each.title}: no seccomp profile RuntimeDefault")
        if pod.get("automountServiceAccountToken") is not False:
            wrong.append(f"{each.title}: mounts a token of its service account")
        if pod.get("enableServiceLinks") is not False:
            wrong.append(f"{each.title}: gets variables of the namespace's Services")
        wrong += [f"{each.title}: {key}" for key in ("hostNetwork", "hostPID", "hostIPC") if pod.get(key)]
        wrong += [f"{each.title}: hostPath" for volume in pod.get("volumes", []) if "hostPath" in volume]
        for container in each.containers:
            where = f"{each.title}, {container['name']}"
            own = container.get("securityContext", {})
            if own.get("allowPrivilegeEscalation") is not False or own.get("privileged"):
                wrong.append(f"{where}: privileges may grow")
            if own.get("capabilities") != {"drop": ["ALL"]}:
                wrong.append(f"{where}: capabilities other than none")
            if own.get("readOnlyRootFilesystem") is not True:
                wrong.append(f"{where}: writable root")
            if own.get("runAsUser") == 0 or own.get("runAsNonRoot") is False:
                wrong.append(f"{where}: may run as root")
            if any("hostPort" in port for port in container.get("ports", [])):
                wrong.append(f"{where}: hostPort")
            if container["name"] in PROCESSES and image_user(container["name"]) != (
                f"{security.get('runAsUser')}:{security.get('runAsGroup')}"
            ):
                wrong.append(f"{where}: runs as another user than its image is made for")
    for account in of_kind(objects, "ServiceAccount"):
        if account.get("automountServiceAccountToken") is not False:
            wrong.append(f"ServiceAccount {account['metadata']['name']}: mounts its token")
    for namespace in of_kind(objects, "Namespace"):
        if namespace["metadata"]["labels"].get("pod-security.kubernetes.io/enforce") != "restricted":
            wrong.append("Namespace: does not enforce restricted pods")
    return wrong


def sized(objects: list[Object]) -> list[str]:
    """Requests and limits of CPU and memory, and processes that stay below them."""
    wrong = []
    for each in workloads(objects):
        for container in each.containers:
            where = f"{each.title}, {container['name']}"
            resources = container.get("resources", {})
            for kind in ("cpu", "memory"):
                request, limit = (resources.get(part, {}).get(kind) for part in ("requests", "limits"))
                if request is None or limit is None:
                    wrong.append(f"{where}: {kind} has no request or no limit")
                elif quantity(request) > quantity(limit):
                    wrong.append(f"{where}: requests more {kind} than its limit")
            limit = quantity(resources.get("limits", {}).get("memory", 0))
            variables = environment(objects, container)
            stated = variables.get("FEDHFT_MEMORY", "0").removesuffix("B")
            if stated != "auto" and quantity(stated) > 0.9 * limit:
                wrong.append(f"{where}: FEDHFT_MEMORY leaves no room below the limit")
            if quantity(variables.get("MAXMEMORY", "0").replace("gb", "Gi")) > limit / 2:
                wrong.append(f"{where}: MAXMEMORY is more than half of the limit")
        for volume in each.pod.get("volumes", []):
            if "emptyDir" in volume and "sizeLimit" not in volume["emptyDir"]:
                wrong.append(f"{each.title}: the volume {volume['name']} has no sizeLimit")
    return wrong


def probed(objects: list[Object]) -> list[str]:
    """Startup, readiness and liveness probes on the pages that are made for them."""
    pages = {"startupProbe": "/healthz", "livenessProbe": "/healthz", "readinessProbe": "/readyz"}
    wrong = []
    for each in workloads(objects):
        for container in each.pod["containers"]:
            for kind, page in pages.items():
                where = f"{each.title}, {container['name']}: {kind}"
                probe = container.get(kind)
                if probe is None:
                    wrong.append(f"{where} is missing")
                    continue
                target = probe.get("httpGet") or probe.get("tcpSocket")
                if target is not None and target["port"] not in each.ports:
                    wrong.append(f"{where} asks a port that is not there")
                if container["name"] in PROCESSES and probe.get("httpGet", {}).get("path") != page:
                    wrong.append(f"{where} does not ask {page}")
    return wrong


def checked(objects: list[Object]) -> list[str]:
    """An agent starts after its check, which sees what the agent will see, and the same limit of memory."""
    wrong = []
    for each in workloads(objects):
        if each.process is not AgentSettings:
            continue
        found = [
            one for one in each.pod.get("initContainers", []) if one.get("command") == ["fedhft", "agent", "check"]
        ]
        if len(found) != 1:
            wrong.append(f"{each.title}: {len(found)} init containers run the check")
        for one in found:
            for key in ("image", "env", "envFrom", "volumeMounts"):
                if one.get(key) != each.container.get(key):
                    wrong.append(f"{each.title}: {key} of the check is not that of the agent")
            if one["resources"]["limits"]["memory"] != each.container["resources"]["limits"]["memory"]:
                wrong.append(f"{each.title}: the check has another limit of memory than the agent")
    return wrong


def drained(objects: list[Object]) -> list[str]:
    """A pod that is told to stop gets longer than its preStop and its --grace take together."""
    wrong = []
    for each in workloads(objects):
        pause = each.container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", ["sleep", "0"])
        grace = float(environment(objects, each.container).get("FEDHFT_GRACE", 10))
        if each.pod.get("terminationGracePeriodSeconds", 30) < float(pause[1]) + grace + 10:
            wrong.append(f"{each.title}: is killed before it has drained")
        if each.process is not None and "aggregator" in each.name and float(pause[1]) < 1:
            wrong.append(f"{each.title}: takes no calls any more while its address is still handed out")
    return wrong


def disruptable(objects: list[Object]) -> list[str]:
    """Every pod has one budget, and a node can be drained whatever it runs."""
    wrong = []
    for each in workloads(objects):
        found = [
            budget["spec"]
            for budget in of_kind(objects, "PodDisruptionBudget")
            if selects(budget["spec"]["selector"], each.labels)
        ]
        if len(found) != 1:
            wrong.append(f"{each.title}: {len(found)} budgets")
        for spec in found:
            if spec.get("maxUnavailable", 0) < 1 and spec.get("minAvailable", each.replicas) >= each.replicas:
                wrong.append(f"{each.title}: its budget blocks every drain")
    return wrong


def spread(objects: list[Object]) -> list[str]:
    """Replicas go to different nodes and zones where there are some, and run also where there are not."""
    wrong = []
    for each in workloads(objects):
        if each.object["kind"] != "Deployment":
            continue
        rules = each.pod.get("topologySpreadConstraints", [])
        if {rule["topologyKey"] for rule in rules} != {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}:
            wrong.append(f"{each.title}: is not spread over nodes and zones")
        for rule in rules:
            if rule["whenUnsatisfiable"] != "ScheduleAnyway" or not selects(rule["labelSelector"], each.labels):
                wrong.append(f"{each.title}: the spread over {rule['topologyKey']} is not about it, or blocks it")
    return wrong


def pinned(objects: list[Object]) -> list[str]:
    """Images have a tag; ours has this version."""
    wrong = []
    for each in workloads(objects):
        for container in each.containers:
            image, tag = re.fullmatch(r"(.*?)(?::([^:/]*))?", container["image"]).groups()  # type: ignore[union-attr]
            ours = container["name"] in PROCESSES
            if tag in (None, "latest") or (ours and tag != VERSION):
                wanted = VERSION if ours else "a version"
                wrong.append(f"{each.title}: the image {image} has the tag {tag}, not {wanted}")
    return wrong


def mounted(objects: list[Object]) -> list[str]:
    """Mounts have their volumes and the reverse; secrets are files that only the pod's group may read."""
    wrong = []
    for each in workloads(objects):
        volumes = {volume["name"]: volume for volume in each.pod.get("volumes", [])}
        claims = {claim["metadata"]["name"] for claim in each.object["spec"].get("volumeClaimTemplates", [])}
        mounts = {mount["name"]: mount for mount in each.container.get("volumeMounts", [])}
        if mounts.keys() != volumes.keys() | claims:
            wrong.append(f"{each.title}: mounts {sorted(mounts)} of the volumes {sorted(volumes.keys() | claims)}")
        for name, volume in volumes.items():
            if "secret" not in volume:
                continue
            if volume["secret"].get("defaultMode") != 0o440 or "fsGroup" not in each.pod["securityContext"]:
                wrong.append(f"{each.title}: {name} is not a file for the pod's group alone (0440 and fsGroup)")
            if mounts.get(name, {}).get("readOnly") is not True:
                wrong.append(f"{each.title}: {name} is not mounted read-only")
        for container in each.containers:
            sources = [
                *(entry for entry in container.get("env", []) if "secretKeyRef" in entry.get("valueFrom", {})),
                *(entry for entry in container.get("envFrom", []) if "secretRef" in entry),
            ]
            if sources:
                wrong.append(f"{each.title}: a secret in the environment")
    return wrong
