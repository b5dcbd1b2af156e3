"""Series are declared with the processes that expose them, and that is true."""

from __future__ import annotations

import ast
import functools

import pytest
from prometheus_client import Counter, Gauge, Histogram

from fedhft.errors import ErrorCode
from fedhft.telemetry import federations, metrics
from fedhft.telemetry.registry import EXPOSED_BY, PAGES, Process
from tests.unit.test_house import MODULES, imports, tree

PACKAGES = {
    Process.AGGREGATOR: "fedhft_aggregator",
    Process.CLUSTERER: "fedhft_clusterer",
    Process.AGENT: "fedhft_agent",
}
DECLARED = {name: value for name, value in vars(metrics).items() if any(value is declared for declared in EXPOSED_BY)}
FORBIDDEN = {"job", "instance", "client"}
"""Labels: Prometheus' own, and what would make a series for every client."""


@functools.cache
def reached(process: Process) -> frozenset[str]:
    """Modules that a process can import."""
    seen: set[str] = set()
    todo = [name for name in MODULES if name.split(".")[0] == PACKAGES[process]]
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo += [target for target in imports(name) if target in MODULES]
    return frozenset(seen)


@functools.cache
def users(variable: str) -> frozenset[str]:
    """Modules that touch `metrics.VARIABLE`, or, where they are declared, give it a function."""
    found = set()
    for name in MODULES:
        for node in ast.walk(tree(name)):
            if isinstance(node, ast.Attribute) and node.attr == variable and isinstance(node.value, ast.Name):
                found |= {name} if node.value.id == "metrics" else set()
            if isinstance(node, ast.Attribute) and node.attr == "set_function" and isinstance(node.value, ast.Name):
                found |= {name} if node.value.id == variable else set()
    return frozenset(found)


@pytest.mark.parametrize("variable", sorted(DECLARED.keys() - {"BUILD_INFO"}))
def test_a_series_is_set_by_code_of_every_process_that_exposes_it(variable: str) -> None:
    for process in EXPOSED_BY[DECLARED[variable]]:
        # Listing a family for dropping it is not setting it.
        assert users(variable) & reached(process) - {federations.__name__}, f"nothing in the {process} sets it"


@pytest.mark.parametrize("variable", sorted(DECLARED))
def test_no_label_is_prometheus_own_or_a_client(variable: str) -> None:
    assert not FORBIDDEN & set(getattr(DECLARED[variable], "_labelnames", ()))


def test_what_agents_count_themselves_has_a_name_of_its_own() -> None:
    for process, registry in PAGES.items():
        for family in registry.collect():
            if family.name.startswith("fedhft_agent_"):
                assert process is Process.AGENT, family.name
    shared = {"fedhft_build", "fedhft_process_peak_memory_bytes", "fedhft_process_memory_limit_bytes"}
    agents = {family.name for family in PAGES[Process.AGENT].collect() if family.name.startswith("fedhft_")}
    assert {name for name in agents if not name.startswith("fedhft_agent_")} == shared


def test_label_values_that_are_known_are_there_at_zero() -> None:
    federations.begin("known", ["small"])
    try:
        for variable, family in DECLARED.items():
            if isinstance(family, Counter | Gauge | Histogram) and family not in _COME_WITH_THE_FIRST:
                assert list(family._metrics) if family._labelnames else True, f"{variable} has no series"
    finally:
        federations.drop("known")


_COME_WITH_THE_FIRST = {
    metrics.RPC_SECONDS,
    metrics.RPCS_IN_FLIGHT,
    metrics.CLUSTER_CLIENTS,
    metrics.CLUSTER_CONFIDENCE,
    metrics.MEMBERSHIPS_VERSION,
    metrics.AGENT_PAYLOAD_BYTES,
    metrics.AGENT_STEP_SECONDS,
    metrics.STORE_AOF_STATE,
    *federations.HOLDERS,
}


def test_refusals_for_what_an_update_holds_are_error_codes() -> None:
    assert set(federations.CONTENT_CODES) <= {code.value for code in ErrorCode}
