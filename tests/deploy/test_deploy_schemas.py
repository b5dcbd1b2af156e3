"""Rendered objects against the schemas of Kubernetes, cert-manager, the Prometheus operator and Gateway API.

They come with the extra `deploy`, those of Gateway API from npm; without them these tests are skipped (`make
test-deploy` installs the extra).
"""

from __future__ import annotations

import functools
from typing import Any

import pytest

from tests.deploy.gateway_schemas import GROUP, gateway_faults
from tests.deploy.objects import find
from tests.deploy.rendering import NAMES, Object, render

pytest.importorskip("kubernetes_validate", reason="the schemas are in the extra `deploy`: run make test-deploy")
pytest.importorskip("cloudcoil", reason="the schemas are in the extra `deploy`: run make test-deploy")

VERSIONS = ("1.27", "1.31", "1.34")
"""Of Kubernetes: the oldest that docs/kubernetes.md promises, and later ones."""
ELSEWHERE = {"Gateway", "TLSRoute"}
"""Kinds of Gateway API, which a test of their own looks at. Anything else that has no schema fails the test."""


@functools.cache
def models() -> dict[str, Any]:
    """Modules with the kinds of each foreign group."""
    from cloudcoil.models.cert_manager import v1 as certificates
    from cloudcoil.models.prometheus_operator import v1 as monitors

    return {"cert-manager.io/v1": certificates, "monitoring.coreos.com/v1": monitors}


def faults(each: Object, version: str) -> str | None:
    """What is wrong with one object; None when nothing is, "no schema" when nobody knows."""
    import kubernetes_validate as validator
    from pydantic import ValidationError

    if each["apiVersion"] in models():
        try:
            model = getattr(models()[each["apiVersion"]], each["kind"]).model_validate(each)
        except (AttributeError, ValidationError) as error:
            return str(error)
        read = model.model_dump(by_alias=True, exclude_unset=True, mode="json")
        # The models pass over fields that they do not know, so these are missing from what was read.
        return None if read == each else f"fields that are not known: {each} was read as {read}"
    try:
        validator.validate(each, version, strict=True)
    except validator.SchemaNotFoundError:
        return "no schema"
    except validator.ValidationError as error:
        return str(error.message)
    return None


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_fits_its_schema(version: str) -> None:
    wrong: dict[str, str] = {}
    unknown: set[str] = set()
    seen: set[str] = set()
    for name in NAMES:
        for each in render(name):
            if (key := repr(each)) in seen:
                continue
            seen.add(key)
            fault = faults(each, version)
            if fault == "no schema":
                unknown.add(each["kind"])
            elif fault is not None:
                wrong[f"{name}: {each['kind']} {each['metadata']['name']}"] = fault
    assert wrong == {}
    assert unknown == ELSEWHERE


def gateway_objects() -> list[Object]:
    """Those of the component that has some."""
    return [each for each in render("prod, gateway") if each["apiVersion"].startswith(GROUP)]


def test_every_object_of_gateway_api_fits_its_types_and_its_schema() -> None:
    objects = gateway_objects()
    assert {each["kind"] for each in objects} == ELSEWHERE
    assert gateway_faults(objects) == [None] * len(objects)


MISTAKES: list[tuple[str, str, str, object, str]] = [
    ("TLSRoute", "spec", "hostname", ["aggregator.fedhft.example"], '"hostname"\' does not exist'),
    ("TLSRoute", "spec", "hostnames", ["Aggregator_1"], "hostnames/0 must match pattern"),
    ("TLSRoute", "spec.rules.0.backendRefs.0", "port", 500511, "port must be <= 65535"),
    ("TLSRoute", "spec.rules.0.backendRefs.0", "services", "x", '"services"\' does not exist'),
    ("TLSRoute", "spec.parentRefs.0", "section", "agents", '"section"\' does not exist'),
    ("Gateway", "spec", "gatewayClass", "example", '"gatewayClass"\' does not exist'),
    ("Gateway", "spec", "gatewayClassName", None, "gatewayClassName"),
    ("Gateway", "spec.listeners.0", "protocol", "TLS passthrough", "protocol must match pattern"),
    ("Gateway", "spec.listeners.0.tls", "mode", "Passthru", "tls/mode must be equal to one of"),
    ("Gateway", "spec.listeners.0.allowedRoutes.namespaces", "from", "Here", "namespaces/from must be equal to one of"),
]
"""Kind, place, field, what it becomes (None: it goes), and what is said of it."""


def broken(kind: str, at: str, name: str, value: object) -> Object:
    """An object with one mistake in it."""
    (each,) = [one for one in gateway_objects() if one["kind"] == kind]
    place: Any = each
    for part in at.split("."):
        place = place[int(part)] if isinstance(place, list) else place[part]
    if value is None:
        del place[name]
    else:
        place[name] = value
    return each


def test_every_mistake_in_an_object_of_gateway_api_is_found() -> None:
    """All in one go, since a compiler takes its time to start."""
    faults = gateway_faults([broken(*mistake) for *mistake, _ in MISTAKES])
    assert [fault for fault, (*_, said) in zip(faults, MISTAKES, strict=True) if said not in str(fault)] == []


def test_a_version_of_gateway_api_that_has_no_such_kind_is_told() -> None:
    (each,) = [one for one in gateway_objects() if one["kind"] == "TLSRoute"]
    (fault,) = gateway_faults([each | {"apiVersion": f"{GROUP}/v9"}])
    assert fault is not None
    assert f"has no TLSRoute of {GROUP}/v9" in fault


@pytest.mark.parametrize(
    ("kind", "name", "old", "new"),
    [
        ("Deployment", "fedhft-aggregator", "replicas", "replica"),
        ("NetworkPolicy", "fedhft-redis", "policyTypes", "policyType"),
        ("Certificate", "fedhft-clusterer", "dnsNames", "dnsName"),
        ("Certificate", "fedhft-clusterer", "issuerRef", "issuer"),
        ("PodMonitor", "fedhft", "jobLabel", "joblabel"),
    ],
)
def test_a_field_that_is_spelt_wrong_is_found(kind: str, name: str, old: str, new: str) -> None:
    each = find(render("prod"), kind, name)
    assert faults(each, VERSIONS[-1]) is None
    each["spec"][new] = each["spec"].pop(old)
    assert faults(each, VERSIONS[-1]) not in (None, "no schema")


def test_a_kind_that_nobody_knows_is_told_apart_from_one_that_fits() -> None:
    assert faults({"apiVersion": "v1", "kind": "Pot", "metadata": {"name": "x"}}, VERSIONS[-1]) == "no schema"
