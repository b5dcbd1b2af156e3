"""Every policy finds what it is there for: a rendering with one thing broken, and what is said of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.deploy import object_policies, pod_policies, process_policies
from tests.deploy.objects import find
from tests.deploy.rendering import Object, render
from tests.deploy.test_deploy_policies import POLICIES, Policy

Break = Callable[[list[Object]], object]
DEPLOYMENT = ("Deployment", "fedhft-aggregator")
POD = "spec.template.spec"
CONTAINER = f"{POD}.containers.0"


def put(kind: str, name: str, path: str, value: object) -> Break:
    """Set one field of one object; None takes it away."""

    def change(objects: list[Object]) -> None:
        *parents, last = path.split(".")
        at: Any = find(objects, kind, name)
        for part in parents:
            at = at[int(part)] if isinstance(at, list) else at.setdefault(part.replace("~", "."), {})
        key: Any = int(last) if isinstance(at, list) else last.replace("~", ".")
        if value is None:
            del at[key]
        else:
            at[key] = value

    return change


def drop(kind: str, name: str) -> Break:
    """Take one object away."""
    return lambda objects: objects.remove(find(objects, kind, name))


def pod(path: str, value: object) -> Break:
    """Set one field of the aggregator's pods."""
    return put(*DEPLOYMENT, f"{POD}.{path}", value)


def container(path: str, value: object) -> Break:
    """Set one field of the aggregator's container."""
    return put(*DEPLOYMENT, f"{CONTAINER}.{path}", value)


def agent_pod(path: str, value: object) -> Break:
    """Set one field of the agent's pods."""
    return put("StatefulSet", "fedhft-agent", f"{POD}.{path}", value)


def setting(name: str, value: str | None, of: str = "aggregator") -> Break:
    """Set one variable of a process."""
    return put("ConfigMap", f"fedhft-{of}", f"data.{name}", value)


