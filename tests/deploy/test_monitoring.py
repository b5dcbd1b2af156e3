"""Rules, alerts and dashboards agree with the series there are, with each other and with their documents.

What needs the extra `deploy` is skipped without it (`make test-deploy` installs it). That everything has data is shown
by tests/system/test_prometheus.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from deploy.grafana.model import Query
from deploy.grafana.panels import DASHBOARDS, WITHOUT_PANEL
from deploy.prometheus import generate as rule_generator
from fedhft.telemetry import federations
from fedhft.telemetry.registry import EXPOSED_BY
from tests.deploy.objects import of_kind
from tests.deploy.rendering import render
from tests.unit.test_docs_links import anchors
from tests.unit.test_house import ROOT

DEPLOY = ROOT / "deploy"
RULES = yaml.safe_load((DEPLOY / "prometheus/rules.yaml").read_text(encoding="utf-8"))
RUNBOOK = ROOT / "docs/runbook-alerts.md"


def rules(kind: str) -> list[dict[str, Any]]:
    """The rules of a kind: alert or record."""
    return [rule for group in RULES["groups"] for rule in group["rules"] if kind in rule]


def queries() -> Iterator[tuple[str, Query]]:
    """Every query with the name of its panel."""
    for dashboard in DASHBOARDS:
        for panels in dashboard.rows.values():
            for panel in panels:
                for query in panel.queries:
                    yield f"{dashboard.uid}: {panel.title}", query


def concrete(expr: str) -> str:
    """A query as Grafana would send it."""
    return expr.replace("$federation", ".*").replace("$__rate_interval", "5m")


EXPRESSIONS = {
    **{f"{rule.get('alert') or rule['record']}": rule["expr"] for rule in [*rules("alert"), *rules("record")]},
    **{f"{title} {place}": concrete(query.expr) for place, (title, query) in enumerate(queries())},
}


def names_in(expr: str) -> set[str]:
    """Series that an expression names, ours and the client library's."""
    return set(re.findall(r"(?<![\w:\"])(?:\w+:)?(?:fedhft|process)_\w+(?::\w+)?", expr))


def series_of() -> dict[str, set[str]]:
    """Family -> the series that it is made of."""
    found = {}
    for family in (family for collector in EXPOSED_BY for family in collector.collect()):
        ends = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "info": ("_info",)}
        found[family.name] = {family.name + end for end in ends.get(family.type, ("",))}
    return found


SERIES = series_of()
KNOWN = {name for names in SERIES.values() for name in names} | {rule["record"] for rule in rules("record")}


@pytest.mark.parametrize("name", sorted(EXPRESSIONS))
def test_an_expression_names_only_series_that_exist(name: str) -> None:
    named = names_in(EXPRESSIONS[name])
    assert named
    assert named <= KNOWN


@pytest.mark.parametrize(
    "expr", ["fedhft_round_total > 0", "sum(rate(fedhft_rpc_seconds[5m]))", "federation:fedhft_nothing:ratio15m"]
)
def test_a_series_that_does_not_exist_is_found(expr: str) -> None:
    assert not names_in(expr) <= KNOWN


@pytest.mark.parametrize("name", sorted(EXPRESSIONS))
def test_an_expression_is_promql(name: str) -> None:
    parser = pytest.importorskip("promql_parser", reason="it is in the extra `deploy`: run make test-deploy")
    parser.parse(EXPRESSIONS[name])


def test_every_series_has_a_panel_or_a_reason_not_to_have_one() -> None:
    shown = {name for _, query in queries() for name in names_in(query.expr)}
    recorded = {rule["record"]: names_in(rule["expr"]) for rule in rules("record")}
    assert recorded.keys() <= shown, "recording rules that no panel shows"
    shown |= {name for record in recorded.keys() & shown for name in recorded[record]}
    bare = [family for family, names in SERIES.items() if not names & shown]
    assert [family for family in bare if not any(family.startswith(start) for start in WITHOUT_PANEL)] == []
    assert all(any(family.startswith(start) for family in bare) for start in WITHOUT_PANEL), "a reason for nothing"


def test_every_alert_says_what_it_means_and_has_a_section_in_the_runbook() -> None:
    sections = anchors(RUNBOOK)
    for rule in rules("alert"):
        assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}, rule["alert"]
        assert rule["labels"]["severity"] in ("critical", "warning")
        page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert (ROOT / page, anchor) == (RUNBOOK, rule["alert"].lower())
        assert anchor in sections
    assert sections - {rule["alert"].lower() for rule in rules("alert")} == {"runbook-alerts"}


def test_every_alert_has_a_test_that_it_fires_and_one_that_it_does_not() -> None:
    files = (DEPLOY / "prometheus").glob("rules_test_*.yaml")
    cases = [case for path in files for case in yaml.safe_load(path.read_text(encoding="utf-8"))["tests"]]
    fires: dict[str, set[bool]] = {}
    for case in cases:
        for check in case.get("alert_rule_test", ()):
            fires.setdefault(check["alertname"], set()).add(bool(check["exp_alerts"]))
    assert fires == {rule["alert"]: {True, False} for rule in rules("alert")}
    recorded = {check["expr"] for case in cases for check in case.get("promql_expr_test", ())}
    assert recorded == {rule["record"] for rule in rules("record")}


def test_the_rule_object_of_kubernetes_has_the_same_rules() -> None:
    assert rule_generator.TARGET.read_text(encoding="utf-8") == rule_generator.text(), "run make monitoring"
    (rule,) = of_kind(render("prod"), "PrometheusRule")
    assert rule["spec"] == RULES


def test_every_dashboard_becomes_a_config_map_that_the_sidecar_finds() -> None:
    maps = {
        name: text
        for each in of_kind(render("prod"), "ConfigMap")
        if each["metadata"].get("labels", {}).get("grafana_dashboard") == "1"
        for name, text in each["data"].items()
    }
    files = {path.name: path.read_text(encoding="utf-8") for path in (DEPLOY / "grafana").glob("*.json")}
    assert {name: json.loads(text) for name, text in maps.items()} == {n: json.loads(t) for n, t in files.items()}
    assert len(files) == len(DASHBOARDS) == 4


def test_dashboards_are_fresh() -> None:
    pytest.importorskip("grafana_foundation_sdk", reason="it is in the extra `deploy`: run make test-deploy")
    from deploy.grafana import generate

    assert generate.stale() == [], "run make monitoring"


def test_dashboards_have_the_queries_of_their_panels() -> None:
    """Also where the generator is not installed."""
    written = {
        target["expr"]
        for path in (DEPLOY / "grafana").glob("*.json")
        for panel in json.loads(path.read_text(encoding="utf-8"))["panels"]
        for target in panel.get("targets", ())
    }
    assert written == {query.expr for _, query in queries()}


def test_the_document_says_how_long_series_of_ended_jobs_stay() -> None:
    text = " ".join((ROOT / "docs/metrics.md").read_text(encoding="utf-8").split())
    assert f"go after {federations.KEPT_S / 60:g} minutes" in text
    assert f"at once for more than {federations.MOST_ENDED} of them" in text
