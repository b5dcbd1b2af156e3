"""What must hold of our processes: their settings, read as they read them, and who may call them."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

from fedhft.errors import FedhftError
from fedhft.identity import Identity, Role, parse_identity
from fedhft.process.options import options_of, read_settings
from fedhft.process.settings import ServiceSettings, variable_of
from fedhft.rpc.address import is_loopback, parse_address
from tests.deploy.objects import Workload, environment, of_kind, workloads
from tests.deploy.rendering import Object

USAGES = {
    Role.AGENT: {"client auth"},
    Role.OPERATOR: {"client auth"},
    Role.CLUSTERER: {"server auth"},
    Role.AGGREGATOR: {"server auth", "client auth"},
}
"""As certs/x509.py issues them."""


def configured(objects: list[Object]) -> list[str]:
    """Every variable, flag and secret file is a setting of the process that gets it, with a value that it takes."""
    wrong = []
    for each in workloads(objects):
        if each.process is None:
            continue
        known = {variable_of(name) for name in each.process.model_fields}
        variables = environment(objects, each.container)
        wrong += [f"{each.title}: {name} is no setting" for name in sorted(variables.keys() - known)]
        flags = {option.flag for option in options_of(each.process)}
        given = [word for word in each.container.get("args", []) if word.startswith("--")]
        wrong += [f"{each.title}: there is no flag {word}" for word in given if word.partition("=")[0] not in flags]
        settings, problem = settings_of(objects, each)
        if problem:
            wrong.append(f"{each.title}: {problem}")
            continue
        wrong += [f"{each.title}: {text}" for text in _unserved(each, settings)]
    return wrong


def settings_of(objects: list[Object], each: Workload) -> tuple[Any, str]:
    """The settings that a process would run with, or what it would say instead."""
    assert each.process is not None
    said = io.StringIO()
    with tempfile.TemporaryDirectory() as folder:
        arguments = [_beneath(folder, word) for word in each.container.get("args", [])]
        for path in secret_files(each):
            file = Path(_beneath(folder, path))
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("redis://:word@fedhft-redis:6379/0", encoding="utf-8")
        variables = patch.dict(os.environ, environment(objects, each.container), clear=True)
        with variables, contextlib.redirect_stderr(said):
            try:
                return read_settings(each.process, arguments), ""
            except FedhftError as error:
                return None, error.message
            except SystemExit:
                return None, said.getvalue().strip().splitlines()[-1]


def secret_files(each: Workload) -> list[str]:
    """Paths of the files of secrets, where the object says which keys it mounts; TLS files have their usual names."""
    mounts = {mount["name"]: mount["mountPath"] for mount in each.container.get("volumeMounts", [])}
    found = []
    for volume in each.pod.get("volumes", []):
        if "secret" in volume:
            usual = [{"path": name} for name in ("tls.crt", "tls.key", "ca.crt")]
            items = volume["secret"].get("items", usual)
            found += [f"{mounts.get(volume['name'], '')}/{item['path']}" for item in items]
    return found


def _beneath(folder: str, word: str) -> str:
    return folder + word if word.startswith("/") else word


def _unserved(each: Workload, settings: Any) -> list[str]:
    """Ports that settings and pod do not agree on; files that are not mounted."""
    wrong = []
    ports = {"metrics": (settings.metrics_host, settings.metrics_port)}
    if isinstance(settings, ServiceSettings):
        ports["grpc"] = parse_address(settings.listen, "listen")
        if settings.redis == type(settings).model_fields["redis"].default:
            wrong.append("has no Redis of its own to go to")
    for name, (host, port) in ports.items():
        if is_loopback(host) or each.ports.get(name) != port:
            wrong.append(f"the port {name} is not what it listens on ({host}:{port})")
    for path in (settings.tls_certificate, settings.tls_key, settings.tls_authority):
        if path is not None and str(path) not in secret_files(each):
            wrong.append(f"{path} is not mounted")
    roots = [mount["mountPath"] for mount in each.container["volumeMounts"] if not mount.get("readOnly")]
    blobs = getattr(settings, "blobs", "redis").removeprefix("dir:")
    for path in (str(getattr(settings, "state_dir", "") or ""), "" if blobs == "redis" else blobs):
        if path and not any(path == root or path.startswith(root + "/") for root in roots):
            wrong.append(f"{path} is not on a volume that it may write")
    return wrong


def unauthenticated(objects: list[Object]) -> list[str]:
    """Servers that take callers without a certificate, and agents that do not check their server."""
    wrong = []
    for each in workloads(objects):
        if each.process is None:
            continue
        settings, _ = settings_of(objects, each)
        serves = isinstance(settings, ServiceSettings)
        if settings is None or settings.tls_authority is None or (serves and settings.tls_certificate is None):
            wrong.append(each.name)
    return wrong


def certified(objects: list[Object]) -> list[str]:
    """Certificates say what our servers expect: an identity, the usages of its role, the names that others use."""
    wrong, domains = [], set()
    hosts_of = _hosts(objects)
    for each in of_kind(objects, "Certificate"):
        spec, title = each["spec"], f"Certificate {each['metadata']['name']}"
        if spec.get("isCA"):
            continue
        identity = _identity(spec)
        if identity is None:
            wrong.append(f"{title}: {spec.get('uris')} is not one identity")
            continue
        domains.add(identity.trust_domain)
        if {usage for usage in spec["usages"] if usage.endswith("auth")} != USAGES[identity.role]:
            wrong.append(f"{title}: {spec['usages']} are not the usages of {identity.role}")
        names = {*spec.get("dnsNames", []), *spec.get("ipAddresses", [])}
        if not identity.role.serves and names:
            wrong.append(f"{title}: could pass for a server")
        missing = sorted(hosts_of.get(identity.role, set()) - names) if identity.role.serves else []
        wrong += [f"{title}: others call it {name}, which it does not say" for name in missing]
    if len(domains) > 1:
        wrong.append(f"more than one trust domain: {sorted(domains)}")
    return wrong


def _identity(spec: Object) -> Identity | None:
    try:
        (uri,) = spec.get("uris", [])
        return parse_identity(uri)
    except (ValueError, FedhftError):
        return None


def _hosts(objects: list[Object]) -> dict[str, set[str]]:
    """Names under which each server is called, by role."""
    found: dict[str, set[str]] = {Role.AGGREGATOR: {"127.0.0.1"}, Role.CLUSTERER: set()}
    for each in workloads(objects):
        variables = environment(objects, each.container)
        for role, variable in ((Role.AGGREGATOR, "FEDHFT_SERVER"), (Role.CLUSTERER, "FEDHFT_CLUSTERER")):
            if variable in variables:
                found[role].add(variables[variable].rpartition(":")[0])
    for service in of_kind(objects, "Service"):
        role = service["spec"]["selector"]["app.kubernetes.io/component"]
        if role in found:
            found[role].add(service["metadata"]["name"])
            if "namespace" in service["metadata"]:
                found[role].add(f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc")
    for each in of_kind(objects, "Ingress"):
        found[Role.AGGREGATOR] |= {rule["host"] for rule in each["spec"]["rules"]}
    for each in of_kind(objects, "TLSRoute"):
        found[Role.AGGREGATOR] |= set(each["spec"]["hostnames"])
    return found
