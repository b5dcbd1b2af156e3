"""Every rendering of deploy/k8s keeps every policy."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.deploy import object_policies, pod_policies, process_policies
from tests.deploy.objects import workloads
from tests.deploy.rendering import COMPONENTS, K8S, NAMES, OVERLAYS, Object, render

Policy = Callable[[list[Object]], list[str]]
POLICIES: tuple[Policy, ...] = (
    pod_policies.restricted,
    pod_policies.sized,
    pod_policies.probed,
    pod_policies.checked,
    pod_policies.drained,
    pod_policies.disruptable,
    pod_policies.spread,
    pod_policies.pinned,
    pod_policies.mounted,
    object_policies.labelled,
    object_policies.unmistakable,
    object_policies.discreet,
    object_policies.referenced,
    object_policies.connected,
    object_policies.monitored,
    object_policies.fenced,
    process_policies.configured,
    process_policies.certified,
)


@pytest.mark.parametrize("name", NAMES)
def test_a_rendering_keeps_every_policy(name: str) -> None:
    objects = render(name)
    assert workloads(objects)
    assert {policy.__name__: found for policy in POLICIES if (found := policy(objects))} == {}


def test_all_overlays_and_components_are_rendered() -> None:
    assert set(OVERLAYS) == {"dev", "edge", "prod"}
    assert {path.parent.name for path in K8S.glob("components/*/kustomization.yaml")} == set(COMPONENTS)
