"""What must hold between objects. Each policy takes rendered objects and returns what is wrong, one line each."""

from __future__ import annotations

import re
from collections.abc import Iterator

from fedhft.process.settings import variable_of
from tests.deploy.objects import (
    PROCESSES,
    Workload,
    config_values,
    environment,
    of_kind,
    selects,
    workloads,
)
from tests.deploy.rendering import Object

SUPPLIED = {
    ("Secret", "fedhft-redis"),
    ("Secret", "fedhft-aggregator-tls"),
    ("Secret", "fedhft-clusterer-tls"),
    ("Secret", "fedhft-agent-tls"),
    ("PersistentVolumeClaim", "fedhft-agent-data"),
}
"""What people supply themselves; docs/kubernetes.md says how."""
STABLE = {"app.kubernetes.io/name", "app.kubernetes.io/component"}
"""Labels that selectors may use. The selector of a Deployment cannot be changed, so it must not name a version."""


def labelled(objects: list[Object]) -> list[str]:
    """Every object says that it belongs to fedhft; selectors are stable, and take in exactly their own pods."""
    wrong = []
    for each in objects:
        if each["metadata"].get("labels", {}).get("app.kubernetes.io/part-of") != "fedhft":
            wrong.append(f"{each['kind']} {each['metadata']['name']}: no label part-of")
    for each in workloads(objects):
        selector = each.object["spec"]["selector"]
        if selector.keys() != {"matchLabels"} or selector["matchLabels"].keys() != STABLE:
            wrong.append(f"{each.title}: selects by other labels than {sorted(STABLE)}")
        taken = [other.name for other in workloads(objects) if selects(selector, other.labels)]
        if taken != [each.name]:
            wrong.append(f"{each.title}: its selector takes in {taken}")
        if each.labels.get("app.kubernetes.io/part-of") != "fedhft":
            wrong.append(f"{each.title}: its pods have no label part-of")
    for service in of_kind(objects, "Service"):
        selector = {"matchLabels": service["spec"]["selector"]}
        taken = [each for each in workloads(objects) if selects(selector, each.labels)]
        title = f"Service {service['metadata']['name']}"
        if len(taken) != 1:
            wrong.append(f"{title}: selects the pods of {[each.name for each in taken]}")
        for port in service["spec"]["ports"]:
            if taken and taken[0].ports.get(port["targetPort"]) != port["port"]:
                wrong.append(f"{title}: port {port['port']} leads nowhere")
    return wrong


def unmistakable(objects: list[Object]) -> list[str]:
    """No Service has a name from which Kubernetes makes a variable that is a setting of ours."""
    settings = {variable_of(name) for kind, _ in PROCESSES.values() for name in kind.model_fields}
    wrong = []
    for service in of_kind(objects, "Service"):
        stem = service["metadata"]["name"].upper().replace("-", "_")
        made = {f"{stem}_{end}" for end in ("SERVICE_HOST", "SERVICE_PORT", "PORT")}
        for port in service["spec"]["ports"]:
            made.add(f"{stem}_SERVICE_PORT_{port['name'].upper().replace('-', '_')}")
            made |= {f"{stem}_PORT_{port['port']}_TCP{end}" for end in ("", "_PROTO", "_PORT", "_ADDR")}
        title = f"Service {service['metadata']['name']}"
        wrong += [f"{title}: makes the variable {name}" for name in sorted(made & settings)]
    return wrong


def discreet(objects: list[Object]) -> list[str]:
    """No ConfigMap and no literal variable has a password, a token or a key in it."""
    told = [*config_values(objects)]
    for each in workloads(objects):
        for container in each.containers:
            told += [(each.title, entry["name"], str(entry.get("value", ""))) for entry in container.get("env", [])]
            told += [(each.title, "args", " ".join([*container.get("command", []), *container.get("args", [])]))]
    marks = r"PRIVATE KEY|://[^/\s]*:[^/\s]*@|^ *(requirepass|masterauth|user) +\S+|--requirepass +\S+"
    wrong = [f"{where}, {key}: a secret" for where, key, value in told if re.search(marks, value, re.M)]
    for where, key, value in told:
        if re.search(r"PASSWORD|TOKEN|SECRET$|_KEY$", key, re.I) and value and not value.startswith("/"):
            wrong.append(f"{where}, {key}: a secret")
    return wrong


def referenced(objects: list[Object]) -> list[str]:
    """Whatever an object names exists, or is among what people supply."""
    made = {(each["kind"], each["metadata"]["name"]) for each in objects}
    made |= {("Secret", each["spec"]["secretName"]) for each in of_kind(objects, "Certificate")}
    return [
        f"{title}: there is no {kind} {name}"
        for title, kind, name in _references(objects)
        if (kind, name) not in made | SUPPLIED
    ]


def _references(objects: list[Object]) -> Iterator[tuple[str, str, str]]:
    for each in workloads(objects):
        yield each.title, "ServiceAccount", each.pod["serviceAccountName"]
        if "serviceName" in each.object["spec"]:
            yield each.title, "Service", each.object["spec"]["serviceName"]
        for volume in each.pod.get("volumes", []):
            if "secret" in volume:
                yield each.title, "Secret", volume["secret"]["secretName"]
            if "configMap" in volume:
                yield each.title, "ConfigMap", volume["configMap"]["name"]
            if "persistentVolumeClaim" in volume:
                yield each.title, "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]
        for container in each.containers:
            for source in container.get("envFrom", []):
                yield each.title, "ConfigMap", source["configMapRef"]["name"]
    for each in objects:
        title, spec = f"{each['kind']} {each['metadata']['name']}", each.get("spec", {})
        if each["kind"] == "HorizontalPodAutoscaler":
            yield title, spec["scaleTargetRef"]["kind"], spec["scaleTargetRef"]["name"]
        if each["kind"] == "Certificate":
            yield title, spec["issuerRef"]["kind"], spec["issuerRef"]["name"]
        if each["kind"] == "Issuer" and "ca" in spec:
            yield title, "Secret", spec["ca"]["secretName"]
        if each["kind"] == "TLSRoute":
            yield from ((title, "Gateway", parent["name"]) for parent in spec["parentRefs"])
        yield from ((title, "Service", name) for name, _ in backends(each))


