"""Series, recording rules and alerts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from generated_pages.tables import cell, table

ROOT = Path(__file__).resolve().parent.parent.parent


def metrics() -> str:
    """Every series: name, type, labels, who exposes it, meaning."""
    from fedhft.telemetry import metrics as defined
    from fedhft.telemetry.registry import EXPOSED_BY

    rows = []
    for metric, by in EXPOSED_BY.items():
        if any(metric is value for value in vars(defined).values()):
            family = next(iter(metric.collect()))
            labels = getattr(metric, "_labelnames", None) or _LABELS.get(family.name, ())
            name = {"counter": f"{family.name}_total", "info": f"{family.name}_info"}.get(family.type, family.name)
            rows.append((f"`{name}` ({family.type})", ", ".join(labels), ", ".join(by), cell(family.documentation)))
    return table(("series", "labels", "exposed by", "meaning"), sorted(rows))


_LABELS: Mapping[str, Sequence[str]] = {
    "fedhft_socket_bytes": ("direction",),
    "fedhft_agent_socket_bytes": ("direction",),
    "fedhft_build": ("version", "protocol"),
}
"""Labels of the families that are made when the page is read."""


def recording_rules() -> str:
    """What rules.yaml records."""
    text = (ROOT / "deploy/prometheus/rules.yaml").read_text(encoding="utf-8")
    about = dict(re.findall(r"- record: (\S+)\n +# (.*)\n", text))
    rows = [(f"`{name}`", meaning) for name, meaning in about.items()]
    if len(rows) != text.count("- record:"):
        raise ValueError("rules.yaml: a recording rule has no comment below its name")
    return table(("series", "meaning"), rows)


def alerts() -> str:
    """The alerts of rules.yaml, with their pages of the runbook."""
    import yaml

    groups = yaml.safe_load((ROOT / "deploy/prometheus/rules.yaml").read_text(encoding="utf-8"))["groups"]
    rows = []
    for rule in (rule for group in groups for rule in group["rules"] if "alert" in rule):
        name, told = rule["alert"], re.sub(r"\{\{.*?\}\}", "…", rule["annotations"]["summary"])
        rows.append((f"[{name}](runbook-alerts.md#{name.lower()})", rule["labels"]["severity"], cell(told)))
    return table(("alert", "severity", "says"), rows)
