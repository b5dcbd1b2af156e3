"""Rendered objects against the schemas of Kubernetes, cert-manager and the Prometheus operator.

They come with the extra `deploy`; without it these tests are skipped (`make test-deploy` installs it).
"""

from __future__ import annotations

import functools
from typing import Any

import pytest

from tests.deploy.objects import find
from tests.deploy.rendering import NAMES, Object, render

pytest.importorskip("kubernetes_validate", reason="the schemas are in the extra `deploy`: run make test-deploy")
pytest.importorskip("cloudcoil", reason="the schemas are in the extra `deploy`: run make test-deploy")

VERSIONS = ("1.27", "1.31", "1.34")
"""Of Kubernetes: the oldest that docs/kubernetes.md promises, and later ones."""
WITHOUT_SCHEMA = {"Gateway", "TLSRoute"}
"""No package has those of Gateway API. Anything else that has no schema fails the test."""


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
    assert unknown == WITHOUT_SCHEMA


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