def backends(each: Object) -> list[tuple[str, str | int]]:
    """(Service, port) that an Ingress or a TLSRoute hands connections to."""
    if each["kind"] == "TLSRoute":
        return [(ref["name"], ref["port"]) for rule in each["spec"]["rules"] for ref in rule["backendRefs"]]
    if each["kind"] == "Ingress":
        paths = [path for rule in each["spec"]["rules"] for path in rule["http"]["paths"]]
        found = [path["backend"]["service"] for path in paths]
        return [(service["name"], next(iter(service["port"].values()))) for service in found]
    return []


def connected(objects: list[Object]) -> list[str]:
    """Addresses in settings, and what stands in front, lead to a port of a Service that is there."""
    ports: dict[str, set[str | int]] = {}
    for service in of_kind(objects, "Service"):
        ports[service["metadata"]["name"]] = {p[key] for p in service["spec"]["ports"] for key in ("name", "port")}
    wrong = []
    for each in objects:
        for name, port in backends(each):
            if port not in ports.get(name, set()):
                wrong.append(f"{each['kind']} {each['metadata']['name']}: {name}:{port} leads nowhere")
    for each in workloads(objects):
        variables = environment(objects, each.container)
        for variable in ("FEDHFT_CLUSTERER", "FEDHFT_SERVER"):
            host, _, port = variables.get(variable, "").rpartition(":")
            if host and "." not in host and int(port) not in ports.get(host, set()):
                wrong.append(f"{each.title}: {variable} = {host}:{port} leads nowhere")
    return wrong


def monitored(objects: list[Object]) -> list[str]:
    """Where there are monitors, every process of ours is scraped, at a port that it has."""
    monitors = of_kind(objects, "PodMonitor", "ServiceMonitor")
    wrong, scraped = [], set()
    for monitor in monitors:
        spec, title = monitor["spec"], f"{monitor['kind']} {monitor['metadata']['name']}"
        taken = [each for each in workloads(objects) if selects(spec["selector"], each.labels)]
        for endpoint in spec.get("podMetricsEndpoints") or spec.get("endpoints") or [{}]:
            missing = [each.name for each in taken if endpoint.get("port") not in each.ports]
            if missing or not taken or endpoint.get("path", "/metrics") != "/metrics":
                wrong.append(f"{title}: no port {endpoint.get('port')} in {missing or 'any pod'}")
        scraped |= {each.name for each in taken}
    for each in workloads(objects):
        if monitors and each.process is not None and each.name not in scraped:
            wrong.append(f"{each.title}: nobody scrapes it")
    return wrong


def fenced(objects: list[Object]) -> list[str]:
    """Where there are network policies, every pod is denied everything but what is allowed, and what is needed is."""
    policies = of_kind(objects, "NetworkPolicy")
    if not policies:
        return []
    wrong = []
    for each in workloads(objects):
        mine = [policy for policy in policies if selects(policy["spec"]["podSelector"], each.labels)]
        closed = [p for p in mine if not p["spec"].get("ingress") and not p["spec"].get("egress")]
        if not any(set(policy["spec"]["policyTypes"]) == {"Ingress", "Egress"} for policy in closed):
            wrong.append(f"{each.title}: nothing denies it everything")
        if each.name not in {policy["metadata"]["name"] for policy in mine}:
            wrong.append(f"{each.title}: no policy of its own")
        for policy in mine:
            for rule in policy["spec"].get("ingress", []):
                named = [port["port"] for port in rule.get("ports", []) if port["port"] not in each.ports]
                wrong += [f"{policy['metadata']['name']}: {each.name} has no port {port}" for port in named]
    pods = {each.name.removeprefix("fedhft-"): each for each in workloads(objects)}
    for source, target, port in (
        ("aggregator", "redis", "redis"),
        ("clusterer", "redis", "redis"),
        ("aggregator", "clusterer", "grpc"),
        ("agent", "aggregator", "grpc"),
    ):
        if source in pods and target in pods and not _allowed(policies, pods[source], pods[target], port):
            wrong.append(f"{source} cannot reach {target}")
    for source, target, port in (("agent", "redis", "redis"), ("agent", "clusterer", "grpc")):
        if source in pods and target in pods:
            ends = (pods[target], pods[source], pods[target])
            if _open(policies, "ingress", "from", *ends, port):
                wrong.append(f"{target} lets {source} in")
    return wrong


def _allowed(policies: list[Object], source: Workload, target: Workload, port: str) -> bool:
    return _open(policies, "egress", "to", source, target, target, port) and _open(
        policies, "ingress", "from", target, source, target, port
    )


def _open(
    policies: list[Object], way: str, side: str, at: Workload, other: Workload, server: Workload, port: str
) -> bool:
    """Whether a rule at one end lets the connection through."""
    for policy in policies:
        if not selects(policy["spec"]["podSelector"], at.labels):
            continue
        for rule in policy["spec"].get(way, []):
            ports = {entry["port"] for entry in rule.get("ports", [])}
            peers = rule.get(side, [])
            reaches = not peers or any(
                "podSelector" in peer and "namespaceSelector" not in peer and selects(peer["podSelector"], other.labels)
                for peer in peers
            )
            if reaches and (not ports or ports & {port, server.ports[port]}):
                return True
    return False