COMPONENT = "app~kubernetes~io/component"
BROKEN: list[tuple[Policy, str, Break, str]] = [
    (pod_policies.restricted, "prod", pod("securityContext.runAsNonRoot", None), "may run as root"),
    (pod_policies.restricted, "prod", pod("securityContext.runAsUser", 0), "may run as root"),
    (pod_policies.restricted, "prod", pod("securityContext.runAsUser", 10002), "another user than its image"),
    (pod_policies.restricted, "prod", pod("securityContext.seccompProfile", None), "no seccomp profile"),
    (pod_policies.restricted, "prod", pod("automountServiceAccountToken", True), "mounts a token"),
    (pod_policies.restricted, "prod", pod("enableServiceLinks", None), "variables of the namespace's Services"),
    (pod_policies.restricted, "prod", pod("hostNetwork", True), "hostNetwork"),
    (pod_policies.restricted, "prod", pod("volumes.0", {"name": "x", "hostPath": {"path": "/"}}), "hostPath"),
    (pod_policies.restricted, "prod", container("ports.0.hostPort", 50051), "hostPort"),
    (pod_policies.restricted, "prod", container("securityContext.readOnlyRootFilesystem", False), "writable root"),
    (pod_policies.restricted, "prod", container("securityContext.capabilities.add", ["NET_RAW"]), "other than none"),
    (pod_policies.restricted, "prod", container("securityContext.allowPrivilegeEscalation", None), "may grow"),
    (
        pod_policies.restricted,
        "prod",
        put("ServiceAccount", "fedhft-redis", "automountServiceAccountToken", None),
        "ServiceAccount fedhft-redis: mounts its token",
    ),
    (
        pod_policies.restricted,
        "prod",
        put("Namespace", "fedhft", "metadata.labels.pod-security~kubernetes~io/enforce", "baseline"),
        "does not enforce",
    ),
    (pod_policies.sized, "prod", container("resources.limits.memory", None), "memory has no request or no limit"),
    (pod_policies.sized, "prod", container("resources.requests.cpu", "5"), "requests more cpu"),
    (pod_policies.sized, "edge", setting("FEDHFT_MEMORY", "4GiB", "agent"), "leaves no room"),
    (
        pod_policies.sized,
        "prod",
        put("StatefulSet", "fedhft-redis", f"{CONTAINER}.env.0.value", "5gb"),
        "more than half of the limit",
    ),
    (pod_policies.sized, "prod", pod("volumes.1", {"name": "tmp", "emptyDir": {}}), "no sizeLimit"),
    (pod_policies.probed, "prod", container("readinessProbe", None), "readinessProbe is missing"),
    (pod_policies.probed, "prod", container("livenessProbe.httpGet.path", "/readyz"), "does not ask /healthz"),
    (pod_policies.probed, "prod", container("startupProbe.httpGet.port", "pages"), "asks a port that is not there"),
    (pod_policies.checked, "edge", agent_pod("initContainers", None), "0 init containers run the check"),
    (pod_policies.checked, "edge", agent_pod("initContainers.0.image", "other:1"), "image of the check"),
    (pod_policies.checked, "edge", agent_pod("initContainers.0.volumeMounts.0", None), "volumeMounts of the check"),
    (
        pod_policies.checked,
        "edge",
        agent_pod("initContainers.0.resources.limits.memory", "1Gi"),
        "another limit of memory than the agent",
    ),
    (pod_policies.drained, "prod", pod("terminationGracePeriodSeconds", 30), "is killed before it has drained"),
    (pod_policies.drained, "prod", setting("FEDHFT_GRACE", "60"), "is killed before it has drained"),
    (pod_policies.drained, "prod", container("lifecycle", None), "while its address is still handed out"),
    (
        pod_policies.disruptable,
        "prod",
        drop("PodDisruptionBudget", "fedhft-redis"),
        "StatefulSet fedhft-redis: 0 budgets",
    ),
    (
        pod_policies.disruptable,
        "prod",
        put("PodDisruptionBudget", "fedhft-redis", "spec", {"minAvailable": 1, "selector": {"matchLabels": {}}}),
        "its budget blocks every drain",
    ),
    (pod_policies.spread, "prod", pod("topologySpreadConstraints.1", None), "is not spread over nodes and zones"),
    (
        pod_policies.spread,
        "prod",
        pod("topologySpreadConstraints.0.whenUnsatisfiable", "DoNotSchedule"),
        "is not about it, or blocks it",
    ),
    (pod_policies.pinned, "prod", container("image", "fedhft-aggregator:latest"), "has the tag latest"),
    (pod_policies.pinned, "prod", container("image", "registry.example:5000/fedhft-aggregator"), "has the tag None"),
    (pod_policies.mounted, "prod", container("volumeMounts.0", None), "mounts ['secrets', 'tmp'] of the volumes"),
    (pod_policies.mounted, "prod", pod("volumes.0.secret.defaultMode", 0o444), "for the pod's group alone"),
    (
        pod_policies.mounted,
        "prod",
        container("env", [{"name": "FEDHFT_REDIS", "valueFrom": {"secretKeyRef": {"name": "fedhft-redis"}}}]),
        "a secret in the environment",
    ),
    (
        object_policies.labelled,
        "prod",
        put("Certificate", "fedhft-clusterer", "metadata.labels", {}),
        "no label part-of",
    ),
    (
        object_policies.labelled,
        "prod",
        put(*DEPLOYMENT, "spec.selector.matchLabels.app~kubernetes~io/version", "0.1.0"),
        "selects by other labels",
    ),
    (
        object_policies.labelled,
        "prod",
        put(*DEPLOYMENT, f"spec.selector.matchLabels.{COMPONENT}", "clusterer"),
        "its selector takes in ['fedhft-clusterer']",
    ),
    (
        object_policies.labelled,
        "prod",
        put("Service", "fedhft-redis", "spec.selector", {"app.kubernetes.io/part-of": "fedhft"}),
        "Service fedhft-redis: selects the pods of",
    ),
    (
        object_policies.labelled,
        "prod",
        put("Service", "fedhft-redis", "spec.ports.0.targetPort", "store"),
        "port 6379 leads nowhere",
    ),
    (
        object_policies.unmistakable,
        "prod",
        put("Service", "fedhft-redis", "metadata.name", "fedhft-metrics"),
        "makes the variable FEDHFT_METRICS_PORT",
    ),
    (object_policies.discreet, "prod", setting("FEDHFT_REDIS", "redis://:word@redis:6379/0"), "FEDHFT_REDIS: a secret"),
    (
        object_policies.discreet,
        "prod",
        put("ConfigMap", "fedhft-redis", "data", {"redis.conf": "port 6379\nrequirepass word\n"}),
        "redis.conf: a secret",
    ),
    (
        object_policies.discreet,
        "prod",
        put("StatefulSet", "fedhft-redis", f"{CONTAINER}.args", ["--requirepass", "word"]),
        "args: a secret",
    ),
    (object_policies.discreet, "prod", setting("HF_TOKEN", "hf_word"), "HF_TOKEN: a secret"),
    (object_policies.referenced, "prod", pod("serviceAccountName", "fedhft"), "no ServiceAccount fedhft"),
    (object_policies.referenced, "prod", pod("volumes.0.secret.secretName", "redis"), "no Secret redis"),
    (object_policies.referenced, "prod", container("envFrom.0.configMapRef.name", "fedhft-aggregator"), "no ConfigMap"),
    (
        object_policies.referenced,
        "prod, blobs-pvc",
        drop("PersistentVolumeClaim", "fedhft-blobs"),
        "no PersistentVolumeClaim fedhft-blobs",
    ),
    (object_policies.referenced, "prod", drop("Certificate", "fedhft-authority"), "no Secret fedhft-authority"),
    (object_policies.referenced, "prod", drop("Issuer", "fedhft-authority"), "no Issuer fedhft-authority"),
    (object_policies.referenced, "prod, gateway", drop("Gateway", "fedhft"), "no Gateway fedhft"),
    (
        object_policies.referenced,
        "prod, hpa",
        put("HorizontalPodAutoscaler", "fedhft-aggregator", "spec.scaleTargetRef.kind", "StatefulSet"),
        "no StatefulSet fedhft-aggregator",
    ),
    (
        object_policies.connected,
        "prod, ingress-passthrough",
        put("Service", "fedhft-aggregator", "spec.ports.0.name", "rpc"),
        "fedhft-aggregator:grpc leads nowhere",
    ),
    (object_policies.connected, "prod", setting("FEDHFT_CLUSTERER", "fedhft-clusterer:50051"), "leads nowhere"),
    (object_policies.connected, "prod, agent", drop("Service", "fedhft-aggregator-pods"), "FEDHFT_SERVER = "),
    (
        object_policies.monitored,
        "prod",
        put("PodMonitor", "fedhft", "spec.podMetricsEndpoints.0.port", "pages"),
        "no port pages in",
    ),
    (
        object_policies.monitored,
        "prod",
        put("PodMonitor", "fedhft", f"spec.selector.matchLabels.{COMPONENT}", "clusterer"),
        "Deployment fedhft-aggregator: nobody scrapes it",
    ),
    (object_policies.fenced, "prod", drop("NetworkPolicy", "fedhft-deny-all"), "nothing denies it everything"),
    (object_policies.fenced, "prod", drop("NetworkPolicy", "fedhft-redis"), "no policy of its own"),
    (
        object_policies.fenced,
        "prod",
        put("NetworkPolicy", "fedhft-clusterer", "spec.ingress.0.ports.0.port", "rpc"),
        "fedhft-clusterer has no port rpc",
    ),
    (
        object_policies.fenced,
        "prod",
        put("NetworkPolicy", "fedhft-clusterer", "spec.egress.0", None),
        "clusterer cannot reach redis",
    ),
    (
        object_policies.fenced,
        "prod, agent",
        put("NetworkPolicy", "fedhft-redis", "spec.ingress.0.from.0.podSelector", {}),
        "redis lets agent in",
    ),
    (process_policies.configured, "prod", setting("FEDHFT_GRACES", "5"), "FEDHFT_GRACES is no setting"),
    (process_policies.configured, "prod", setting("FEDHFT_GRACE", "long"), "is not a number"),
    (process_policies.configured, "prod", setting("FEDHFT_LISTEN", "50051"), "is not an address"),
    (process_policies.configured, "prod", setting("FEDHFT_LISTEN", "127.0.0.1:50051"), "the port grpc is not what"),
    (process_policies.configured, "prod", setting("FEDHFT_METRICS_PORT", "9100"), "the port metrics is not what"),
    (process_policies.configured, "prod", setting("FEDHFT_TLS_KEY", "/run/tls.key"), "/run/tls.key is not mounted"),
    (
        process_policies.configured,
        "prod",
        setting("FEDHFT_BLOBS", "dir:/var/blobs"),
        "is not on a volume that it may write",
    ),
    (process_policies.configured, "prod", container("args", ["--secret-dir", "/run"]), "there is no flag --secret-dir"),
    (process_policies.configured, "prod", container("args", []), "has no Redis of its own"),
    (
        process_policies.configured,
        "prod",
        pod("volumes.1.secret.items.0.path", "fedhft_redis_url"),
        "the file fedhft_redis_url is no setting",
    ),
    (
        process_policies.certified,
        "prod",
        put("Certificate", "fedhft-aggregator", "spec.uris", ["spiffe://fedhft.example/server"]),
        "is not one identity",
    ),
    (
        process_policies.certified,
        "prod",
        put("Certificate", "fedhft-aggregator", "spec.uris", ["spiffe://else.example/aggregator"]),
        "more than one trust domain",
    ),
    (
        process_policies.certified,
        "prod",
        put("Certificate", "fedhft-clusterer", "spec.usages", ["server auth", "client auth"]),
        "are not the usages of clusterer",
    ),
    (
        process_policies.certified,
        "prod",
        put("Certificate", "fedhft-operator-ops", "spec.dnsNames", ["fedhft-aggregator"]),
        "could pass for a server",
    ),
    (
        process_policies.certified,
        "prod",
        put("Certificate", "fedhft-clusterer", "spec.dnsNames", ["clusterer"]),
        "others call it fedhft-clusterer",
    ),
    (
        process_policies.certified,
        "prod, gateway",
        put("TLSRoute", "fedhft-aggregator", "spec.hostnames", ["agg.fedhft.example"]),
        "others call it agg.fedhft.example",
    ),
]


@pytest.mark.parametrize(("policy", "name", "change", "said"), BROKEN, ids=[f"{b[0].__name__}: {b[3]}" for b in BROKEN])
def test_a_broken_rendering_is_found(policy: Policy, name: str, change: Break, said: str) -> None:
    objects = render(name)
    change(objects)
    assert said in "\n".join(policy(objects))


def test_every_policy_was_seen_to_find_something() -> None:
    assert {policy for policy, *_ in BROKEN} == set(POLICIES)
